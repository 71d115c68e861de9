"""The guard against broken gradients, and the random states that a checkpoint carries."""

from __future__ import annotations

import gc
import random
import signal
import weakref
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch

from medssl.errors import TrainingError
from medssl.training.callbacks import GradientGuard, PoliteStop, rng_state, set_rng_state


def trainer() -> SimpleNamespace:
    return SimpleNamespace(world_size=1, global_step=7, precision_plugin=SimpleNamespace())


def step(guard: GradientGuard, gradient: float) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.full((2, 2), gradient)
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    guard.on_before_optimizer_step(trainer(), None, optimizer)  # type: ignore[arg-type]
    optimizer.step()
    return weight


def test_a_step_with_a_broken_gradient_changes_nothing() -> None:
    guard = GradientGuard(clip=1.0, max_bad_share=0.5)
    for bad in (float("nan"), float("inf")):
        assert torch.equal(step(guard, bad), torch.ones(2, 2))  # not even by weight decay
    assert guard.skipped == 2


def test_gradients_are_clipped_to_the_norm() -> None:
    guard = GradientGuard(clip=1.0, max_bad_share=0.5)
    weight = step(guard, 10.0)
    assert guard.norm == pytest.approx(20.0)
    assert weight.grad is not None
    assert weight.grad.norm() == pytest.approx(1.0, abs=1e-4)
    assert guard.skipped == 0


def test_frequent_broken_gradients_stop_the_run_with_advice() -> None:
    guard = GradientGuard(clip=1.0, max_bad_share=0.05)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        for _ in range(7):
            step(guard, float("nan"))
    assert guard.skipped == 6


def test_counts_survive_a_checkpoint() -> None:
    guard, restored = (GradientGuard(clip=1.0, max_bad_share=0.05) for _ in range(2))
    step(guard, float("nan"))
    restored.load_state_dict(guard.state_dict())
    assert restored.skipped == 1


def test_random_states_come_back_from_plain_values() -> None:
    state = rng_state()
    drawn = (random.random(), np.random.rand(), torch.rand(1))
    set_rng_state(state)
    again = (random.random(), np.random.rand(), torch.rand(1))
    assert drawn == again


class OneWeight(lightning.LightningModule):
    """The least that can be fitted; it can fail on the way."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.weight, self.fails = torch.nn.Parameter(torch.ones(1)), fails

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.fails:
            raise TrainingError("on purpose")
        return (self.weight * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("fails", [False, True])
def test_signals_are_given_back_and_no_trainer_outlives_its_fit(tmp_path: Path, fails: bool) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    fit = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[PoliteStop()],
    )  # fmt: skip
    outlives, data = weakref.ref(fit), torch.utils.data.DataLoader([torch.ones(1)] * 4)
    if fails:
        with pytest.raises(TrainingError, match="on purpose"):
            fit.fit(OneWeight(fails=True), data)
    else:
        fit.fit(OneWeight(), data)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    del fit
    gc.collect()
    assert outlives() is None, "a study of hundreds of models would keep them all"
