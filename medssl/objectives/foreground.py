"""Which cells of a map show something: a mask from an attention map, and the cells an objective goes on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.pairs import unit

__all__ = [
    "adaptive_means", "blurred", "cells_of", "foreground", "foreground_mask", "pooled_cells", "strongest_cells",
    "summary_attention",
]  # fmt: skip

BLUR_RADIUS = 3  # published: 7 × 7
TIE_BREAK = 1e-3  # well below the smallest step of a pooled mask


def summary_attention(maps: Tensor) -> Tensor:
    """How much each cell resembles the whole: its cosine with the mean over all cells, negative ones set to 0.

    Stands in for the attention of a class token (CoTAP), which most encoders do not have.

    Args:
        maps: (N, D, *grid).

    Returns:
        (N, *grid), from 0 to 1.
    """
    cells = unit(cells_of(maps))
    whole = unit(cells_of(maps).mean(1))
    return torch.einsum("ncd,nd->nc", cells, whole).clamp_min(0).view(len(maps), *maps.shape[2:])


def foreground_mask(attention: Tensor, *, keep: float = 0.6, sigma: float = 0.6) -> Tensor:
    """The fewest cells that hold more than a share of the attention, after smoothing (CoTAP; DINO before it).

    Args:
        attention: (N, *grid), not negative.
        keep: share of the mass, 0 to 1.
        sigma: standard deviation in cells of the smoothing.

    Returns:
        (N, *grid) booleans; nothing where a row has no attention at all.

    >>> foreground_mask(torch.tensor([[0.0, 0.0, 0.0, 0.0, 9.0, 1.0, 0.0, 0.0]]), sigma=0.1).int()
    tensor([[0, 0, 0, 0, 1, 0, 0, 0]], dtype=torch.int32)
    """
    mass, order = blurred(attention, sigma).flatten(1).sort(1)
    share = mass / mass.sum(1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)
    kept = share.cumsum(1) > 1 - keep
    return torch.zeros_like(kept).scatter_(1, order, kept).view(attention.shape)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing over 7 cells along every axis; borders reflect, also where an axis has fewer cells than 4.

    Args:
        x: (N, *grid).
        sigma: standard deviation in cells.
    """
    for axis in range(1, x.ndim):
        weights = _blur_matrix(x.shape[axis], sigma).to(x)
        x = torch.tensordot(x, weights, dims=([axis], [1])).movedim(-1, axis)
    return x


def cells_of(maps: Tensor) -> Tensor:
    """(N, D, *grid) → (N, cells, D)."""
    return maps.flatten(2).transpose(1, 2)


def pooled_cells(maps: Tensor, cells: int) -> Tensor:
    """Adaptive average over at most ``cells`` cells an axis: (N, D, *grid) → (N, D, *smaller); never enlarges.

    >>> pooled_cells(torch.ones(1, 1, 8, 3), 4).shape
    torch.Size([1, 1, 4, 3])
    """
    size = [min(cells, length) for length in maps.shape[2:]]
    return maps if size == list(maps.shape[2:]) else adaptive_means(maps, size)


def adaptive_means(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive average: (N, D, *grid) → (N, D, *size), one to three axes."""
    pools: list[Callable[..., Tensor]] = [
        functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d,
    ]  # fmt: skip
    return pools[len(size) - 1](maps, tuple(size))


def strongest_cells(kept: Tensor, maps: Sequence[Tensor], *, cells: int, count: int) -> list[Tensor]:
    """Cells of largest pooled foreground, of every recording over all of its crops.

    Args:
        kept: (V, N, *grid) foreground of V crops of N recordings.
        maps: (V, N, D, *grid) each.
        cells: pooled cells an axis.
        count: cells of a recording to keep; all if there are fewer.

    Returns:
        (N, count, D) of each of the maps, by falling foreground.
    """
    weight = _by_recording(pooled_cells(kept.flatten(0, 1).unsqueeze(1), cells), len(kept)).squeeze(-1)
    best = weight.topk(min(count, weight.shape[1]), dim=1).indices.unsqueeze(-1)
    chosen = []
    for each in maps:
        pooled = _by_recording(pooled_cells(each.flatten(0, 1), cells), len(each))
        chosen.append(pooled.gather(1, best.expand(-1, -1, pooled.shape[-1])))
    return chosen


def foreground(maps: Tensor, *, keep: float = 0.6) -> Tensor:
    """Foreground of maps (V, N, D, *grid) as ``strongest_cells`` wants it, (V, N, *grid).

    1 in the mask and 0 outside, and a little more where a cell resembles the whole more: the mask alone would leave
    the choice among equal cells to chance.
    """
    attention = summary_attention(maps.flatten(0, 1))
    mask = foreground_mask(attention, keep=keep).to(attention.dtype)
    return (mask + TIE_BREAK * attention).view(*maps.shape[:2], *maps.shape[3:])


def _by_recording(maps: Tensor, crops: int) -> Tensor:
    """(V·N, D, *grid) → (N, V·cells, D)."""
    cells = cells_of(maps)
    return cells.view(crops, -1, *cells.shape[1:]).transpose(0, 1).flatten(1, 2)


def _blur_matrix(length: int, sigma: float) -> Tensor:
    """(length, length) float64: row i holds the weights of its neighbours, those beyond a border reflected."""
    offset = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    place = torch.arange(length).unsqueeze(1) + offset
    period = max(1, 2 * (length - 1))
    place = (place % period).minimum(period - place % period).clamp_max(length - 1)
    rows = torch.zeros(length, length, dtype=torch.float64)
    return rows.scatter_add_(1, place, (weight / weight.sum()).expand_as(place).contiguous())
