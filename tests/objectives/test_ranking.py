"""Continuous-target average precision: the sorted path and all pairs against loops, ties, limits, invariances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medssl.objectives.dominance import dominated_sums, ranks_of
from medssl.objectives.ranking import Surrogate, ap_loss, misranking, not_exceeded

SURROGATES: list[Surrogate] = ["quadratic", "hinge"]
surrogates = pytest.mark.parametrize("surrogate", SURROGATES)
paths = pytest.mark.parametrize("fast", [False, True])


def random(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1


def penalty(z: Tensor, margin: float, surrogate: str) -> Tensor:
    if z > margin:
        return 0 * z
    if surrogate == "hinge":
        return (margin - z) / margin
    return 1 - 2 * z / margin if z < 0 else (1 - z / margin) ** 2


def reference(y: Tensor, x: Tensor, margin: float, surrogate: str) -> tuple[Tensor, Tensor]:
    """N and P of one list, one pair after the other."""
    missed, count = [], []
    for i in range(len(y)):
        lower = [j for j in range(len(y)) if y[j] < y[i]]
        missed.append(sum((y[i] - y[j]) * penalty(x[i] - x[j], margin, surrogate) for j in lower) + 0 * x.sum())
        count.append(sum(int(y[j] >= y[i] and x[j] >= x[i]) for j in range(len(y))))
    return torch.stack(missed), torch.tensor(count)


def hard_lists() -> dict[str, tuple[Tensor, Tensor]]:
    """Targets and scores, 17 each."""
    y, x = random(17, seed=1), random(17, seed=2)
    coarse_y, coarse_x = (4 * y).round() / 4, (4 * x).round() / 4
    far = x.clone()
    far[::3] += 100
    return {
        "random": (y, x),
        "tied targets": (coarse_y, x),
        "tied scores": (y, coarse_x),  # in steps of the margin: scores exactly at the breaks of the penalty
        "tied both": (coarse_y, coarse_x),
        "constant targets": (torch.full_like(y, 0.3), x),
        "constant scores": (y, torch.full_like(x, -0.1)),
        "perfect": (y, y.clone()),
        "reversed": (y, -y),
        "far apart": (y, far),
        "off centre": (y + 1e3, x - 1e3),
        "one alone": (y[:1], x[:1]),
        "two": (y[:2], x[:2]),
        "power of two": (y[:16], x[:16]),
    }


@paths
@surrogates
@pytest.mark.parametrize("margin", [0.25, 0.5, 3.0])
@pytest.mark.parametrize("name", hard_lists())
def test_equals_the_loops_in_value_and_gradient(name: str, margin: float, surrogate: Surrogate, fast: bool) -> None:
    y, x = hard_lists()[name]
    quick, slow = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = misranking(y, quick, margin=margin, surrogate=surrogate, fast=fast)
    wanted, count = reference(y, slow, margin, surrogate)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-11)
    assert torch.equal(not_exceeded(y, x, fast=fast), count.float())
    if surrogate == "hinge" and name in ("tied scores", "tied both"):
        return  # the kink itself has no gradient
    factor = random(len(y), seed=3)
    (found * factor).sum().backward()
    (wanted * factor).sum().backward()
    torch.testing.assert_close(quick.grad, slow.grad, atol=1e-9, rtol=1e-10)


@surrogates
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_both_paths_agree_on_anything(surrogate: Surrogate, data: Any) -> None:
    n = data.draw(st.integers(1, 40))
    numbers = st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.125, 0.25, 0.5, 0.99]), min_size=n, max_size=n)
    y, x = (torch.tensor(data.draw(numbers), dtype=torch.float64) for _ in range(2))
    factor = random(n, seed=n)
    both = []
    for fast in (False, True):
        leaf = x.clone().requires_grad_()
        missed = misranking(y, leaf, margin=0.25, surrogate=surrogate, fast=fast)
        (missed * factor).sum().backward()
        both.append((missed.detach(), leaf.grad, not_exceeded(y, x, fast=fast)))
    for found, wanted in zip(both[1], both[0], strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_dominated_sums_equal_the_loops(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    ranks = torch.stack([torch.randperm(n, generator=generator) for _ in range(3)])
    features = random(3, n, 2, seed=n)
    stop, below = (torch.randint(0, n + 1, (3, 7), generator=generator) for _ in range(2))
    found = dominated_sums(ranks, features, stop, below)
    for b in range(3):
        for q in range(7):
            taken = [features[b, j] for j in range(int(stop[b, q])) if ranks[b, j] < below[b, q]]
            wanted = torch.stack(taken).sum(0) if taken else torch.zeros(2, dtype=torch.float64)
            torch.testing.assert_close(found[b, q], wanted, atol=1e-14, rtol=0)


def test_equal_values_keep_their_order() -> None:
    ordered, ranks = ranks_of(torch.tensor([[2.0, 1.0, 2.0, 1.0]]))
    assert ordered.tolist() == [[1, 1, 2, 2]] and ranks.tolist() == [[2, 0, 3, 1]]


@surrogates
@paths
def test_lists_of_a_batch_are_independent(surrogate: Surrogate, fast: bool) -> None:
    y, x, matched = random(3, 20, seed=1), random(3, 20, seed=2), random(3, 20, seed=4) > 0
    leaf = x.clone().requires_grad_()
    losses = ap_loss(y, leaf, matched, surrogate=surrogate, fast=fast)
    losses.sum().backward()
    assert losses.shape == (3,) and leaf.grad is not None
    for row in range(3):
        alone = x[row].clone().requires_grad_()
        loss = ap_loss(y[row], alone, matched[row], surrogate=surrogate, fast=fast)
        loss.backward()
        assert loss.item() == pytest.approx(losses[row].item(), abs=1e-13)
        torch.testing.assert_close(alone.grad, leaf.grad[row], atol=1e-13, rtol=0)


def test_gradient_is_that_of_finite_differences() -> None:
    y, x = random(30, seed=1), random(30, seed=2).requires_grad_()

    def with_fixed_normaliser(scores: Tensor) -> Tensor:
        ratio = misranking(y, scores, margin=0.5, fast=True) / not_exceeded(y, x.detach())
        return (ratio / (1 + ratio)).sum()

    assert torch.autograd.gradcheck(with_fixed_normaliser, (x,))


def test_long_lists_in_single_precision_are_exact_to_single_precision() -> None:
    y, x = random(3000, seed=1), (0.4 * random(3000, seed=1) + 0.3 * random(3000, seed=2))
    low, high = x.float().requires_grad_(), x.float().double().requires_grad_()
    single = ap_loss(y.float(), low, fast=True)
    double = ap_loss(y.float().double(), high, fast=False)
    single.backward()
    double.backward()
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(double.item(), rel=2e-7)
    assert low.grad is not None and high.grad is not None
    torch.testing.assert_close(low.grad.double(), high.grad, rtol=1e-5, atol=1e-6 * high.grad.abs().max().item())


@pytest.mark.parametrize("n", [400, 600])
def test_the_path_is_chosen_by_the_length_and_does_not_show(n: int) -> None:
    y, x = random(n, seed=1), random(n, seed=2)
    assert ap_loss(y, x).item() == pytest.approx(ap_loss(y, x, fast=n < 500).item(), abs=1e-12)


@paths
def test_what_may_be_changed_without_changing_the_loss(fast: bool) -> None:
    y, x = random(40, seed=1), random(40, seed=2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    plain = ap_loss(y, x, fast=fast).item()
    assert ap_loss(y, x + 7, fast=fast).item() == pytest.approx(plain, abs=1e-12)
    assert ap_loss(y[order], x[order], fast=fast).item() == pytest.approx(plain, abs=1e-12)
    assert ap_loss(y + 0.1, x, fast=fast).item() != pytest.approx(plain, abs=1e-6), "targets also weigh"


@paths
def test_limits(fast: bool) -> None:
    y = torch.linspace(-0.1, 0.9, 30, dtype=torch.float64)
    assert ap_loss(y, 20 * y, margin=0.5, fast=fast).item() < 1e-9, "every gap exceeds the margin"
    assert 0.01 < ap_loss(y, y, margin=0.5, fast=fast).item() < 0.5, "a right order with small gaps still costs"
    assert ap_loss(y, -10 * y, margin=0.5, fast=fast).item() > 0.9
    tangled = random(30).requires_grad_()
    for targets in (torch.full_like(y, 0.4), torch.full_like(y, -0.5)):  # nothing to rank; nothing that counts
        loss = ap_loss(targets, tangled, fast=fast)
        loss.backward()
        assert loss.item() == 0 and tangled.grad is not None and not tangled.grad.any()


@paths
def test_pairs_beyond_the_margin_pull_no_more(fast: bool) -> None:
    y = torch.tensor([0.9, 0.1], dtype=torch.float64)
    for gap, pulls in ((0.49, True), (0.51, False)):
        x = torch.tensor([gap, 0.0], dtype=torch.float64, requires_grad=True)
        ap_loss(y, x, margin=0.5, fast=fast).backward()
        assert x.grad is not None and bool(x.grad.any()) is pulls
        assert not pulls or (x.grad[0] < 0 < x.grad[1]), "the better is raised, the worse lowered"


@paths
def test_a_small_step_down_the_gradient_lowers_the_loss(fast: bool) -> None:
    y, x = random(50, seed=1), random(50, seed=2).requires_grad_()
    before = ap_loss(y, x, fast=fast)
    before.backward()
    assert x.grad is not None
    assert ap_loss(y, x.detach() - 1e-3 * x.grad, fast=fast).item() < before.item()


def test_unmatched_rows_weigh_less() -> None:
    y, x = torch.tensor([0.8, 0.7, -0.1, -0.1]), torch.tensor([-1.0, 1.0, 0.0, 0.0])
    bad_row, good_row = torch.tensor([True, False, False, False]), torch.tensor([False, True, False, False])
    assert ap_loss(y, x, bad_row).item() > ap_loss(y, x).item() > ap_loss(y, x, good_row).item()
    everyone = torch.ones(4, dtype=torch.bool)
    assert ap_loss(y, x, ~everyone, unmatched=1.0).item() == pytest.approx(ap_loss(y, x, everyone).item())
