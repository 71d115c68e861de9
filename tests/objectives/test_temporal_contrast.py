"""Temporal contrasting against a plain loop, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.objectives.temporal_contrast import temporal_contrast


def by_loops(predictions: Tensor, future: Tensor, group: list[int]) -> Tensor:
    """The equation of the paper, term by term."""
    n, steps, _ = predictions.shape
    losses = []
    for i in range(n):
        terms = []
        for k in range(steps):
            others = [j for j in range(n) if j == i or group[j] != group[i]]
            total = sum(torch.exp(predictions[i, k] @ future[j, k]) for j in others)
            terms.append(-torch.log(torch.exp(predictions[i, k] @ future[i, k]) / total))
        losses.append(sum(terms) / steps)
    return torch.stack(losses)  # type: ignore[arg-type]


def data() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    made = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=random)
    return made[0].requires_grad_(), made[1].requires_grad_()


@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1]])
def test_equals_a_loop_in_value_and_gradient(group: list[int]) -> None:
    found, wanted = data(), data()
    given = None if len(set(group)) == 5 else torch.tensor(group)
    one, _ = temporal_contrast(*found, group=given)
    other = by_loops(*wanted, group)
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    (one * weights).sum().backward(), (other * weights).sum().backward()
    torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=1e-12)


def test_limits() -> None:
    future = torch.nn.functional.one_hot(torch.arange(4)).float().unsqueeze(1)
    losses, hit = temporal_contrast(100 * future, future)
    assert losses.max() < 1e-6 and hit == 1
    losses, hit = temporal_contrast(100 * future.roll(1, 0), future)
    assert losses.min() > 99 and hit == 0
    losses, _ = temporal_contrast(torch.zeros(4, 1, 4), future)
    torch.testing.assert_close(losses, torch.full((4,), math.log(4)))
    alone, _ = temporal_contrast(100 * future, future, group=torch.zeros(4, dtype=torch.long))
    assert alone.eq(0).all(), "nobody to be told apart from"
    with torch.autocast("cpu", torch.bfloat16):
        assert temporal_contrast(future.bfloat16(), future)[0].dtype == torch.float32
