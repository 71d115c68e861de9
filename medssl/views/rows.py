"""Changing some rows of a batch, and drawing per-row parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["chosen", "column", "on_rows", "seeded_noise", "seeds", "sometimes", "uniform"]


def chosen(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """(n,) booleans, each true with the probability."""
    return torch.rand(n, generator=generator, device=generator.device) < probability


def uniform(shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [low, high), float32."""
    size = (shape,) if isinstance(shape, int) else shape
    return low + (high - low) * torch.rand(size, generator=generator, device=generator.device)


def sometimes(probability: float, drawn: Tensor, neutral: float, generator: torch.Generator) -> Tensor:
    """(n,) what was drawn, each with the probability, else a neutral value."""
    return torch.where(chosen(len(drawn), probability, generator), drawn, neutral)


def seeds(generator: torch.Generator) -> Tensor:
    """A scalar int64 from which noise can be drawn again later."""
    return torch.randint(2**62, (), generator=generator, device=generator.device)


def seeded_noise(like: Tensor, seed: Tensor) -> Tensor:
    """Standard normal numbers in the shape of ``like``, the same whenever seed, shape and device are the same."""
    generator = torch.Generator(device=like.device).manual_seed(int(seed))
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(n,) values to be broadcast over rows of the type and number of axes of ``like``."""
    return values.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def on_rows(x: Tensor, rows: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``x`` with some rows changed; a transform of small probability costs little.

    Args:
        x: (N, ...).
        rows: (N,) booleans.
        change: gets the chosen rows and their (n,) positions, returns the rows changed.
    """
    places = rows.nonzero().squeeze(1)
    if len(places) == 0:
        return x
    if len(places) == len(x):
        return change(x, places)
    return x.index_copy(0, places, change(x.index_select(0, places), places))
