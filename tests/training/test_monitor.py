"""Collapse is told in plain words; healthy embeddings raise no alarm."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medssl.errors import TrainingError
from medssl.training.monitor import Alarms, CollapseMonitor, CollapseWarning, alarm, measures

N, D = 256, 32


def said(z: torch.Tensor, earlier: list[float] | None = None) -> str:
    return alarm(measures(z), earlier or [], rows=len(z), dimension=z.shape[1]) or ""


def test_healthy_embeddings_are_left_alone() -> None:
    assert said(torch.randn(N, D, generator=torch.Generator().manual_seed(0))) == ""


def test_one_embedding_for_everybody_is_complete_collapse() -> None:
    z = torch.ones(N, D) + 1e-4 * torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    assert "same embedding for every recording" in said(z)


def test_few_directions_are_dimensional_collapse() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, 1, generator=generator) @ torch.randn(1, D, generator=generator)
    assert "1.0 of 32 possible directions" in said(z)


def test_a_sudden_loss_of_directions_is_noticed() -> None:
    z = torch.randn(N, 8, generator=torch.Generator().manual_seed(0)) @ torch.eye(8, D)
    assert "lost half of their directions" in said(z, [25.0, 24.0, 26.0])


def test_one_dominant_direction_is_noticed() -> None:
    z = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    z[:, 0] *= 12
    assert "one direction carries" in said(z)


def test_recordings_that_crowd_together_are_noticed() -> None:
    now = {"rankme": 20.0, "embedding_std": 0.1, "top1_share": 0.2}
    assert alarm(now, [], rows=N, dimension=D) is None
    assert "crowd together" in (alarm({**now, "uniformity": -0.3}, [], rows=N, dimension=D) or "")
    assert alarm({**now, "uniformity": -2.0}, [], rows=N, dimension=D) is None


def fit_at(step: int, **more: Any) -> Any:
    return SimpleNamespace(**{"global_step": step, "is_global_zero": True, "world_size": 1, **more})


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(warm_up=10, fail=True)


def hear(alarms: Alarms, *problems: str | None, start: int = 11) -> None:
    for step, problem in enumerate(problems, start):
        alarms.hear(fit_at(step), problem)


@pytest.mark.filterwarnings("ignore::medssl.training.monitor.CollapseWarning")
def test_three_alarms_in_a_row_end_a_run_that_asked_for_it(alarms: Alarms) -> None:
    hear(alarms, "flat", "flat", None, "flat", "flat")
    with pytest.raises(TrainingError, match=r"at 3 looks in a row \(step 16: flat\).*--trainer.fail-on-collapse false"):
        hear(alarms, "flat", start=16)
    patient = Alarms(warm_up=10)
    hear(patient, *["flat"] * 9)
    assert len(patient.said) == 9


def test_the_first_alarm_is_warned_of_and_none_comes_during_warm_up(alarms: Alarms) -> None:
    hear(alarms, "flat", "flat", "flat", "flat", start=1)
    with pytest.warns(CollapseWarning, match="step 11: flat"):
        hear(alarms, "flat")
    hear(alarms, "flat", start=12)  # a second warning would be an error here
    assert alarms.said == ["step 11: flat", "step 12: flat"]


@pytest.mark.filterwarnings("ignore::medssl.training.monitor.CollapseWarning")
def test_a_row_of_alarms_is_counted_on_after_a_stop(alarms: Alarms) -> None:
    hear(alarms, "flat", "flat")
    resumed = Alarms(warm_up=10, fail=True)
    resumed.restore(alarms.state())
    with pytest.raises(TrainingError, match="3 looks in a row"):
        hear(resumed, "flat", start=13)


@pytest.mark.filterwarnings("ignore::medssl.training.monitor.CollapseWarning")
def test_processes_end_together(alarms: Alarms) -> None:
    """A process that saw nothing ends when another one has to, and all are asked at every look."""
    asked: list[bool] = []

    def reduce(mine: bool, *, all: bool) -> bool:
        asked.append(mine)
        return len(asked) == 2

    together = SimpleNamespace(reduce_boolean_decision=reduce)
    alarms.hear(fit_at(11, world_size=2, strategy=together), None)
    with pytest.raises(TrainingError, match="seen by another process"):
        alarms.hear(fit_at(12, world_size=2, strategy=together), None)
    assert asked == [False, False]


@pytest.mark.parametrize("collapses", [True, False])
def test_methods_that_cannot_collapse_raise_no_alarm(collapses: bool) -> None:
    """Reconstruction tells the input itself, so pooled features that hardly differ are no sign of trouble."""
    logged: list[dict[str, float]] = []
    log: Any = SimpleNamespace(add=lambda trainer, step, values: logged.append(values))
    monitor = CollapseMonitor(log, every=100)
    trainer = fit_at(100, accumulate_grad_batches=1, num_training_batches=1000)
    with pytest.warns(CollapseWarning) if collapses else contextlib.nullcontext():
        method: Any = SimpleNamespace(collapses=collapses)
        monitor.on_train_batch_end(trainer, method, {"embeddings": torch.ones(N, D)}, None, 99)
    assert logged and bool(monitor.alarms) == collapses
