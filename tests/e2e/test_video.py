"""From clips of an ultrasound machine to a model of the ejection fraction, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.cohort import Cohort
from medssl.splits import Split
from medssl.synth.echo import draw_echo_patient, simulate_echo
from medssl.synth.echo_files import write_echonet
from medssl.training.targets import resolve_target

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


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Raw files and a cohort of small frames, so that a network learns in seconds."""
    folder = tmp_path_factory.mktemp("small")
    raw = write_echonet(folder / "raw", patients=8, seed=5, frames=24)
    words = ["--workers", "0", "--keep-ids", "--preparation", "size=32"]
    assert main(["prepare", "echonet_dynamic", str(raw), str(folder / "cohort"), *words]) == 0
    assert main(["cohort", "split", str(folder / "cohort"), "--test-where", "split=test"]) == 0
    return raw, folder / "cohort"


def segment(cohort: Path, *, steps: int, target: str = "lv") -> list[str]:
    return [
        "--cohort", str(cohort), "--task", "segmentation", "--target", target, "--settings.max-steps", str(steps),
        "--settings.batch-size", "4", "--settings.size", "8", "32", "32", "--settings.progress", "false",
        "--settings.precision", "32-true", "--settings.optim.lr", "0.005", "--settings.augment", "false",
        "--architecture", "ResEnc", "--architecture.features", "[12, 16, 32]", "--architecture.blocks", "[1, 1, 1]",
        "--architecture.strides", "[1, [1, 2, 2], 2]",
    ]  # fmt: skip


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero((a > 0) & (b > 0)) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def segmenter(small: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmenter") / "run"
    assert main(["finetune", *segment(small[1], steps=40), "--encoder", "none", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_a_ventricle_is_segmented_better_than_a_wrong_alignment_of_mask_and_frame_could(
    small: tuple[Path, Path], segmenter: Path
) -> None:
    cohort = Cohort(small[1])
    target = resolve_target(cohort, "segmentation", "lv")
    swapped = []  # a perfect mask, of the other traced frame of the same clip
    for item in target.items_of(Split.load(small[1], "default").test):
        mask = cohort.reader(int(target.rows[item])).read_all("mask:lv")[0]
        swapped.append(dice(*(mask[trace.frame] for trace in target.traces[item])))
    metrics = json.loads((segmenter / "summary.json").read_text())["metrics"]
    assert metrics["dice"] > np.mean(swapped) + 0.05
    assert min(metrics["dice_pooled_ed"], metrics["dice_pooled_es"]) > np.mean(swapped)
    assert metrics["dice"] == pytest.approx((metrics["dice_ed"] + metrics["dice_es"]) / 2)
    assert "hd95_mm" not in metrics  # AVI says nothing of millimetres


@pytest.mark.slow
def test_raw_clips_get_a_mask_and_an_area_in_every_frame(
    small: tuple[Path, Path], segmenter: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    video = sorted((small[0] / "Videos").iterdir())[3]  # of a test patient
    (raw / video.name).write_bytes(video.read_bytes())
    assert main(["predict", str(segmenter), str(raw), str(tmp_path / "out")]) == 0
    mask = np.asarray(nibabel.load(tmp_path / "out" / f"{video.stem}.nii.gz").dataobj).transpose(2, 1, 0)
    rng = np.random.default_rng([5, 3])
    echo = simulate_echo(rng, draw_echo_patient(rng), frames=24, burnt_in=False)
    assert mask.shape == echo.lv.shape == (24, 112, 112)
    own = np.mean([dice(m, lv) for m, lv in zip(mask, echo.lv, strict=True)])
    far = np.mean([dice(m, lv) for m, lv in zip(mask, np.roll(echo.lv, 12, axis=0), strict=True)])
    assert own > 0.85 and own > far
    frames = pd.read_csv(tmp_path / "out" / "frames.csv")
    area = frames["area_px/left ventricle"].to_numpy()
    assert area.tolist() == [np.count_nonzero(m) for m in mask]
    assert frames["time_s"].iloc[-1] == pytest.approx(23 / 50)
    assert pd.read_csv(tmp_path / "out" / "masks.csv")["frames"].tolist() == [24]


def test_masks_of_video_are_not_written_as_dicom_seg(
    segmenter: Path, small: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(segmenter), str(small[0] / "Videos"), str(tmp_path / "out"), "--format", "dicom-seg"]
    assert main(["predict", *words]) == 2
    assert "written as NIfTI" in capsys.readouterr().err


def test_a_study_of_segmentation_shows_the_annotated_frames(small: tuple[Path, Path], tmp_path: Path) -> None:
    study = tmp_path / "study"
    words = [*segment(small[1], steps=2), "--encoders", "scratch=none", "--budgets", "4", "--repeats", "1"]
    assert main(["evaluate", *words, "--out", str(study)]) == 0
    summary = json.loads((study / "summary.json").read_text())
    found = {(r["metric"], r["class"]) for r in summary["results"]}
    assert {("dice", ""), ("dice_ed", "1"), ("dice_pooled_es", "1")} <= found and not summary["failed"]
    assert main(["report", str(study)]) == 0
    assert "annotated frame 1 of 2 (frame " in (study / "report.html").read_text()


def test_an_unknown_mask_is_refused_with_the_known_ones(
    small: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*segment(small[1], steps=1, target="la"), "--encoder", "none", "--out", str(tmp_path / "s")]
    assert main(["finetune", *words]) == 2
    assert "no segmentation target 'la'; it has: lv" in capsys.readouterr().err


@pytest.mark.slow
def test_all_clips_of_a_video_are_tested_and_a_raw_file_gets_the_same_answer(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    words = segment(small[1], steps=2, target="ef")
    words[words.index("segmentation")] = "regression"
    echonet = ["--settings.clip-period", "2", "--settings.test-clips", "all", "--encoder", "none"]
    assert main(["finetune", *words, *echonet, "--out", str(tmp_path / "run")]) == 0
    assert "all clips" in json.loads((tmp_path / "run" / "summary.json").read_text())["aggregation"]
    tested = pd.read_parquet(tmp_path / "run" / "predictions.parquet").set_index("recording")["y_pred"]
    assert main(["predict", str(tmp_path / "run"), str(small[0] / "Videos"), str(tmp_path / "out")]) == 0
    answers = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("recording")
    assert set(answers["windows"]) == {24 - 7 * 2}  # starts that leave room for 8 frames, 2 apart
    np.testing.assert_allclose(answers["prediction"].loc[tested.index], tested, rtol=1e-4)
