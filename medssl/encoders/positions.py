"""Fixed codes of places in a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["interleaved_sines", "sine_positions"]


def sine_positions(grid: Sequence[int], width: int, *, slowest: float = 10_000.0) -> Tensor:
    """Sines and cosines of the place along each axis, (prod(grid), width) float32, cells in raster order.

    The code of an axis with d features is [sin(p ω₀), …, cos(p ω₀), …] with ωᵢ = slowest^(-2i/d). All axes but the
    first have the largest even d not above (width - 2 ⌊width / 2A⌋) / (A - 1) features, A the number of axes, and the
    first what is left.

    Args:
        grid: cells along each axis.
        width: features, even.
        slowest: places along which the slowest wave turns by about 1 radian. Published: 10000, where most features of a
            grid of a few cells are nearly the same everywhere.

    >>> sine_positions((2,), 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    axes = len(grid)
    if width % 2 or width < 2 * axes:
        raise ValueError(f"sine codes of {axes} axes need an even width of at least {2 * axes}, not {width}")
    later = (width - 2 * (width // (2 * axes))) // (axes - 1) // 2 * 2 if axes > 1 else 0
    widths = [width - (axes - 1) * later, *(later,) * (axes - 1)]
    codes = []
    for axis, (length, features) in enumerate(zip(grid, widths, strict=True)):
        place = torch.arange(length, dtype=torch.float64).unsqueeze(1)
        frequency = slowest ** (-torch.arange(features // 2, dtype=torch.float64) / (features // 2))
        code = torch.cat([(place * frequency).sin(), (place * frequency).cos()], 1)
        shape = [1] * axes + [features]
        shape[axis] = length
        codes.append(code.view(shape).expand(*grid, features))
    return torch.cat(codes, -1).flatten(0, -2).float()


def interleaved_sines(count: int, width: int) -> Tensor:
    """Sines and cosines of the place in a sequence, taking turns (Vaswani et al., 2017), (count, width) float32.

    Feature j of place p is sin a for even j and cos a for odd j, a = p / 10000^(2 ⌊j / 2⌋ / width).

    Args:
        count: places.
        width: features.

    >>> interleaved_sines(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    feature = torch.arange(width)
    frequency = 10_000.0 ** (-2 * (feature // 2).double() / width)
    angle = torch.arange(count, dtype=torch.float64).unsqueeze(1) * frequency
    return torch.where(feature % 2 == 0, angle.sin(), angle.cos()).float()
