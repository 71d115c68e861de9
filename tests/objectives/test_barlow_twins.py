"""Barlow Twins and its mixed form against loop-written references, limits solvable by hand, and dead dimensions."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.barlow_twins import (
    BarlowTwins,
    MixedBarlowTwins,
    barlow_twins,
    dead_dimensions,
    mixture_term,
    standardise,
)
from medssl.objectives.base import Mixture


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standardised(x: Tensor) -> Tensor:
    """Column by column."""
    columns = [(c - c.mean()) / torch.sqrt(((c - c.mean()) ** 2).mean() + 1e-5) for c in x.T]
    return torch.stack(columns, dim=1)


def reference(views: Tensor, off_diagonal: float) -> Tensor:
    """Entry by entry."""
    losses = []
    for one, other in combinations([standardised(v) for v in views], 2):
        n, d = one.shape
        loss = views.new_zeros(())
        for i in range(d):
            for j in range(d):
                entry = sum(one[s, i] * other[s, j] for s in range(n)) / n
                loss = loss + ((1 - entry) ** 2 if i == j else off_diagonal * entry**2)
        losses.append(loss)
    return torch.stack(losses).mean()


def mixture_reference(views: Tensor, mixture: Mixture) -> Tensor:
    """Correlations of the mixture against the mixture of correlations, entry by entry."""
    one, two, mixed = (standardised(x) for x in (views[0], views[1], mixture.embeddings))
    n, d = one.shape
    term = views.new_zeros(())
    for against in (one, two):
        for i in range(d):
            for j in range(d):
                found = sum(mixed[s, i] * against[s, j] for s in range(n)) / n
                wanted = sum(
                    (mixture.share[s] * one[s, i] + (1 - mixture.share[s]) * two[mixture.order[s], i]) * against[s, j]
                    for s in range(n)
                )
                term = term + (found - wanted / n) ** 2
    return term


def mixture(n: int, d: int) -> Mixture:
    generator = torch.Generator().manual_seed(3)
    share = torch.rand(n, generator=generator, dtype=torch.float64)
    return Mixture(random(n, d, seed=2), torch.randperm(n, generator=generator), share)


@pytest.mark.parametrize(("k", "n", "d"), [(2, 2, 1), (2, 5, 3), (3, 4, 2), (4, 3, 3)])
@pytest.mark.parametrize("off_diagonal", [0.0, 0.0051, 1.0])
def test_equals_the_loops_in_value_and_gradient(k: int, n: int, d: int, off_diagonal: float) -> None:
    fast, slow = random(k, n, d).requires_grad_(), random(k, n, d).requires_grad_()
    value = BarlowTwins(off_diagonal=off_diagonal)(fast).loss
    wanted = reference(slow, off_diagonal)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)
    assert barlow_twins(fast, off_diagonal=off_diagonal).item() == value.item()


@pytest.mark.parametrize(("k", "n", "d"), [(2, 4, 2), (3, 5, 3)])
def test_the_mixed_form_adds_the_term_of_the_loops(k: int, n: int, d: int) -> None:
    fast, slow = random(k, n, d).requires_grad_(), random(k, n, d).requires_grad_()
    given, again = mixture(n, d), mixture(n, d)
    given.embeddings.requires_grad_()
    again.embeddings.requires_grad_()
    value = MixedBarlowTwins(off_diagonal=0.1, mixing=3.0)(fast, mixture=given).loss
    wanted = reference(slow, 0.1) + 3 * 0.1 * mixture_reference(slow, again)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(given.embeddings.grad, again.embeddings.grad, atol=1e-12, rtol=0)


def test_white_embeddings_that_agree_leave_nothing() -> None:
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert barlow_twins(corners.expand(2, 4, 2)).item() == pytest.approx(0, abs=1e-9)
    flipped = torch.stack([corners, corners * torch.tensor([1.0, -1.0])])
    assert barlow_twins(flipped).item() == pytest.approx(4, abs=1e-3)  # one entry of the diagonal is -1


def test_order_of_views_and_of_dimensions_and_their_scale_do_not_matter() -> None:
    views = random(2, 6, 4)
    value = barlow_twins(views).item()
    assert barlow_twins(views.flip(0)).item() == pytest.approx(value, abs=1e-12)
    assert barlow_twins(views[:, :, [2, 0, 3, 1]]).item() == pytest.approx(value, abs=1e-12)
    assert barlow_twins(1000 * views + 7, eps=0.0).item() == pytest.approx(barlow_twins(views, eps=0.0).item())
    assert value >= 0


def test_a_constant_dimension_costs_one_and_has_no_gradient() -> None:
    views = random(2, 6, 4)
    without = barlow_twins(views[..., 1:], eps=0.0).item()
    views[..., 0] = 3
    views.requires_grad_()
    output = BarlowTwins()(views)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(1 + without, abs=1e-3)
    assert views.grad is not None and torch.isfinite(views.grad).all() and not views.grad[..., 0].any()
    assert output.logs["dead_dimensions"].item() == pytest.approx(0.25)
    assert dead_dimensions(random(2, 6, 4)).item() == 0


def test_off_diagonal_of_independent_dimensions_is_at_the_noise_floor() -> None:
    logs = BarlowTwins()(random(1, 50, 200).expand(2, 50, 200)).logs
    assert logs["off_diagonal"].item() == pytest.approx(1, abs=0.1)
    assert logs["correlation"].item() == pytest.approx(1, abs=1e-3)
    repeated = random(1, 50, 1).expand(2, 50, 8)
    assert BarlowTwins()(repeated).logs["off_diagonal"].item() == pytest.approx(50 * 7 / 8, rel=1e-3)


def test_mixing_nothing_in_and_mixing_linear_embeddings_cost_nothing() -> None:
    views, order = standardise(random(2, 6, 4)), torch.tensor([3, 0, 1, 2, 5, 4])
    all_first = mixture_term(views, views[0], order, torch.ones(6))
    assert all_first.item() == 0
    share = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = share[:, None] * views[0] + (1 - share[:, None]) * views[1][order]
    assert mixture_term(views, linear, order, share).item() == pytest.approx(0, abs=1e-30)


def test_the_mixed_form_tells_the_views_apart() -> None:
    views, given = random(2, 6, 4), mixture(6, 4)
    objective = MixedBarlowTwins()
    one, other = (objective(v, mixture=given).logs["mixture"].item() for v in (views, views.flip(0)))
    assert one != pytest.approx(other)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="off-diagonal"):
        BarlowTwins(off_diagonal=-1)
    with pytest.raises(ConfigError, match="mixing"):
        MixedBarlowTwins(mixing=0)
