"""Hidden parts: exact sizes, connected groups, what stands in their place, replay."""

from __future__ import annotations

import pickle

import pytest
import torch
from scipy.ndimage import label
from torch import Tensor

from medssl.views.corruption import KINDS, apply_corruption, draw_corruption, smooth_noise

GRIDS: list[tuple[int, ...]] = [(40,), (12, 10), (6, 8, 5)]
grids = pytest.mark.parametrize("grid", GRIDS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(n: int, grid: tuple[int, ...], step: int = 4) -> Tensor:
    return torch.randn(n, 2, *(g * step for g in grid), generator=generator(8)) + 3


@grids
def test_exactly_the_drawn_share_is_hidden(grid: tuple[int, ...]) -> None:
    cells = torch.Size(grid).numel()
    hidden = draw_corruption(50, grid, generator(), ratio=(0.3, 0.3))["hidden"]
    assert hidden.shape == (50, *grid)
    assert (hidden.flatten(1).sum(1) == round(0.3 * cells)).all()
    shares = draw_corruption(300, grid, generator(), ratio=(0.2, 0.8))["hidden"].flatten(1).float().mean(1)
    assert 0.2 - 1 / cells <= shares.min() < 0.25 and 0.75 < shares.max() <= 0.8 + 1 / cells
    assert 0.45 < shares.mean() < 0.55


@pytest.mark.parametrize("ratio", [(0.001, 0.001), (0.999, 0.999)])
def test_something_is_hidden_and_something_stays(ratio: tuple[float, float]) -> None:
    hidden = draw_corruption(5, (4, 4), generator(), ratio=ratio)["hidden"].flatten(1).sum(1)
    assert (hidden >= 1).all() and (hidden <= 15).all()


@grids
def test_hidden_cells_stand_in_groups(grid: tuple[int, ...]) -> None:
    def groups(reach: float) -> float:
        hidden = draw_corruption(40, grid, generator(), ratio=(0.4, 0.4), reach=reach)["hidden"]
        return sum(label(row.numpy())[1] for row in hidden) / 40

    assert groups(1.5) < 0.6 * groups(0.0)


@grids
def test_neighbours_mostly_share_what_hides_them(grid: tuple[int, ...]) -> None:
    kind = draw_corruption(60, grid, generator(), reach=1.5)["kind"]
    assert (kind.diff(dim=1) == 0).float().mean() > 0.6, "a third by chance"
    counts = torch.bincount(kind.flatten(), minlength=len(KINDS)) / kind.numel()
    assert (counts - 1 / 3).abs().max() < 0.05


def test_smooth_noise_has_one_variance_everywhere() -> None:
    noise = smooth_noise(4000, (9,), generator(), reach=1.5)
    assert (noise.std(0) - 1).abs().max() < 0.06
    assert torch.corrcoef(noise.T)[4, 5] > 0.7


@grids
def test_what_is_hidden_is_replaced_and_nothing_else(grid: tuple[int, ...]) -> None:
    x = inputs(6, grid)
    drawn = draw_corruption(6, grid, generator())
    found = apply_corruption(x, drawn)
    enlarged = {k: drawn[k] for k in ("hidden", "kind")}
    for axis in range(1, 1 + len(grid)):
        enlarged = {k: v.repeat_interleave(4, axis) for k, v in enlarged.items()}
    hidden, kind = (enlarged[k].unsqueeze(1).expand_as(x) for k in ("hidden", "kind"))
    assert torch.equal(found[~hidden], x[~hidden])
    assert (found[hidden & (kind == 1)] == 0).all()
    assert torch.equal(found[hidden & (kind == 2)], x[drawn["source"]][hidden & (kind == 2)])
    noise = found[hidden & (kind == 0)]
    assert abs(noise.mean() - 3) < 0.2 and abs(noise.std() - 1) < 0.2
    assert not (noise == x[hidden & (kind == 0)]).any()


def test_parts_come_from_another_recording_in_the_same_view() -> None:
    source = draw_corruption(15, (8,), generator(), samples=5)["source"].view(3, 5)
    assert (source // 5 == torch.arange(3).unsqueeze(1)).all()
    assert (source % 5 != torch.arange(5)).all() and torch.equal(source[0] % 5, source[2] % 5)
    alone = draw_corruption(3, (8,), generator(), samples=1)
    assert alone["kind"].max() == 1, "no other recording to take parts of"


def test_sizes_that_are_no_multiple_of_the_grid() -> None:
    x = torch.randn(3, 1, 23, 17)
    found = apply_corruption(x, draw_corruption(3, (4, 3), generator()))
    assert found.shape == x.shape and (found != x).any() and (found == x).any()


def test_the_record_replays_it_and_seeds_differ() -> None:
    x = inputs(4, (6, 5))
    drawn, other = (draw_corruption(4, (6, 5), generator(s)) for s in (1, 2))
    again = pickle.loads(pickle.dumps(drawn))
    assert torch.equal(apply_corruption(x, drawn), apply_corruption(x, again))
    assert not torch.equal(drawn["hidden"], other["hidden"])
    assert torch.equal(drawn["hidden"], draw_corruption(4, (6, 5), generator(1))["hidden"])
