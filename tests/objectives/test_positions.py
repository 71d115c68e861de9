"""Positions in feature maps: targets on any grid, prediction, what is taken out, rounds merged into one map."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives import positions
from medssl.objectives.positions import moments, position_basis, position_targets, removal, removal_from_moments

GRIDS = [(6,), (4, 4), (3, 5), (2, 3, 4), (1, 4, 3), (1,)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positional_maps(grid: tuple[int, ...], width: int = 8, *, noise: float = 0.3, count: int = 40) -> Tensor:
    """Maps (B, D, *grid) whose cells hold their coordinates, mixed into all features, and noise."""
    where = position_targets(grid, dtype=torch.float64) @ random(len(grid), width, seed=9)
    content = noise * random(count, len(where), width, seed=8)
    return (where + content).transpose(1, 2).unflatten(2, grid)


def rows(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)


def explained(maps: Tensor) -> float:
    """Share of the coordinates' variance that a linear regression explains."""
    x, grid = rows(maps), tuple(maps.shape[2:])
    y = position_targets(grid, dtype=torch.float64).repeat(len(maps), 1)
    x, y = x - x.mean(0), y - y.mean(0)
    left = y - x @ torch.linalg.lstsq(x, y, rcond=1e-4, driver="gelsd").solution
    return 1 - float(left.square().sum() / y.square().sum())


@pytest.mark.parametrize("grid", GRIDS)
def test_coordinates_run_from_0_to_1_along_each_axis_for_itself(grid: tuple[int, ...]) -> None:
    found = position_targets(grid)
    wanted = [[i / (g - 1) if g > 1 else 0.5 for i, g in zip(c, grid, strict=True)] for c in _cells(grid)]
    torch.testing.assert_close(found, torch.tensor(wanted))
    torch.testing.assert_close(found.mean(0), torch.full((len(grid),), 0.5))


def _cells(grid: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(g) for g in grid)))


def test_prediction_is_a_sigmoid_and_its_loss_a_mean_square() -> None:
    x, w, grid = random(2, 6, 5), random(2, 5, seed=1).requires_grad_(), (2, 3)
    predicted = positions.predicted_positions(x, w)
    loss = positions.position_loss(predicted, position_targets(grid, dtype=torch.float64))
    errors = [
        (1 / (1 + torch.exp(-(x[b, i] @ w[axis]))) - position_targets(grid, dtype=torch.float64)[i, axis]) ** 2
        for b, i, axis in itertools.product(range(2), range(6), range(2))
    ]
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), abs=1e-12)
    even = positions.position_loss(torch.full((1, 6, 2), 0.5), position_targets(grid))
    assert positions.position_loss(positions.predicted_positions(x, 0 * w).float(), position_targets(grid)) == even


@pytest.mark.parametrize("p", [1, 2, 3])
def test_what_is_left_is_orthogonal_to_every_row_and_removal_is_idempotent(p: int) -> None:
    x, w = random(4, 7, 9), random(p, 9, seed=1)
    basis = position_basis(w)
    torch.testing.assert_close(basis @ basis.T, torch.eye(p).double())
    torch.testing.assert_close(basis[0], w[0] / w[0].norm())
    left = x @ removal(w)
    assert (left @ w.T).abs().max() < 1e-12
    torch.testing.assert_close(left @ removal(w), left)
    torch.testing.assert_close(left + positions.position_component(x, w), x)


def test_removal_equals_the_published_two_steps() -> None:
    x, w = random(10, 6), random(2, 6, seed=1)
    r, c = w[0] / w[0].norm(), w[1] / w[1].norm()
    c = c - (c @ r) * r
    c = c / c.norm()
    wanted = torch.stack([row - (row @ r) * r - (row @ c) * c for row in x])
    torch.testing.assert_close(x @ removal(w), wanted, atol=1e-12, rtol=0)


def test_an_axis_that_points_the_same_way_or_nowhere_is_dropped() -> None:
    w = random(1, 6)
    assert len(position_basis(torch.cat([w, -3 * w]))) == 1
    assert len(position_basis(torch.cat([w, 0 * w]))) == 1
    assert len(position_basis(0 * torch.cat([w, w]))) == 0
    third = random(1, 6, seed=1)
    basis = position_basis(torch.cat([w, 2 * w, third]))
    assert len(basis) == 2 and (third - (third @ basis.T) @ basis).norm() < 1e-12
    assert len(position_basis(1e-30 * torch.cat([w, third]))) == 2, "length does not matter"


