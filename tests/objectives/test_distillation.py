"""SimSiam and BYOL against loop-written references, their published two-view forms, and collapse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.methods.projectors import MLPHead
from medssl.objectives.distillation import BYOL, SimSiam, agreement, spread

OBJECTIVES = pytest.mark.parametrize("kind", [SimSiam, BYOL])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def reference(predictions: Tensor, targets: Tensor, labels: list[int] | None = None) -> Tensor:
    """Mean cosine over ordered pairs of different views, samples, and the targets of a sample."""
    k, n, _ = predictions.shape
    labels = labels or list(range(n))
    values = []
    for a in range(k):
        for b in range(len(targets)):
            for i in range(n):
                if a != b:
                    own = [cosine(predictions[a, i], targets[b, j]) for j in range(n) if labels[j] == labels[i]]
                    values.append(torch.stack(own).mean())
    return torch.stack(values).mean()


@pytest.mark.parametrize(("k", "g", "n"), [(2, 2, 3), (3, 3, 2), (4, 2, 3), (3, 1, 4)])
@pytest.mark.parametrize("labels", [None, [0, 1, 0, 1]])
@OBJECTIVES
def test_equals_the_loops_in_value_and_gradient(
    kind: type[SimSiam | BYOL], k: int, g: int, n: int, labels: list[int] | None
) -> None:
    fast, slow = random(k, n, 5).requires_grad_(), random(k, n, 5).requires_grad_()
    targets = random(g, n, 5, seed=1)
    known = None if labels is None else labels[:n]
    value = kind()(fast, targets=targets, labels=None if known is None else torch.tensor(known)).loss
    mean = reference(slow, targets, known)
    wanted = -mean if kind is SimSiam else 2 * (2 - 2 * mean)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_two_views_give_the_published_forms() -> None:
    p, t = random(2, 6, 4), random(2, 6, 4, seed=1)
    crossed = [functional.cosine_similarity(p[0], t[1]), functional.cosine_similarity(p[1], t[0])]
    simsiam = -0.5 * (crossed[0].mean() + crossed[1].mean())
    byol = (2 - 2 * crossed[0]).mean() + (2 - 2 * crossed[1]).mean()
    assert SimSiam()(p, targets=t).loss.item() == pytest.approx(simsiam.item(), abs=1e-12)
    assert BYOL()(p, targets=t).loss.item() == pytest.approx(byol.item(), abs=1e-12)


@OBJECTIVES
def test_no_gradient_reaches_the_targets(kind: type[SimSiam | BYOL]) -> None:
    predictions, targets = random(2, 3, 4).requires_grad_(), random(2, 3, 4, seed=1).requires_grad_()
    kind()(predictions, targets=targets).loss.backward()
    assert targets.grad is None and predictions.grad is not None


@pytest.mark.parametrize(("kind", "lowest", "highest"), [(SimSiam, -1, 1), (BYOL, 0, 8)])
def test_bounds_are_reached_by_agreement_and_opposition(
    kind: type[SimSiam | BYOL], lowest: float, highest: float
) -> None:
    alike = random(1, 3, 4).expand(2, 3, 4)
    assert kind()(alike, targets=2 * alike).loss.item() == pytest.approx(lowest)
    assert kind()(alike, targets=-alike).loss.item() == pytest.approx(highest)


def test_random_directions_of_high_dimension_are_orthogonal() -> None:
    loss = BYOL()(random(2, 32, 4096), targets=random(2, 32, 4096, seed=1)).loss
    assert loss.item() == pytest.approx(4, abs=0.05)


@OBJECTIVES
def test_views_may_change_places(kind: type[SimSiam | BYOL]) -> None:
    p, t = random(2, 3, 4), random(2, 3, 4, seed=1)
    assert kind()(p.flip(0), targets=t.flip(0)).loss.item() == pytest.approx(kind()(p, targets=t).loss.item())


def test_one_dimension_and_two_samples_are_finite() -> None:
    p = random(2, 2, 1).requires_grad_()
    loss = BYOL()(p, targets=random(2, 2, 1, seed=1)).loss
    loss.backward()
    assert torch.isfinite(loss) and p.grad is not None and torch.isfinite(p.grad).all()


def test_targets_of_other_samples_or_too_many_views_are_refused() -> None:
    for wrong in (random(3, 3, 4), random(2, 4, 4), random(2, 3, 5)):
        with pytest.raises(ValueError, match="do not fit"):
            agreement(random(2, 3, 4), wrong)


def test_spread_tells_directions_that_are_used_evenly_from_one() -> None:
    assert spread(random(2, 4000, 64)).item() == pytest.approx(1, abs=0.02)
    assert spread(3 * random(1, 1, 64).expand(2, 50, 64)).item() == pytest.approx(0, abs=1e-9)
    corners = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])  # standard deviations 1 and 0
    assert spread(corners).item() == pytest.approx(0.5 * math.sqrt(2))


@pytest.mark.parametrize(
    ("stopped", "predicted", "collapses"), [(True, True, False), (False, True, True), (True, False, True)]
)
def test_it_takes_both_the_stopped_gradient_and_the_predictor_not_to_collapse(
    stopped: bool, predicted: bool, collapses: bool
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = MLPHead(16, 32, 16, layers=3)
        predictor = MLPHead(16, 8, 16, layers=2) if predicted else nn.Identity()
        optimizer = torch.optim.SGD([*encoder.parameters(), *predictor.parameters()], lr=0.2, momentum=0.9)
        for _ in range(200):
            x = torch.randn(64, 16)
            z = encoder((x + torch.randn(2, 64, 16)).flatten(0, 1))
            p, z = predictor(z).unflatten(0, (2, 64)), z.unflatten(0, (2, 64))
            if stopped:
                loss = SimSiam()(p, targets=z).loss
            else:
                loss = -functional.cosine_similarity(p, z.flip(0), dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if collapses:
        assert spread(z) < 0.05 and loss < -0.99
    else:
        assert spread(z) > 0.7
