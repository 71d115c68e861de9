"""Two random crops that overlap, of every row of a batch (TS2Vec). Drawn apart from being applied."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["OverlappingCrops", "cut", "draw_overlapping"]


class OverlappingCrops(NamedTuple):
    """Where two crops of every row lie: ``[start, start + length)``, all rows' of the same lengths.

    Attributes:
        starts: (2, N) of the first and of the second crop; the first begins and ends no later than the second.
        lengths: of both.
        overlap: steps that both show: the last of the first crop and the first of the second.
    """

    starts: Tensor
    lengths: tuple[int, int]
    overlap: int


def draw_overlapping(n: int, steps: int, generator: torch.Generator, *, least: int = 2) -> OverlappingCrops:
    r"""Crops :math:`[a_1, b_1)` and :math:`[a_2, b_2)` with :math:`a_1 \le a_2 < b_1 \le b_2`, the same for all rows
    but for a random shift of each.

    Args:
        n: rows.
        steps: of a row.
        generator: of all draws; ``starts`` are on its device.
        least: fewest steps of the overlap, whose number is uniform up to ``steps``.

    Raises:
        ValueError: rows shorter than that.
    """
    if steps < least:
        raise ValueError(f"rows of {steps} steps cannot overlap in {least}")

    def between(low: int, high: int) -> int:
        """Of both, and all between them."""
        return int(torch.randint(low, high + 1, (), generator=generator, device=generator.device))

    overlap = between(least, steps)
    a2 = between(0, steps - overlap)
    b1 = a2 + overlap
    a1, b2 = between(0, a2), between(b1, steps)
    shift = torch.randint(-a1, steps - b2 + 1, (n,), generator=generator, device=generator.device)
    return OverlappingCrops(torch.stack([a1 + shift, a2 + shift]), (b1 - a1, b2 - a2), overlap)


def cut(x: Tensor, starts: Tensor, length: int) -> Tensor:
    """A stretch of every row from its own start: (N, C, T) and (N,) → (N, C, length).

    >>> cut(torch.arange(6).view(2, 1, 3), torch.tensor([0, 1]), 2).tolist()
    [[[0, 1]], [[4, 5]]]
    """
    places = starts[:, None, None] + torch.arange(length, device=x.device)
    return x.gather(2, places.expand(-1, x.shape[1], -1))
