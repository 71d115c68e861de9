"""Joining the views of all processes, with gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Gathered", "gather_integers", "gather_views", "sum_over_processes"]


class Gathered(NamedTuple):
    """Views of all processes.

    Attributes:
        views: (K, W·N, D), ordered by rank.
        offset: where this process' N samples start.
        world: number of processes W.
    """

    views: Tensor
    offset: int
    world: int


def gather_views(views: Tensor) -> Gathered:
    """Differentiable all-gather of (K, N, D) along the samples.

    Every process is meant to compute the loss of *its own* N anchors against all W·N keys. The backward pass sums the
    keys' gradients over processes, and the data-parallel wrapper averages parameters' gradients, so that the result
    equals one process on the joined batch while the logits take W times less memory. All processes must hold the same
    number of samples.

    Args:
        views: (K, N, D).
    """
    if not _parallel():
        return Gathered(views, 0, 1)
    joined: Tensor = _AllGather.apply(views)
    return Gathered(joined, dist.get_rank() * views.shape[1], dist.get_world_size())


def gather_integers(values: Tensor | None) -> Tensor | None:
    """(N,) integers of all processes, ordered by rank: (W·N,). None stays None."""
    if values is None or not _parallel():
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def sum_over_processes(values: Tensor) -> Tensor:
    """Differentiable sum over all processes, which all hold tensors of one shape; backward sums the gradients.

    So every process' input receives the gradient of the sum of all processes' losses, as in ``nn.SyncBatchNorm``.
    """
    if not _parallel():
        return values
    summed: Tensor = _AllSum.apply(values)
    return summed


class _AllSum(torch.autograd.Function):
    """Sums over processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


class _AllGather(torch.autograd.Function):
    """Concatenates dimension 1 over processes; backward sums over processes and keeps this process' part.

    Own code, because ``torch.distributed.nn.functional.all_gather`` returns wrong gradients on gloo where the incoming
    gradients are not contiguous (measured with torch 2.15: as they are after a concatenation along dimension 1).
    """

    @staticmethod
    def forward(ctx: Any, views: Tensor) -> Tensor:
        ctx.length = views.shape[1]
        own = views.contiguous()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient).narrow(1, dist.get_rank() * ctx.length, ctx.length)


def _summed(values: Tensor) -> Tensor:
    summed = values.contiguous().clone()
    dist.all_reduce(summed)
    return summed


def _parallel() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
