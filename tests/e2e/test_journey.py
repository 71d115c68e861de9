"""The whole journey on the command line, from raw files to a report and to predictions for new files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.synth.ecg import write_ecg
from medssl.synth.volumes import write_volumes

TINY_VOLUMES = ["{class_path: ResEnc, init_args: {features: [4, 8], blocks: [1, 1], strides: [1, 2]}}"]
PRETRAIN = """
method:
  class_path: {method}
  init_args:
    encoder: {encoder}
{rest}
trainer: {{max_steps: 2, batch_size: 2, workers: 0, log_every: 1, progress: false}}
"""
STUDY = """
settings: {{max_steps: 2, batch_size: 2, progress: false, {size}}}
"""


def medssl(*arguments: str | Path) -> None:
    """Run one command and insist that it succeeds."""
    assert main([str(a) for a in arguments]) == 0, arguments


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pseudonym key of this test alone, so that the real one is never touched."""
    file = tmp_path / "pseudonym.key"
    file.write_text("0123456789abcdef" * 4)
    file.chmod(0o600)
    monkeypatch.setenv("MEDSSL_PSEUDONYM_KEY", str(file))


def test_volumes_from_raw_files_to_masks(tmp_path: Path) -> None:
    raw = write_volumes(tmp_path / "raw", patients=8, seed=1, shape=(16, 24, 24))
    cohort, run, study = tmp_path / "cohort", tmp_path / "run", tmp_path / "study"
    config, settings = tmp_path / "pretrain.yaml", tmp_path / "study.yaml"
    rest = "    crop: [8, 8, 8]\n    grid: [1, 2, 2]\n    projector: [8, 8]"
    config.write_text(PRETRAIN.format(method="VoCo", encoder=TINY_VOLUMES[0], rest=rest))
    settings.write_text(STUDY.format(size="size: [16, 16, 16]"))

    medssl("prepare", "msd", raw, cohort, "--options", "modality=ct", "--workers", "0")
    medssl("cohort", "verify", cohort)
    medssl("cohort", "info", cohort)
    medssl("cohort", "split", cohort, "--test", "3")
    medssl("pretrain", "--config", config, "--cohort", cohort, "--out", run)
    medssl("resume", run, "--max-steps", "3")
    assert json.loads((run / "summary.json").read_text())["steps"] == 3
    medssl(
        "evaluate", "--config", settings, "--cohort", cohort, "--task", "segmentation", "--target", "labels",
        "--encoders", f"voco={run}", "scratch=none", "--budgets", "2", "all", "--repeats", "1", "--out", study,
    )  # fmt: skip
    medssl("report", study)

    table = pd.read_parquet(study / "results.parquet")
    assert {"voco", "scratch"} <= set(table["encoder"])
    assert table.loc[table["metric"] == "dice", "patient"].nunique() == 3
    page = (study / "report.html").read_text(encoding="utf-8")
    assert "<img" in page or "<svg" in page

    image = sorted((raw / "imagesTr").glob("*.nii.gz"))[0]
    model = next((study / "cells" / "voco" / "all").iterdir())
    medssl("predict", model, image, tmp_path / "masks")
    (mask,) = (tmp_path / "masks").glob("**/*.nii.gz")
    source, predicted = nibabel.load(image), nibabel.load(mask)
    assert predicted.shape == source.shape
    np.testing.assert_allclose(predicted.affine, source.affine, atol=1e-5)


def test_signals_from_raw_files_to_a_table(tmp_path: Path) -> None:
    raw = write_ecg(tmp_path / "raw", patients=8, seed=1, seconds=12, rate_hz=250)
    cohort, run, out = tmp_path / "cohort", tmp_path / "run", tmp_path / "finetuned"
    config = tmp_path / "pretrain.yaml"
    encoder = "{class_path: ResNet1d, init_args: {widths: [4, 8], blocks: 1, kernel: 3}}"
    rest = "    views: {class_path: SignalViews, init_args: {size: [256]}}\n    projector: [8, 8]"
    config.write_text(PRETRAIN.format(method="Contrastive", encoder=encoder, rest=rest))

    medssl("prepare", "mitbih", raw, cohort, "--workers", "0")
    medssl("cohort", "split", cohort, "--test", "3")
    medssl("pretrain", "--config", config, "--cohort", cohort, "--out", run)
    medssl(
        "finetune", "--cohort", cohort, "--task", "classification", "--target", "aami:N,S,V", "--encoder", run,
        "--out", out, "--settings.window-s", "1", "--settings.max-steps", "2", "--settings.batch-size", "4",
    )  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert {"macro_f1", "auroc"} <= set(summary["metrics"])
    assert len(summary["split_hash"]) == 64

    medssl("predict", out, raw, tmp_path / "table")
    with (tmp_path / "table" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(abs(sum(float(v) for k, v in row.items() if k.startswith("p/")) - 1) < 1e-3 for row in rows)


def test_an_unfinished_study_continues(tmp_path: Path) -> None:
    raw = write_volumes(tmp_path / "raw", patients=6, seed=2, shape=(16, 16, 16))
    cohort, study, settings = tmp_path / "cohort", tmp_path / "study", tmp_path / "study.yaml"
    settings.write_text(STUDY.format(size="size: [16, 16, 16]") + f"architecture: {TINY_VOLUMES[0]}\n")
    medssl("prepare", "msd", raw, cohort, "--options", "modality=ct", "--workers", "0")
    medssl("cohort", "split", cohort, "--test", "2")
    command = [
        "evaluate", "--config", settings, "--cohort", cohort, "--task", "segmentation", "--target", "labels",
        "--encoders", "scratch=none", "--budgets", "2", "--repeats", "1", "--out", study,
    ]  # fmt: skip
    medssl(*command)
    done = next((study / "cells" / "scratch" / "2").iterdir()) / "summary.json"
    first = done.stat().st_mtime_ns
    medssl(*command[:-5], "2", "all", *command[-4:])
    assert done.stat().st_mtime_ns == first
    assert set(pd.read_parquet(study / "results.parquet")["budget"].astype(str)) == {"2", "all"}
