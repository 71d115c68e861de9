"""Dice and cross-entropy against a reference written as loops."""

from __future__ import annotations

import math

import pytest
import torch

from medssl.heads.losses import dice_and_cross_entropy


def by_loops(
    logits: torch.Tensor, labels: torch.Tensor, batch_dice: bool, voxel_balance: float = 0.0
) -> tuple[float, float]:
    """The same in float64 with one step for every voxel."""
    b, k = logits.shape[:2]
    flat, truth = logits.double().reshape(b, k, -1), labels.reshape(b, -1)
    groups = [list(range(b))] if batch_dice else [[i] for i in range(b)]
    weights = [float((truth == c).sum() or 1) ** -voxel_balance for c in range(k)]
    total = sum(weights[c] for c in truth.flatten().tolist())
    cross_entropy = 0.0
    overlap, size = torch.zeros(b, k), torch.zeros(b, k)
    for i in range(b):
        for v in range(flat.shape[2]):
            p = flat[i, :, v].softmax(0)
            cross_entropy -= math.log(p[truth[i, v]]) * weights[truth[i, v]] / total
            for c in range(k):
                overlap[i, c] += p[c] * (truth[i, v] == c)
                size[i, c] += p[c] + (truth[i, v] == c)
    dice = [(2 * overlap[g, c].sum() + 1e-5) / (size[g, c].sum() + 1e-5) for g in groups for c in range(1, k)]
    return 1 - float(sum(dice)) / len(dice), cross_entropy


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("voxel_balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_equals_the_loops(batch_dice: bool, voxel_balance: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, *shape), torch.randint(0, 3, (2, *shape))
    dice, cross_entropy = dice_and_cross_entropy(logits, labels, batch_dice=batch_dice, voxel_balance=voxel_balance)
    expected = by_loops(logits, labels, batch_dice, voxel_balance)
    assert (dice.item(), cross_entropy.item()) == pytest.approx(expected, rel=1e-5)


def test_a_class_that_nobody_sees_yet_is_pulled_up_harder() -> None:
    """Ten voxels of a thousand: its logit is asked to rise more by balanced voxels, above all when it is near 0."""
    labels = torch.zeros(1, 1000, dtype=torch.long)
    labels[0, :10] = 2
    pulls = []
    for voxel_balance in (0.0, 0.5, 1.0):
        logits = torch.tensor([5.0, 0.0, -5.0]).view(1, 3, 1).repeat(1, 1, 1000).requires_grad_()
        _, cross_entropy = dice_and_cross_entropy(logits, labels, voxel_balance=voxel_balance)
        cross_entropy.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        pulls.append(-float(logits.grad[0, 2, :10].sum()))
    assert pulls[0] == pytest.approx(10 / 1000, rel=1e-2) and pulls[2] == pytest.approx(1 / 2, rel=1e-2)
    assert pulls[0] < pulls[1] < pulls[2]


def test_a_perfect_prediction_costs_nothing_even_where_a_class_is_absent() -> None:
    labels = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]]])
    sure = 100.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    for batch_dice in (True, False):
        dice, cross_entropy = dice_and_cross_entropy(sure, labels, batch_dice=batch_dice)
        assert dice.item() == pytest.approx(0.0, abs=1e-5)
        assert cross_entropy.item() == pytest.approx(0.0, abs=1e-6)


def test_background_does_not_count_in_dice() -> None:
    """Only background in truth and prediction wrong about class 1 alone: class 2 stays perfect."""
    labels = torch.zeros(1, 4, dtype=torch.long)
    wrong = torch.tensor([-100.0, 100.0, -100.0]).view(1, 3, 1).repeat(1, 1, 4)
    dice, _ = dice_and_cross_entropy(wrong, labels)
    assert dice.item() == pytest.approx(0.5, abs=1e-4)
