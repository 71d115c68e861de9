"""Both stages of global and local contrast on the command line, and a segmentation that starts from what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import pytest

from medssl.cli import main
from medssl.synth.volumes import write_volumes

SHORT = ["--trainer.max-steps", "2", "--trainer.workers", "0", "--trainer.progress", "false"]
LABELS = ["--task", "segmentation", "--target", "labels"]


def medssl(*arguments: str | Path) -> None:
    """Run one command and insist that it succeeds."""
    assert main([str(a) for a in arguments]) == 0, arguments


def test_encoder_then_decoder_then_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "pseudonym.key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    monkeypatch.setenv("MEDSSL_PSEUDONYM_KEY", str(key))
    raw = write_volumes(tmp_path / "raw", patients=7, seed=1, shape=(12, 32, 32))
    cohort, first, second, run = (tmp_path / name for name in ("cohort", "first", "second", "run"))

    medssl("prepare", "msd", raw, cohort, "--options", "modality=ct", "--workers", "0")
    medssl("cohort", "split", cohort, "--test", "2")
    medssl("pretrain", "--config", "global_local_contrast_mri_laptop", "--cohort", cohort, "--out", first, *SHORT)
    medssl(
        "pretrain", "--config", "global_local_contrast_decoder_mri_laptop", "--cohort", cohort, "--out", second,
        "--init-from", first, *SHORT,
    )  # fmt: skip
    assert (first / "encoder" / "encoder.safetensors").read_bytes() == (
        second / "encoder" / "encoder.safetensors"
    ).read_bytes()
    medssl(
        "finetune", "--cohort", cohort, *LABELS, "--encoder", second, "--budget", "2", "--out", run,
        "--settings.max-steps", "2", "--settings.batch-size", "2", "--settings.size", "[4, 32, 32]",
        "--settings.progress", "false",
    )  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert summary["architecture"] == "SliceWise"
    assert summary["decoder"]["loaded"] > summary["decoder"]["fresh"] > 0

    image = sorted((raw / "imagesTr").glob("*.nii.gz"))[0]
    medssl("predict", run, image, tmp_path / "masks")
    (mask,) = (tmp_path / "masks").glob("**/*.nii.gz")
    assert nibabel.load(mask).shape == nibabel.load(image).shape
