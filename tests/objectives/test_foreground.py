"""Foreground of maps: mass, borders, ties, and which cells go on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medssl.objectives.foreground import (
    blurred,
    foreground,
    foreground_mask,
    pooled_cells,
    strongest_cells,
    summary_attention,
)

GRIDS: list[tuple[int, ...]] = [(9,), (5, 6), (3, 4, 2)]
grids = pytest.mark.parametrize("grid", GRIDS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@grids
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_the_mask_is_the_smallest_that_holds_the_mass(grid: tuple[int, ...], keep: float) -> None:
    attention = random(4, *grid) ** 3
    mask = foreground_mask(attention, keep=keep, sigma=0.6)
    mass = blurred(attention, 0.6)
    for row, weight in zip(mask, mass, strict=True):
        share = weight[row].sum() / weight.sum()
        assert share >= keep
        assert share - weight[row].min() / weight.sum() <= keep, "one cell less would not do"
        assert weight[row].min() >= weight[~row].max()


@grids
def test_more_mass_means_more_cells(grid: tuple[int, ...]) -> None:
    attention = random(4, *grid)
    sizes = [int(foreground_mask(attention, keep=k).sum()) for k in (0.2, 0.5, 0.8, 1.0)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_nothing_shows_nothing() -> None:
    assert not foreground_mask(torch.zeros(2, 4, 4)).any()


@grids
def test_smoothing_equals_the_loops_and_keeps_a_constant(grid: tuple[int, ...]) -> None:
    x = random(2, *grid)
    torch.testing.assert_close(blurred(torch.ones_like(x), 0.8), torch.ones_like(x))
    offsets = torch.arange(-3, 4)
    weights = torch.exp(-0.5 * (offsets.double() / 0.8) ** 2)
    weights = weights / weights.sum()
    wanted = x
    for axis, length in enumerate(grid, start=1):
        rows = []
        for i in range(length):
            parts = []
            for offset, weight in zip(offsets.tolist(), weights, strict=True):
                place = i + offset
                while not 0 <= place < length:  # reflected as often as it takes
                    place = -place if place < 0 else 2 * (length - 1) - place
                parts.append(weight * wanted.select(axis, place))
            rows.append(torch.stack(parts).sum(0))
        wanted = torch.stack(rows, axis)
    torch.testing.assert_close(blurred(x, 0.8), wanted, atol=1e-14, rtol=0)


def test_cells_like_the_whole_get_the_attention() -> None:
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 0] = 1  # the object's direction nearly everywhere
    maps[0, :, 0, 0] = torch.tensor([0.0, 1.0])
    maps[0, :, 2, 2] = torch.tensor([-1.0, 0.0])
    attention = summary_attention(maps)[0]
    assert attention[2, 2] == 0 and attention[0, 0] < 0.3
    assert attention[1, 1] > 0.9 and attention.argmax() != 0
    assert not summary_attention(torch.zeros(2, 4, 5)).any()


def test_equal_cells_are_told_apart_by_their_attention() -> None:
    maps = torch.randn(2, 3, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    kept = foreground(maps)
    attention = summary_attention(maps.flatten(0, 1)).view(2, 3, 6, 5)
    inside = kept >= 1
    for row, strength in zip((kept * inside).flatten(0, 1), (attention * inside).flatten(0, 1), strict=True):
        assert row.argmax() == strength.argmax()


@grids
def test_pooling_never_enlarges(grid: tuple[int, ...]) -> None:
    maps = random(2, 3, *grid)
    assert pooled_cells(maps, max(grid)) is maps
    assert pooled_cells(maps, 4).shape[2:] == tuple(min(4, g) for g in grid)
    torch.testing.assert_close(pooled_cells(maps, 1).flatten(2).squeeze(-1), maps.flatten(2).mean(-1))


@grids
def test_the_strongest_cells_over_all_crops_of_a_recording(grid: tuple[int, ...]) -> None:
    kept, maps = random(2, 3, *grid), random(2, 3, 5, *grid, seed=1)
    (found,) = strongest_cells(kept, [maps], cells=99, count=4)
    assert found.shape == (3, 4, 5)
    for n in range(3):
        cells = [(float(kept[v, n].flatten()[c]), v, c) for v in range(2) for c in range(kept[v, n].numel())]
        best = sorted(cells, reverse=True)[:4]
        wanted = torch.stack([maps[v, n].flatten(1)[:, c] for _, v, c in best])
        assert torch.equal(found[n], wanted)
    (everything,) = strongest_cells(kept, [maps], cells=2, count=10**6)
    assert everything.shape[1] == 2 * pooled_cells(maps[0], 2)[0, 0].numel()