def test_rounds_merged_into_one_map_equal_one_after_the_other() -> None:
    x, rounds = random(5, 8), [random(2, 8, seed=s) for s in range(1, 4)]
    wanted = x
    for w in rounds:
        wanted = wanted @ removal(w)
    torch.testing.assert_close(x @ positions.merged_removal(rounds, 8), wanted, atol=1e-12, rtol=0)
    assert torch.equal(positions.merged_removal([], 3), torch.eye(3))


@pytest.mark.parametrize("grid", GRIDS)
def test_moments_equal_the_sums_over_cells_and_add_up(grid: tuple[int, ...]) -> None:
    maps = random(4, 5, *grid)
    y = position_targets(grid, dtype=torch.float64) - 0.5
    cross, products = torch.zeros(5, len(grid)).double(), torch.zeros(5, 5).double()
    for b in range(4):
        for i, x in enumerate(maps[b].flatten(1).T):
            cross += torch.outer(x, y[i])
            products += torch.outer(x, x)
    found = moments(maps)
    assert found.cells.item() == 4 * len(y)
    torch.testing.assert_close(found.features, rows(maps).sum(0))
    torch.testing.assert_close(found.products, products)
    torch.testing.assert_close(found.cross, cross, atol=1e-12, rtol=1e-9)
    for whole, one, other in zip(found, moments(maps[:1]), moments(maps[1:]), strict=True):
        torch.testing.assert_close(one + other, whole)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_closed_form_equals_ridge_regression_on_the_cleaned_features_round_by_round(rounds: int) -> None:
    maps = positional_maps((4, 5))
    x, y = rows(maps), position_targets((4, 5), dtype=torch.float64).repeat(len(maps), 1) - 0.5
    centred = x - x.mean(0)
    strength = 1e-2 * centred.square().mean(0).mean()
    kept = torch.eye(8).double()
    for _ in range(rounds):
        cleaned = centred @ kept
        left = torch.linalg.solve(cleaned.T @ cleaned / len(x) + strength * torch.eye(8), cleaned.T @ y / len(x)).T
        kept = kept @ removal(left)
    found = removal_from_moments(moments(maps), rounds=rounds, ridge=1e-2)
    torch.testing.assert_close(found, kept, atol=1e-9, rtol=0)


@pytest.mark.parametrize("grid", [(12,), (4, 5), (3, 3, 4)])
def test_positions_cannot_be_told_any_more_and_little_else_is_lost(grid: tuple[int, ...]) -> None:
    maps = positional_maps(grid, width=12)
    clean = torch.einsum("bd...,de->be...", maps, removal_from_moments(moments(maps), rounds=2))
    assert explained(maps) > 0.5 > 0.1 > explained(clean)
    lost = torch.linalg.matrix_rank(rows(maps)) - torch.linalg.matrix_rank(rows(clean), rtol=1e-6)
    assert len(grid) <= lost <= 2 * len(grid)


def test_purely_positional_features_are_taken_out_whole_and_nothing_else() -> None:
    maps = positional_maps((4, 5), noise=0.0)
    free = removal_from_moments(moments(maps), rounds=5)
    centred = rows(maps) - rows(maps).mean(0)
    assert (centred @ free).abs().max() < 1e-6 * centred.abs().max()
    assert torch.linalg.matrix_rank(free, rtol=1e-6) == 8 - 2, "stops where nothing is left to predict"


def test_axes_of_one_cell_and_constant_features_take_nothing_out() -> None:
    assert torch.equal(removal_from_moments(moments(random(6, 5, 1)), rounds=3), torch.eye(5).double())
    assert torch.equal(removal_from_moments(moments(torch.ones(6, 5, 4, 4)), rounds=3), torch.eye(5))
    flat = removal_from_moments(moments(positional_maps((1, 4, 3))), rounds=1)
    assert torch.linalg.matrix_rank(flat, rtol=1e-6) == 8 - 2


def test_no_ridge_is_refused() -> None:
    with pytest.raises(ConfigError, match="ridge above 0"):
        removal_from_moments(moments(random(2, 3, 4)), rounds=1, ridge=0.0)
