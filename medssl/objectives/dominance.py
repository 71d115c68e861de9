"""Sums over the points that precede another in both of two orders, for all points at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dominated_sums", "ranks_of"]


def ranks_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted values and the place of each value among them, (B, n) each; equal values keep their order."""
    ordered, order = values.sort(dim=-1, stable=True)
    places = torch.arange(values.shape[-1], device=values.device).expand_as(order)
    return ordered, torch.empty_like(order).scatter_(-1, order, places)


def dominated_sums(ranks: Tensor, features: Tensor, stop: Tensor, below: Tensor) -> Tensor:
    r"""Offline two-dimensional dominance sums.

    .. math:: S_q = \sum_{j < \text{stop}_q,\ \text{ranks}_j < \text{below}_q} f_j

    The ranks are sorted by one binary digit after the other, from the highest (a wavelet tree); at each digit a query
    adds the points of the lower half of its node, an interval of prefix sums, and goes on in one half. Time
    O((n + m) C log n), memory O((n + m) C); no step depends on the data, so all queries and batches move together.

    Args:
        ranks: (B, n) a permutation of 0 … n - 1 in every row.
        features: (B, n, C), floating point. Sums are differences of prefix sums: give float64 for exactness.
        stop: (B, m) from 0 to n.
        below: (B, m) from 0 to n.

    Returns:
        (B, m, C).

    >>> ranks = torch.tensor([[2, 0, 1]])
    >>> dominated_sums(ranks, torch.ones(1, 3, 1), torch.tensor([[3, 2, 1]]), torch.tensor([[2, 2, 2]])).flatten()
    tensor([2., 1., 0.])
    """
    n = ranks.shape[1]
    start = torch.zeros_like(stop)
    total = features.new_zeros(*stop.shape, features.shape[-1])
    place = torch.arange(n, device=ranks.device).expand_as(ranks)
    for bit in reversed(range(n.bit_length())):
        half = 1 << bit
        low = (ranks & half) == 0
        lows = functional.pad(low.cumsum(1), (1, 0))
        node = (ranks >> (bit + 1)) << (bit + 1)  # ranks are complete, so a node starts at its smallest rank
        within = lows[:, :-1] - lows.gather(1, node)
        to = torch.where(low, node + within, half + place - within)
        ranks = torch.empty_like(ranks).scatter_(1, to, ranks)
        features = torch.empty_like(features).scatter_(1, to.unsqueeze(-1).expand_as(features), features)
        sums = functional.pad(features.cumsum(1), (0, 0, 1, 0))
        before = lows.gather(1, stop) - lows.gather(1, start)
        high = (below & half) != 0
        total += _rows(sums, torch.where(high, start + before, start))
        total -= _rows(sums, start)
        stop = torch.where(high, stop - before + half, start + before)
        start = torch.where(high, start + half, start)
    return total


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, n, C) at places (B, m): (B, m, C)."""
    batch, length, channels = values.shape
    first = torch.arange(batch, device=index.device).unsqueeze(1) * length
    return values.reshape(-1, channels).index_select(0, (index + first).flatten()).view(batch, -1, channels)
