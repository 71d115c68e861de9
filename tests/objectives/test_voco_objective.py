"""Volume contrast: a loop-written reference, limits solvable by hand, masks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from medssl.objectives import voco


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a / a.norm().clamp_min(1e-8)) @ (b / b.norm().clamp_min(1e-8))


def reference_regularisation(q: Tensor, valid: list[bool] | None = None) -> Tensor:
    pairs = [(i, j) for i in range(len(q)) for j in range(i + 1, len(q)) if valid is None or (valid[i] and valid[j])]
    return torch.stack([cosine(q[i], q[j].detach()).clamp_min(0) ** 2 for i, j in pairs]).mean()


def reference_prediction(x: Tensor, q: Tensor, y: Tensor, version: int) -> tuple[Tensor, Tensor]:
    positive, negative, count = torch.zeros(()).double(), torch.zeros(()).double(), 0
    for a, i in itertools.product(range(len(x)), range(len(q))):
        similarity = cosine(x[a], q[i]).clamp_min(0)
        positive = positive - y[a, i] * torch.log(1 - (y[a, i] - similarity).abs() + 1e-6)
        if y[a, i] == 0:
            count += 1
            negative = negative + (similarity**2 if version == 1 else -torch.log(1 - similarity + 1e-6))
    return positive / (y.sum() + 1e-6), negative / (count + 1e-6)


def test_batched_losses_equal_the_loops_in_value_and_gradient() -> None:
    x, q, starts = random(3, 2, 6), random(3, 9, 6, seed=1), torch.randint(0, 17, (3, 2, 3))
    starts[..., 0] = 0
    y = voco.overlap_labels(starts.double(), (4, 8, 8), (1, 3, 3))
    fast = [t.clone().requires_grad_() for t in (x, q)]
    slow = [t.clone().requires_grad_() for t in (x, q)]
    logits = voco.position_similarity(*fast)
    pos, neg = voco.prediction_v1(logits, y)
    found = torch.stack([pos, neg, voco.prediction_v2(logits, y), voco.regularisation(fast[1])])
    wanted = torch.stack(
        [
            torch.stack(
                [
                    *reference_prediction(a, b, c, 1),
                    torch.stack(reference_prediction(a, b, c, 2)).sum(),
                    reference_regularisation(b),
                ]
            )
            for a, b, c in zip(*slow, y, strict=True)
        ],
        dim=1,
    )
    torch.testing.assert_close(found, wanted, atol=2e-7, rtol=0)
    found.sum().backward()
    wanted.sum().backward()
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-7, rtol=0)


def test_labels_by_hand() -> None:
    crop, grid = (4, 4, 6), (2, 3, 2)
    bases = voco.base_starts(grid, crop)
    torch.testing.assert_close(voco.overlap_labels(bases, crop, grid), torch.eye(12))
    corner = voco.overlap_labels(torch.tensor([2, 2, 3]), crop, grid)
    assert sorted(corner.tolist()) == [0.0] * 4 + [0.125] * 8
    starts = torch.stack([torch.randint(0, (g - 1) * c + 1, (50,)) for g, c in zip(grid, crop, strict=True)], -1)
    torch.testing.assert_close(voco.overlap_labels(starts, crop, grid).sum(-1), torch.ones(50))
    flat = voco.overlap_labels(starts[:, 1:], crop[1:], (3, 2))
    torch.testing.assert_close(voco.overlap_labels(starts * torch.tensor([0, 1, 1]), crop, (1, 3, 2)), flat)


@pytest.mark.parametrize(
    ("crop", "grid"), [((4, 6, 6), (1, 4, 4)), ((4, 4, 4), (1, 3, 3)), ((5, 3, 4), (2, 3, 2)), ((1, 7, 2), (3, 1, 5))]
)
def test_labels_are_shares_of_voxels_counted_one_by_one(crop: tuple[int, ...], grid: tuple[int, ...]) -> None:
    window = tuple(c * g for c, g in zip(crop, grid, strict=True))
    whose = torch.zeros(window, dtype=torch.long)
    for base, (z, y, x) in enumerate(voco.base_starts(grid, crop).tolist()):
        whose[z : z + crop[0], y : y + crop[1], x : x + crop[2]] = base
    random_starts = [torch.randint(0, (g - 1) * c + 1, (8,)) for g, c in zip(grid, crop, strict=True)]
    for start in torch.stack(random_starts, -1):
        z, y, x = start.tolist()
        inside = whose[z : z + crop[0], y : y + crop[1], x : x + crop[2]]
        counted = inside.flatten().bincount(minlength=math.prod(grid)) / math.prod(crop)
        torch.testing.assert_close(voco.overlap_labels(start, crop, grid), counted)
        if grid[0] == 1:  # one layer of bases is the two-dimensional case
            torch.testing.assert_close(voco.overlap_labels(start[1:], crop[1:], grid[1:]), counted)


def test_similarity_ignores_scale_rectifies_and_survives_zero_vectors() -> None:
    x, q = random(2, 5), random(3, 5, seed=1)
    torch.testing.assert_close(voco.position_similarity(3 * x, 0.1 * q), voco.position_similarity(x, q))
    assert not voco.position_similarity(x, -x).diagonal().any()
    zero = torch.zeros(2, 5, requires_grad=True)
    similarity = voco.position_similarity(zero, q.float())
    similarity.sum().backward()
    assert not similarity.any() and zero.grad is not None and torch.isfinite(zero.grad).all()


def test_perfect_prediction_costs_nothing() -> None:
    y = voco.overlap_labels(torch.tensor([[2, 1], [0, 4]]), (4, 4), (2, 2))
    pos, neg = voco.prediction_v1(y, y)
    assert pos.item() == pytest.approx(-math.log(1 + 1e-6), abs=1e-6) and neg.item() == 0
    assert voco.prediction_v2(y, y).item() == pytest.approx(0, abs=1e-5)
    assert voco.prediction_paper(y, y).item() == pytest.approx(0, abs=1e-5)


def test_worst_prediction_stays_finite() -> None:
    y = torch.tensor([[1.0, 0.0]])
    worst = (1 - y).requires_grad_()
    total = torch.stack(voco.prediction_v1(worst, y)).sum() + voco.prediction_v2(worst, y)
    total = total + voco.prediction_paper(worst, y)
    total.backward()
    assert torch.isfinite(total) and worst.grad is not None and torch.isfinite(worst.grad).all()


def test_bases_apart_cost_nothing_and_equal_bases_cost_one() -> None:
    assert voco.regularisation(torch.eye(5)).item() == 0
    assert voco.regularisation(torch.ones(5, 3)).item() == pytest.approx(1)
    assert voco.regularisation(-torch.eye(5), squared=False, rectified=False).item() == 0


def test_empty_bases_take_no_part() -> None:
    q, valid = random(4, 6), [True, False, True, True]
    masked = voco.regularisation(q, valid=torch.tensor(valid))
    assert masked.item() == pytest.approx(reference_regularisation(q, valid).item())
    assert voco.regularisation(q, valid=torch.tensor([True, False, False, False])).item() == 0
    logits, y = torch.tensor([[0.3, 0.9, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    _, negative = voco.prediction_v1(logits, y, torch.tensor([[True, False, True]]))
    assert negative.item() == pytest.approx(0.2**2, rel=1e-4)
    kept = voco.prediction_paper(logits, y, torch.tensor([[True, False, True]]))
    assert kept.item() == pytest.approx(voco.prediction_paper(logits[:, [0, 2]], y[:, [0, 2]]).item())


def test_order_of_the_volumes_matters_across_volumes_only() -> None:
    x, q, order = random(3, 2, 6), random(3, 4, 6, seed=1), [1, 0, 2]
    y = voco.overlap_labels(torch.tensor([[0, 1], [3, 4]]), (4, 4), (2, 2)).double().expand(3, 2, 4)
    within = [
        sum(voco.prediction_v1(voco.position_similarity(a, b), y)).mean() for a, b in ((x, q), (x[order], q[order]))
    ]  # type: ignore[union-attr]
    torch.testing.assert_close(within[0], within[1])
    t, p, order = random(4, 2, 6, seed=2), random(4, 4, 6, seed=3), [1, 0, 2, 3]
    x, q = random(4, 2, 6), random(4, 4, 6, seed=1)
    across = voco.intervolume(x, q, t, p).mean().item()
    assert across != pytest.approx(voco.intervolume(x[order], q[order], t[order], p[order]).mean().item())
    turned = [t.roll(1, 0) for t in (x, q, t, p)]
    assert across == pytest.approx(voco.intervolume(*turned).mean().item()), "a cyclic shift keeps neighbours"


def test_teacher_of_the_agreement_gets_no_gradient() -> None:
    student, teacher = random(2, 3, 6).requires_grad_(), random(2, 3, 6, seed=1).requires_grad_()
    voco.intervolume(student, student, teacher, teacher).sum().backward()
    assert student.grad is not None and teacher.grad is None


def test_chance_is_what_naming_the_likeliest_cell_gets() -> None:
    for grid in [(1, 2, 2), (1, 3, 3), (2, 3, 4)]:
        crop = (20, 20, 20)
        starts = torch.stack([torch.randint(0, (g - 1) * 20 + 1, (20000,)) for g in grid], -1)
        nearest = voco.overlap_labels(starts, crop, grid).argmax(-1)
        likeliest = nearest.bincount().max() / len(nearest)
        assert voco.position_chance(grid) == pytest.approx(likeliest.item(), abs=0.03)


def test_accuracy_counts_only_filled_crops() -> None:
    logits, y = torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    assert voco.position_accuracy(logits, y).item() == 0.5
    assert voco.position_accuracy(logits, y, torch.tensor([True, False])).item() == 1
