"""Hiding connected parts of an input: noise, zeros or parts of another sample in their place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medssl.views.rows import seeded_noise, seeds, uniform

__all__ = ["KINDS", "apply_corruption", "draw_corruption", "enlarged", "smooth_noise"]

KINDS = ("noise", "zeros", "other")
"""What may stand in the place of a cell, by the numbers of ``draw_corruption``."""

Parameters = dict[str, Tensor]


def draw_corruption(
    n: int,
    grid: Sequence[int],
    generator: torch.Generator,
    *,
    ratio: tuple[float, float] = (0.3, 0.7),
    reach: float = 1.0,
    samples: int | None = None,
) -> Parameters:
    """Which cells of each row are hidden, and by what (Wu et al., *Masked momentum contrastive learning*, 2023).

    Smooth noise above its own quantile gives groups of connected cells of exactly the drawn size. What hides a group
    is told by a second smooth noise, so that neighbouring cells mostly share it.

    Args:
        n: rows.
        grid: cells along each axis.
        generator: of all draws; the result is made on its device.
        ratio: smallest and largest share of hidden cells; at least one cell is hidden and one stays.
        reach: standard deviation in cells of the smoothing, from 0 (single cells).
        samples: rows come as views of so many recordings, the recordings varying fastest; parts are taken from other
            recordings. None: every row is a recording of its own. With one recording there are no other's parts.

    Returns:
        ``hidden`` (n, *grid) booleans; ``kind`` (n, *grid) places in ``KINDS``; ``source`` (n,) the row whose parts
        stand in; the scalar ``noise_seed``. They are all that is needed to replay the corruption.
    """
    samples = samples or n
    cells, device = math.prod(grid), generator.device
    count = (uniform(n, *ratio, generator) * cells).round().clamp(1, max(1, cells - 1))
    places = smooth_noise(n, grid, generator, reach=reach).flatten(1).argsort(-1).argsort(-1)
    kinds = smooth_noise(n, grid, generator, reach=reach).flatten(1).argsort(-1).argsort(-1)
    several = len(KINDS) if samples > 1 else len(KINDS) - 1
    order = torch.rand(samples, generator=generator, device=device).argsort()
    other = torch.empty_like(order).scatter_(0, order, order.roll(1))  # one cycle: nobody gets its own parts
    first = torch.arange(0, n, samples, device=device).unsqueeze(1)
    return {
        "hidden": (places < count.unsqueeze(1)).view(n, *grid),
        "kind": (kinds * several // cells).view(n, *grid),
        "source": (first + other).flatten(),
        "noise_seed": seeds(generator),
    }


def apply_corruption(x: Tensor, parameters: Parameters) -> Tensor:
    """Inputs whose hidden cells show something else.

    Args:
        x: (N, C, *size), float. Noise has the mean and standard deviation of each channel of each row.
        parameters: of ``draw_corruption``; a cell covers its share of the size along each axis.

    Returns:
        Like ``x``; what is not hidden is unchanged.
    """
    axes = tuple(range(2, x.ndim))
    hidden, kind = (enlarged(parameters[key], x.shape[2:]) for key in ("hidden", "kind"))
    mean, sd = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
    noise = seeded_noise(x, parameters["noise_seed"]) * sd + mean
    other = x.index_select(0, parameters["source"])
    shown = torch.where(kind == 0, noise, torch.where(kind == 1, torch.zeros_like(x), other))
    return torch.where(hidden, shown, x)


def smooth_noise(n: int, grid: Sequence[int], generator: torch.Generator, *, reach: float) -> Tensor:
    """Gaussian noise (n, *grid) smoothed along every axis with a standard deviation of ``reach`` cells."""
    noise = torch.randn(n, *grid, generator=generator, device=generator.device)
    if reach <= 0:
        return noise
    for axis, length in enumerate(grid, start=1):
        place = torch.arange(length, device=noise.device, dtype=noise.dtype)
        weights = torch.exp(-0.5 * ((place - place.unsqueeze(1)) / reach).square())
        weights = weights / weights.square().sum(1, keepdim=True).sqrt()  # equal variance at the borders
        noise = torch.tensordot(noise, weights, dims=([axis], [1])).movedim(-1, axis)
    return noise


def enlarged(cells: Tensor, size: Sequence[int]) -> Tensor:
    """(N, *grid) → (N, 1, *size) of the same type, each cell repeated over its share."""
    return functional.interpolate(cells.unsqueeze(1).float(), size=tuple(size), mode="nearest").to(cells.dtype)
