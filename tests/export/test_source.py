"""What is loaded of a run, and which folders are no run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import CheckpointError
from medssl.export.source import open_run
from medssl.heads.classification import ClassificationHead


def test_a_fine_tuned_run_gives_its_model_and_its_encoder_when_asked(classifier_run: Path) -> None:
    whole, part = open_run(classifier_run), open_run(classifier_run, "encoder")
    assert isinstance(whole.network, ClassificationHead) and whole.part == "model"
    assert isinstance(part.network, ResNet1d) and part.part == "encoder"
    assert not whole.network.training and not part.network.training
    assert whole.sha256() == hashlib.sha256((classifier_run / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_a_pre_training_run_has_no_model(encoder_run: Callable[..., Path]) -> None:
    run = encoder_run(ResNet1d(in_channels=2, widths=(4, 8)), 2, (64,))
    assert open_run(run).part == "encoder"
    with pytest.raises(CheckpointError, match="holds no fine-tuned model"):
        open_run(run, "model")


def test_a_copied_folder_without_the_files_of_a_run_passes(classifier_run: Path) -> None:
    assert open_run(classifier_run / "model").part == "model"


def test_a_run_that_never_came_to_a_summary_is_unfinished(classifier_run: Path) -> None:
    (classifier_run / "summary.json").unlink()
    with pytest.raises(CheckpointError, match=r"not finished \(no summary.json\); run its command again"):
        open_run(classifier_run)


def test_a_damaged_summary_is_named(classifier_run: Path) -> None:
    (classifier_run / "summary.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"summary.json' is damaged"):
        open_run(classifier_run)
