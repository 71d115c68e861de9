"""The guard against broken gradients, and the random states that a checkpoint carries."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medssl.errors import TrainingError
from medssl.training.callbacks import GradientGuard, rng_state, set_rng_state


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
