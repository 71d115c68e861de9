"""Inverse-block masks: exact counts, one block on the torus, every cell visible equally often."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.objectives.masks import inverse_blocks

GRIDS = [(9,), (7, 7), (5, 12), (4, 5, 6), (1, 6, 6), (1,)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parts(visible: Tensor, *, torus: bool) -> int:
    """Number of connected groups of cells that share a face."""
    left = {tuple(c) for c in visible.nonzero().tolist()}
    count = 0
    while left:
        count += 1
        reached = [left.pop()]
        while reached:
            cell = reached.pop()
            for axis, size in enumerate(visible.shape):
                for step in (-1, 1):
                    place = cell[axis] + step
                    near = (*cell[:axis], place % size if torus else place, *cell[axis + 1 :])
                    if near in left:
                        left.remove(near)
                        reached.append(near)
    return count


@pytest.mark.parametrize("roll", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_exact_number_is_hidden_and_the_rest_hangs_together(grid: tuple[int, ...], roll: bool) -> None:
    cells = math.prod(grid)
    for hidden in {0, 1, cells // 3, cells // 2, (9 * cells) // 10, cells - 1, cells}:
        masks = inverse_blocks(grid, hidden, count=6, generator=generator(hidden), roll=roll)
        assert masks.shape == (6, *grid) and masks.dtype == torch.bool
        assert (masks.flatten(1).sum(1) == hidden).all()
        for mask in masks:
            assert parts(~mask, torus=roll) == (hidden < cells)


@pytest.mark.parametrize("grid", [(9,), (8, 8), (4, 5, 6)])
def test_every_cell_is_visible_equally_often_when_rolled(grid: tuple[int, ...]) -> None:
    count, cells = 4000, math.prod(grid)
    shares = inverse_blocks(grid, cells // 2, count=count, generator=generator()).double().mean(0)
    expected = (cells // 2) / cells
    assert (shares - expected).abs().max() < 5 * math.sqrt(expected * (1 - expected) / count)
    centred = inverse_blocks(grid, cells // 2, count=count, generator=generator(), roll=False).double().mean(0)
    assert centred.max() - centred.min() > 0.2, "without, the middle is hidden less often"


def test_block_keeps_to_the_range_of_ratios() -> None:
    masks = inverse_blocks((40, 40), 1600 - 400, count=300, generator=generator(), aspect=(0.5, 2.0), roll=False)
    visible = ~masks
    ratios = visible.any(2).sum(1) / visible.any(1).sum(1)
    assert ratios.min() >= 0.5 * 0.9 and ratios.max() <= 2 * 1.1
    assert ratios.min() < 0.6 and ratios.max() > 1.7
    square = ~inverse_blocks((40, 40), 1600 - 400, count=5, generator=generator(), aspect=(1.0, 1.0), roll=False)
    assert (square.any(2).sum(1) == 20).all() and (square.any(1).sum(1) == 20).all()


def test_a_block_too_long_for_an_axis_takes_more_of_the_others() -> None:
    masks = inverse_blocks((2, 30), 60 - 40, count=50, generator=generator(), roll=False)
    assert ((~masks).any(1).sum(1) == 20).all()


def test_the_generator_alone_decides() -> None:
    first, same, other = (inverse_blocks((6, 6), 18, count=4, generator=generator(s)) for s in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot hide 10 of 9 cells"):
        inverse_blocks((3, 3), 10, count=1, generator=generator())
    with pytest.raises(ValueError, match="ratios"):
        inverse_blocks((3, 3), 4, count=1, generator=generator(), aspect=(2.0, 0.5))
