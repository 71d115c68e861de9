"""Runs as training leaves them, written by hand: nothing is trained here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medssl.encoders.base import Encoder, InputSpec, save_encoder
from medssl.encoders.resnet1d import ResNet1d
from medssl.heads.base import Head
from medssl.heads.classification import ClassificationHead
from medssl.training.models import Model, save_model

SIGNALS = {
    "class_path": "medssl.cohort.signals.SignalPreparation",
    "init_args": {"units": "mV", "rate_hz": 100.0, "standardise": "recording", "band_hz": [0.5, 40.0]},
}
VOLUMES = {
    "class_path": "medssl.cohort.volumes.VolumePreparation",
    "init_args": {"spacing_mm": [2.0, 1.0, 1.0], "intensity": "ct", "window": [-175.0, 250.0]},
}
ENVIRONMENT = {
    "versions": {"medssl": "0.1.0", "torch": "2.15.0"}, "device": "x86_64", "git": "abc123+",
    "cohorts": [{"path": "/home/ward7/cohort", "fingerprint": "f" * 64}], "splits": {"default": "5" * 64},
}  # fmt: skip
SUMMARY = {
    "status": "finished", "task": "classification", "target": "rhythm", "level": "recording", "encoder": "none",
    "n_patients": 8, "n_train_patients": 6, "n_validation_patients": 2, "n_test_patients": 5, "n_test_items": 7,
    "split_rule": "test 5", "split_hash": "5" * 64, "metrics": {"macro_f1": 0.8125, "n/a/b": 3.0}, "steps": 40,
    "best_step": 30, "seed": 0, "notes": ["no training item of class b in this budget"],
}  # fmt: skip
TESTING = {
    "size": [64], "overlap": 0.5, "windows": 3, "batch": 4, "precision": "bf16-mixed", "level": "recording",
    "sequence": 0, "spacing_s": 0.0, "decided": 0,
}  # fmt: skip


def inputs_of(channels: int, size: tuple[int, ...]) -> InputSpec:
    names = tuple(f"c{i}" for i in range(channels))
    if len(size) == 1:
        return InputSpec("signal", names, size, rate_hz=100.0, preparation=SIGNALS)
    return InputSpec("volume", names, size, spacing_mm=(2.0, 1.0, 1.0), preparation=VOLUMES)


def spread(network: torch.nn.Module) -> None:
    """Statistics and weights as of a network that has learnt: fresh ones would hide a norm or bias that got lost."""
    generator = torch.Generator().manual_seed(0)
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if value.is_floating_point() and name.rpartition(".")[2] in ("bias", "running_mean", "running_var"):
            with torch.no_grad():
                value.add_(torch.rand(value.shape, generator=generator) * 0.2)


@pytest.fixture
def encoder_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes RUN of a pre-training: an encoder, what it takes, and the three files about it."""

    def write(encoder: Encoder, channels: int, size: tuple[int, ...], **summary: Any) -> Path:
        run = tmp_path / "run"
        spread(encoder)
        method = {
            "class_path": "medssl.methods.contrastive.Contrastive",
            "init_args": {"objective": {"class_path": "medssl.objectives.contrastive.InfoNCE", "init_args": {}}},
        }
        provenance = {"method": method, "step": 40, "seed": 1, "cohorts": ["f" * 64], "patients": {"f" * 64: ["mark7"]}}
        save_encoder(encoder, run / "encoder", inputs_of(channels, size), provenance)
        about = {"status": "finished", "method": "Contrastive", "steps": 40, "n_recordings": 9, "n_patients": 4}
        write_files(run, {**about, **summary}, {"method": method, "cohort": ["/home/ward7/cohort"]})
        return run

    return write


@pytest.fixture
def model_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes RUN of a fine-tuning: a head, what it predicts and how it is applied."""

    def write(
        head: Head, channels: int, size: tuple[int, ...], *, folder: Path | None = None, target: Any = None,
        testing: Any = None,
    ) -> Path:  # fmt: skip
        run = folder or tmp_path / "run"
        spread(head)
        target = {
            "task": "classification", "name": "rhythm", "source": "label", "classes": ["a", "b"], "values": [],
            "multilabel": False, **(target or {}),
        }  # fmt: skip
        testing = {**TESTING, "size": list(size), **(testing or {})}
        provenance = {
            "aggregation": "mean logit of at most 3 windows a recording", "encoder": "none", "recipe": "folder",
            "cohort": "f" * 64, "train_patients": ["Psecret1", "Psecret2"],
        }  # fmt: skip
        save_model(run, Model(head.eval(), inputs_of(channels, size), target, testing, provenance))
        write_files(run, SUMMARY, {"task": target["task"], "cohort": "/home/ward7/cohort", "budget": "8"})
        return run

    return write


def write_files(run: Path, summary: Any, config: Any) -> None:
    for name, value in (("summary.json", summary), ("environment.json", ENVIRONMENT)):
        (run / name).write_text(json.dumps(value))
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def classifier_run(model_run: Callable[..., Path]) -> Path:
    """The smallest model that is real: two leads of 64 samples, two classes."""
    return model_run(ClassificationHead(ResNet1d(in_channels=2, widths=(4, 8)), ("a", "b")), 2, (64,))
