"""Which cells of a grid are hidden from a student."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["hidden_runs", "inverse_blocks"]


def hidden_runs(
    shape: Sequence[int],
    ratio: float,
    mean_length: float,
    *,
    generator: torch.Generator,
    sync: bool = False,
    variable: bool = False,
) -> Tensor:
    """Masks of single time steps in runs (Zerveas et al., KDD 2021; masked value prediction of tsai).

    Hidden runs have geometric lengths of mean l, the gaps between them of mean l (1 - r) / r; a row begins anywhere in
    either. A step hides what follows with probability r / (l (1 - r)), shows it with 1 / l, or leaves it as it is, so
    that all steps are drawn at once.

    Args:
        shape: (N, C, T).
        ratio: r, expected share of hidden steps, between 0 and 1.
        mean_length: l in steps, from 1 / (1 - r), where steps are independent of each other.
        generator: of all draws; the masks are made on its device.
        sync: hide the same steps in all channels.
        variable: each row (and channel, unless ``sync``) has its own share, uniform from 0 to 2r.

    Returns:
        (N, C, T) booleans, True where hidden.

    Raises:
        ValueError: a share that is none, or runs shorter than those of independent steps.

    >>> hidden_runs((1, 1, 12), 0.5, 3.0, generator=torch.Generator().manual_seed(4)).int().tolist()
    [[[0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]]]
    """
    most = 2 * ratio if variable else ratio
    if not ratio > 0 or not most < 1 or mean_length < 1 / (1 - most) - 1e-9:
        raise ValueError(f"cannot hide a share of up to {most} in runs of {mean_length}: at least 1 / (1 - share)")
    (n, c, length), device = shape, generator.device
    rows = (n, 1 if sync else c, 1)
    share = torch.full(rows, ratio, device=device)
    if variable:
        share = most * torch.rand(rows, generator=generator, device=device)
    chance = torch.rand(*rows[:2], length, generator=generator, device=device)
    hide = chance < share / (mean_length * (1 - share))
    change = hide | (chance > 1 - 1 / mean_length)
    hide[..., 0] = chance[..., 0] < share[..., 0]
    place = torch.where(change, torch.arange(length, device=device), 0)
    return hide.gather(-1, place.cummax(-1).values).expand(n, c, length)


def inverse_blocks(
    grid: Sequence[int],
    hidden: int,
    *,
    count: int,
    generator: torch.Generator,
    aspect: tuple[float, float] = (0.5, 2.0),
    roll: bool = True,
) -> Tensor:
    """Masks that leave one block visible and hide the rest (Franca's "CyclicMask", 2025).

    The block's edges have random ratios. Each is rounded up, and what is too much is cut from the block's last cells
    in raster order, so that exactly ``hidden`` cells are hidden. Rolled masks wrap around the grid's borders, and every
    cell is visible equally often; without, the middle is visible more often.

    Args:
        grid: cells an axis, one to three axes or more.
        hidden: cells to hide, 0 to all.
        count: masks.
        generator: of all draws; the masks are made on its device.
        aspect: range of the ratio of each axis' edge to the last axis', log-uniform, clipped so that the block fits.
        roll: shift each mask by a random number of cells along each axis.

    Returns:
        (count, *grid) booleans, True where hidden.

    Raises:
        ValueError: more cells to hide than there are, or an empty range.

    >>> inverse_blocks((6,), 4, count=1, generator=torch.Generator().manual_seed(0)).sum()
    tensor(4)
    """
    cells, axes, device = math.prod(grid), len(grid), generator.device
    if not 0 <= hidden <= cells or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"cannot hide {hidden} of {cells} cells with ratios of edges from {aspect[0]} to {aspect[1]}")
    visible = cells - hidden

    def draw() -> Tensor:
        return torch.rand(count, axes, generator=generator, device=device, dtype=torch.float64)

    size = torch.tensor(grid, device=device, dtype=torch.float64)
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratios = low + (high - low) * draw()
    ratios[:, -1] = 0
    edges = _fitting_edges(ratios.exp(), size, visible)
    start = (draw() * (size - edges + 1)).floor()
    inside = torch.ones(count, *grid, dtype=torch.bool, device=device)
    for axis, length in enumerate(grid):
        place = torch.arange(length, device=device)
        one = (place >= start[:, axis : axis + 1]) & (place < (start + edges)[:, axis : axis + 1])
        inside &= one.view(count, *(length if a == axis else 1 for a in range(axes)))
    flat = inside.flatten(1)
    mask = ~(flat & (flat.cumsum(1) <= visible)).view(count, *grid)
    return _rolled(mask, (draw() * size).floor().long()) if roll else mask


def _fitting_edges(ratios: Tensor, size: Tensor, cells: int) -> Tensor:
    """Whole edges (count, axes) of blocks with at least ``cells`` cells, in proportion to ``ratios`` where they fit."""
    edges = ratios * (cells / ratios.prod(1, keepdim=True)) ** (1 / len(size))
    for _ in range(len(size)):  # an axis that is too short leaves its share to the others
        edges = torch.minimum(edges, size)
        free = edges < size
        edges = torch.where(
            free, edges * (cells / edges.prod(1, keepdim=True)) ** (1 / free.sum(1, keepdim=True).clamp_min(1)), edges
        )
    rounding = 1e-9  # of an edge that is a whole number but for the last digits
    return torch.minimum((edges - rounding).ceil(), size)


def _rolled(masks: Tensor, shifts: Tensor) -> Tensor:
    """Each mask (count, *grid) shifted cyclically by its own ``shifts`` (count, axes)."""
    for axis, length in enumerate(masks.shape[1:]):
        source = (torch.arange(length, device=masks.device) - shifts[:, axis : axis + 1]) % length
        index = source.view(len(masks), *(length if a == axis else 1 for a in range(shifts.shape[1])))
        masks = masks.gather(axis + 1, index.expand_as(masks))
    return masks
