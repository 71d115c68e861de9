"""Stopped and continued is the same as never stopped, for every method that is defined."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from fmri_toys import RunsCase
from lightning.pytorch.callbacks import Callback
from toy_cohorts import make_cohort
from toys import Case, every_case

from medssl.cohort.writer import prepare
from medssl.configurable import discover
from medssl.methods.base import Method
from medssl.synth.fmri_files import write_abide
from medssl.training import pretrain as module
from medssl.training.metrics_log import read_metrics
from medssl.training.pretrain import pretrain, resume
from medssl.training.settings import TrainSettings

METHODS, _ = every_case()
CHANNELS = {"volume": 1, "signal": 2, "video": 1, "runs": 12}


def cohort_of(case: Case) -> str:
    """Which toy cohort a case reads."""
    return "runs" if isinstance(case, RunsCase) else case.kind


CASES = [
    pytest.param(case, id=f"{name}-{variant}")
    for name, variants in METHODS.items()
    for variant, case in variants.items()
    if case.channels == CHANNELS.get(cohort_of(case))  # toy cohorts are of these kinds
]
SETTINGS = TrainSettings(
    max_steps=5, batch_size=4, workers=0, log_every=1, checkpoint_every=2, monitor_every=2, progress=False,
    accelerator="cpu",
)  # fmt: skip


class Interrupt(Callback):
    """The scheduler wants its node back during the third step."""

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: object, batch_idx: int) -> None:
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = tmp_path_factory.mktemp("runs")
    raw = write_abide(runs / "raw", patients=6, regions=CHANNELS["runs"])
    prepare("abide", raw, runs / "cohort", workers=0, keep_ids=True)
    made = {k: make_cohort(tmp_path_factory.mktemp(k), k, patients=6) for k in CHANNELS if k != "runs"}
    return {**made, "runs": runs / "cohort"}


def losses(run: Path) -> list[dict[str, float]]:
    untimed = {"samples_per_s", "data_wait"}
    return [{k: v for k, v in row.items() if k not in untimed} for row in read_metrics(run)]


def checkpoint(run: Path) -> dict[str, object]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_every_method_is_tried() -> None:
    assert {type(METHODS[name][v].make()).__name__ for name in METHODS for v in METHODS[name]} >= set(
        discover("medssl.methods", Method)
    )


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(
    case: Case, cohorts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pretrain(method=case.make(), cohort=[cohorts[cohort_of(case)]], out=whole, trainer=SETTINGS)
    real = module.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_trainer", lambda run, calls, **o: real(run, [Interrupt(), *calls], **o))
        with pytest.raises(SystemExit):
            pretrain(method=case.make(), cohort=[cohorts[cohort_of(case)]], out=stopped, trainer=SETTINGS)
    assert json.loads((stopped / "summary.json").read_text())["steps"] == 3
    resume(run=stopped)
    assert losses(stopped) == losses(whole)
    assert len(losses(whole)) == 5
    a, b = checkpoint(whole), checkpoint(stopped)
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    assert str(a["optimizer_states"]) == str(b["optimizer_states"])
    assert a["lr_schedulers"] == b["lr_schedulers"]
