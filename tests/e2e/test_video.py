"""From clips of an ultrasound machine to a model of the ejection fraction, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medssl.cli import main
from medssl.synth.echo_files import write_echonet

SHORT = ["--settings.max-steps", "2", "--settings.batch-size", "2", "--settings.workers", "0", "--settings.progress",
         "false", "--settings.size", "32", "32", "32"]  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("echo")
    raw = write_echonet(folder / "raw", patients=8, seed=2, frames=20)
    with pytest.MonkeyPatch.context() as patch:
        key = folder / "pseudonym.key"
        key.write_text("0123456789abcdef" * 4)
        key.chmod(0o600)
        patch.setenv("MEDSSL_PSEUDONYM_KEY", str(key))
        assert main(["prepare", "echonet_dynamic", str(raw), str(folder / "cohort"), "--workers", "0"]) == 0
    assert main(["cohort", "split", str(folder / "cohort"), "--test-where", "split=test"]) == 0
    return folder / "cohort"


def test_regression_of_the_ejection_fraction(cohort: Path, tmp_path: Path) -> None:
    words = [
        "finetune",
        "--cohort",
        str(cohort),
        "--task",
        "regression",
        "--target",
        "ef",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main([*words, "--encoder", "none", "--budget", "all", *SHORT]) == 0
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["metrics"]["mae"] > 0


def test_a_study_on_frozen_features(cohort: Path, tmp_path: Path) -> None:
    words = [
        "evaluate",
        "--cohort",
        str(cohort),
        "--task",
        "regression",
        "--target",
        "ef",
        "--encoders",
        "scratch=none",
    ]
    more = ["--budgets", "4", "--repeats", "2", "--protocol", "linear", "--out", str(tmp_path / "study"), *SHORT]
    assert main([*words, *more]) == 0
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert summary["cohort"]["kind"] == "video" and not summary["failed"]
    assert main(["report", str(tmp_path / "study")]) == 0


def test_segmentation_of_video_is_refused_since_most_frames_are_not_annotated(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--cohort", str(cohort), "--task", "segmentation", "--target", "lv", "--encoder", "none"]
    assert main([*words, "--budget", "all", "--out", str(tmp_path / "s"), *SHORT]) == 2
    assert "masks are known in single frames only" in capsys.readouterr().err
