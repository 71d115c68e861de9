"""M3Ret: one encoder of volumes and video, by masked autoencoding and then SimDINO; resumed like any other run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medssl.cli import main
from medssl.encoders.base import load_encoder
from medssl.synth.echo_files import write_echonet
from medssl.synth.volumes import write_volumes

SHORT = ["--trainer.batch-size", "4", "--trainer.workers", "0", "--trainer.progress", "false"]
TINY = ["--method.encoder.width", "24", "--method.encoder.depth", "1", "--method.encoder.heads", "2"]


def medssl(*arguments: str | Path) -> None:
    """Run one command and insist that it succeeds."""
    assert main([str(a) for a in arguments]) == 0, arguments


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Volumes and clips."""
    folder = tmp_path_factory.mktemp("kinds")
    volumes = write_volumes(folder / "volumes", patients=5, seed=1, shape=(12, 32, 32))
    echo = write_echonet(folder / "echo", patients=6, seed=1, frames=20)
    with pytest.MonkeyPatch.context() as patch:
        key = folder / "pseudonym.key"
        key.write_text("0123456789abcdef" * 4)
        key.chmod(0o600)
        patch.setenv("MEDSSL_PSEUDONYM_KEY", str(key))
        medssl("prepare", "msd", volumes, folder / "volume", "--options", "modality=ct", "--workers", "0")
        medssl("prepare", "echonet_dynamic", echo, folder / "video", "--workers", "0")
    medssl("cohort", "split", folder / "video", "--test-where", "split=test")
    return folder / "volume", folder / "video"


def test_two_stages_then_either_kind(cohorts: tuple[Path, Path], tmp_path: Path) -> None:
    volumes, clips = cohorts
    first, second, study = (tmp_path / name for name in ("mae", "dino", "study"))
    medssl(
        "pretrain", "--config", "m3ret_masked_autoencoder_laptop", "--cohort", volumes, clips, "--out", first, *TINY,
        "--trainer.max-steps", "3", *SHORT,
    )  # fmt: skip
    medssl(
        "pretrain", "--config", "m3ret_sim_dino_laptop", "--cohort", volumes, clips, "--init-from", first, "--out",
        second, *TINY, "--trainer.max-steps", "2", *SHORT,
    )  # fmt: skip
    _, inputs = load_encoder(second)
    assert [inputs.kind, *(other.kind for other in inputs.others)] == ["volume", "video"]
    known = json.loads((second / "encoder" / "encoder.json").read_text())["provenance"]["patients"]
    assert len(known) == 2, "patients of both cohorts are remembered"
    medssl(
        "evaluate", "--cohort", clips, "--task", "regression", "--target", "ef", "--encoders", f"m3ret={second}",
        "scratch=none", "--budgets", "all", "--repeats", "1", "--protocol", "linear", "--out", study,
        "--settings.max-steps", "2", "--settings.workers", "0", "--settings.progress", "false", "--settings.size",
        "[16, 80, 80]",
    )  # fmt: skip
    assert not json.loads((study / "summary.json").read_text())["failed"]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_same_kinds_in_the_same_order(
    cohorts: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ["pretrain", "--config", "m3ret_masked_autoencoder_laptop", "--cohort", *cohorts, *TINY, *SHORT]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steady = ["--method.optim.schedule", "constant", "--method.optim.warmup", "0"]
    medssl(*words, "--out", whole, "--trainer.max-steps", "4", *steady)
    medssl(*words, "--out", parts, "--trainer.max-steps", "2", *steady)
    medssl("resume", parts, "--max-steps", "4")
    one, other = (load_encoder(run)[0].state_dict() for run in (whole, parts))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_other_views_refuse_cohorts_of_two_kinds(
    cohorts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "pretrain",
        "--config",
        "masked_autoencoder_echo_laptop",
        "--cohort",
        *cohorts[::-1],
        "--out",
        tmp_path / "run",
    ]
    assert main([str(w) for w in words]) == 2
    error = capsys.readouterr().err
    assert "differ in kind" in error and "ViewsByKind" in error
