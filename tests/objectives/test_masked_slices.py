"""Masked slices: how many and which are hidden, that the others stay as they are, and the loss as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.objectives.joint_image_volume import draw_masked_slices, hide_slices, masked_slice_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(predicted: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    losses = []
    for p, t, m in zip(predicted, target, masked, strict=True):
        for i in range(len(p)):
            if m[i]:
                centred = t[i] - t[i].mean()
                wanted = (centred / (centred.square().mean() + 1e-5).sqrt()).detach()
                losses.append((p[i] - wanted).square().mean())
    return torch.stack(losses).mean()


def test_equals_the_loops_in_value_and_gradient() -> None:
    masked = torch.tensor([[True, False, True], [False, True, False]])
    fast, slow = random(2, 3, 5).requires_grad_(), random(2, 3, 5).requires_grad_()
    target = random(2, 3, 5, seed=1).requires_grad_()
    loss, wanted = masked_slice_loss(fast, target, masked), reference(slow, target, masked)
    loss.backward(), wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, rtol=0, atol=1e-12)
    assert target.grad is None, "targets get no gradient"


def test_loss_as_released_is_the_mean_over_everything_over_the_number_hidden() -> None:
    predicted, target = random(2, 10, 4), random(2, 10, 4, seed=1)
    total = sum(float((a - b) ** 2) for a, b in zip(predicted.flatten(), target.flatten(), strict=True))
    found = masked_slice_loss(predicted, target, torch.zeros(2, 10, dtype=torch.bool), divisor=3)
    assert float(found) == pytest.approx(total / 80 / 3)


def test_targets_of_visible_slices_do_not_matter() -> None:
    masked = torch.tensor([[True, False, False, True]])
    predicted, target = random(1, 4, 6), random(1, 4, 6, seed=1)
    other = torch.where(masked.unsqueeze(-1), target, random(1, 4, 6, seed=2))
    assert torch.equal(masked_slice_loss(predicted, target, masked), masked_slice_loss(predicted, other, masked))


def test_limits_of_the_loss() -> None:
    target, masked = random(2, 3, 50), torch.tensor([[True, False, False], [True, True, False]])
    assert float(masked_slice_loss(torch.zeros(2, 3, 50), target, masked)) == pytest.approx(1, abs=1e-4)
    nothing = masked_slice_loss(random(2, 3, 50), target, torch.zeros_like(masked))
    assert float(nothing) == 0


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_as_many_slices_as_asked_for_are_hidden_among_those_that_are_there(ratio: float) -> None:
    lengths = torch.arange(1, 41)
    filled = torch.arange(40) < lengths.unsqueeze(1)
    masked = draw_masked_slices(filled, ratio, torch.Generator().manual_seed(0))
    assert not (masked & ~filled).any()
    assert masked.sum(1).tolist() == [math.ceil(n * ratio) for n in lengths.tolist()]


def test_every_slice_is_hidden_now_and_then_and_the_generator_decides() -> None:
    filled = torch.ones(400, 10, dtype=torch.bool)
    masked = draw_masked_slices(filled, 0.3, torch.Generator().manual_seed(0))
    assert torch.allclose(masked.double().mean(0), torch.tensor(0.3).double(), atol=0.08)
    again = draw_masked_slices(filled, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(masked, again)


def test_visible_slices_stay_as_they_are_bit_for_bit() -> None:
    vectors, token = random(2, 4, 3).float(), torch.ones(3)
    masked = torch.tensor([[True, False, False, True], [False, False, True, False]])
    hidden = hide_slices(vectors, masked, token)
    assert torch.equal(hidden[~masked], vectors[~masked])
    assert (hidden[masked] == 1).all()
