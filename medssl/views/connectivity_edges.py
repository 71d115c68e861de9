"""Graphs of regions: the strongest correlations as edges. Pure functions on tensors, batched; see ``connectivity``."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views.connectivity import all_on_cpu, block_size, lower_triangle, triangle_places, worth_blocks

__all__ = ["edge_threshold", "top_edges"]


def top_edges(r: Tensor, density: float, valid: Tensor | None = None) -> Tensor:
    """The strongest correlations of each graph as its edges: those above a percentile, strictly.

    The percentile is taken over all N² entries between valid regions, the diagonal included, interpolated linearly
    (``numpy.percentile(r, 100 (1 - density))``). Negative correlations are no strong ones.

    Args:
        r: (..., N, N) of ``correlation``, its absolute values or an increasing map of them: symmetric, and no entry
            exceeds those of the diagonal.
        density: share of the entries that become edges, in (0, 1].
        valid: (..., N) booleans; by default regions that have any correlation but their own.

    Returns:
        (..., N, N) booleans, with all self-loops, which are the only edges of invalid regions.

    >>> top_edges(torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]]), 0.6).int()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [0, 0, 1]], dtype=torch.int32)
    """
    r = r.detach()
    valid = _correlated(r) if valid is None else valid.expand(r.shape[:-1])
    if not worth_blocks(r):
        return _edges(r, density, valid)
    made = torch.empty(r.shape, dtype=torch.bool)
    size = block_size(r.shape[-1])
    work = r.new_empty(size, len(triangle_places(r.shape[-1], False, r.device)))
    flat = (r.flatten(0, -3), valid.flatten(0, -2), made.flatten(0, -3))
    for graphs, there, out in zip(*(t.split(size) for t in flat), strict=True):
        _edges(graphs, density, there, out, work[: len(out)])
    return made


def edge_threshold(r: Tensor, density: float, valid: Tensor | None = None) -> Tensor:
    """The percentile that ``top_edges`` compares with; arguments as there.

    Returns:
        (...,), of the type of ``r``.
    """
    r = r.detach()
    valid = _correlated(r) if valid is None else valid.expand(r.shape[:-1])
    lower = _lower_statistic(r, density, valid)
    rank, share = (t[valid.sum(-1)] for t in _ranks_on(r.shape[-1], density, r.device))
    larger = (r > lower[..., None, None]) & valid.unsqueeze(-1) & valid.unsqueeze(-2)
    following = torch.where(larger, r, torch.inf).amin((-2, -1))
    # the next order statistic is the same number where entries are tied, as the two of a pair are
    upper = torch.where((larger.sum((-2, -1)) == rank) & (rank > 0), following, lower)
    share = share.to(r.dtype)
    return torch.where(share < 0.5, lower + (upper - lower) * share, upper - (upper - lower) * (1 - share))


def _correlated(r: Tensor) -> Tensor:
    """Regions with any correlation but their own."""
    own = torch.eye(r.shape[-1], dtype=torch.bool, device=r.device)
    return (r.masked_fill(own, 0.0) != 0).any(-1)


def _edges(r: Tensor, density: float, valid: Tensor, out: Tensor | None = None, work: Tensor | None = None) -> Tensor:
    """See ``top_edges``; on a CPU to ``out`` where given, with room for the triangles, (..., N (N - 1) / 2)."""
    # an entry exceeds the interpolated percentile exactly if it exceeds the lower of its two order statistics
    edges = torch.gt(r, _lower_statistic(r, density, valid, work)[..., None, None], out=out)
    if not all_on_cpu(valid):
        edges.logical_and_(valid.unsqueeze(-1)).logical_and_(valid.unsqueeze(-2))
    own = torch.eye(r.shape[-1], dtype=torch.bool, device=r.device)
    return edges.logical_or_(own)


def _lower_statistic(r: Tensor, density: float, valid: Tensor, work: Tensor | None = None) -> Tensor:
    """The largest entry that is not above the percentile: (...,).

    Of the n² entries of a graph the n of the diagonal are the largest, and all others come in pairs, so it is the
    diagonal's, or the one below the diagonal that has half the rank that is left. All graphs are asked for the same
    rank there, whatever their number of valid regions: the entries of invalid ones become ∞ or -∞, as many of each as
    it takes.
    """
    if not 0 < density <= 1:
        raise ConfigError(f"the density of a graph lies above 0 and at most 1, not at {density}")
    n, count = r.shape[-1], valid.sum(-1)
    if n < 2:
        return r[..., 0, 0]
    wanted = max(_rank(n, density)[0] - n, 0) // 2
    rank = (_ranks_on(n, density, r.device)[0][count] - count) // 2
    entries = torch.index_select(r.flatten(-2), -1, triangle_places(n, False, r.device), out=work)
    if not all_on_cpu(valid):
        gap = ~lower_triangle(valid.unsqueeze(-1) & valid.unsqueeze(-2))
        above = gap.cumsum(-1, dtype=torch.int32) <= (wanted - rank).unsqueeze(-1)
        entries.masked_fill_(gap, -torch.inf).masked_fill_(gap & above, torch.inf)
    return torch.where(rank < 0, r[..., 0, 0], _kth_largest(entries, wanted))


def _kth_largest(entries: Tensor, rank: int) -> Tensor:
    """(..., M), which may be put into another order → (...,), the largest being of rank 0."""
    count = entries.shape[-1]
    if entries.device.type == "cpu" and not torch.compiler.is_compiling():  # NumPy's selection is the faster one
        place = count - 1 - rank
        entries.numpy().partition(place, axis=-1)
        return entries[..., place].clone()
    few = 2 * rank < count
    chosen: Tensor = entries.topk(rank + 1 if few else count - rank, largest=few, sorted=False).values
    return chosen.amin(-1) if few else chosen.amax(-1)


@functools.lru_cache(maxsize=4096)
def _rank(n: int, density: float) -> tuple[int, float]:
    """Where the percentile lies among the n² entries of a graph of n regions.

    Returns:
        Rank, counted from the largest, of the order statistic below it, and the share of the way to the one above.
    """
    position = (1 - density) * max(n * n - 1, 0)
    return max(n * n - 1, 0) - math.floor(position), position - math.floor(position)


@functools.lru_cache(maxsize=64)
def _ranks_on(n: int, density: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """``_rank`` of graphs of 0 to n regions, as tensors of n + 1."""
    ranks, shares = zip(*(_rank(valid, density) for valid in range(n + 1)), strict=True)
    exact = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor(ranks, device=device), torch.tensor(shares, dtype=exact, device=device)
