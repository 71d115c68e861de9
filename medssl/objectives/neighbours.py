"""Which other recording of a batch belongs to each: the most similar one, and random ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

from medssl.objectives.assignment import cross_entropies
from medssl.objectives.pairs import unit

__all__ = ["most_similar_other", "neighbour_cross_entropy", "random_others"]


def most_similar_other(features: Tensor, group: Tensor | None = None) -> Tensor:
    """The other recording with the largest cosine, (M,) places.

    Args:
        features: (M, D), not normalised.
        group: (M,) integers; a recording of the same group (patient) is not chosen. Where all others are of the
            recording's own group, it is its own neighbour.

    >>> most_similar_other(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
    tensor([1, 0, 1])
    """
    rows = unit(features.detach())
    own = torch.arange(len(rows), device=rows.device)
    group = own if group is None else group
    similarity = (rows @ rows.T).masked_fill(group.unsqueeze(1) == group, -torch.inf)
    best = similarity.max(1)
    return torch.where(best.values > -torch.inf, best.indices, own)


def random_others(count: int, samples: int, *, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Random permutations that leave no sample in its place, the same in all processes (those of the first).

    Each is one random cycle through all samples. (The published code's may leave samples in place and repeat others.)

    Args:
        count: permutations R.
        samples: M ≥ 2, of all processes.
        generator: on ``device``.
        device: of the result.

    Returns:
        (R, M): for every sample another one.
    """
    order = torch.rand(count, samples, generator=generator, device=device).argsort(1)
    others = torch.empty_like(order).scatter_(1, order, order.roll(1, dims=1))
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(others, 0)
    return others


def neighbour_cross_entropy(
    scores: Tensor, assignments: Tensor, other_scores: Tensor, other_assignments: Tensor, *, temperature: float
) -> Tensor:
    r"""How badly the crops of a recording predict the clusters of its neighbour's crops, and the other way round.

    .. math:: L = \frac{1}{2 C^2 N} \sum_{c,d,n} -\sum_k \big( q'_{dnk} \log p_{cnk} + q_{dnk} \log p'_{cnk} \big),
        \quad p = \mathrm{softmax}(s / \tau)

    with the neighbour's dashed (CoTAP, Wen et al., TPAMI 2025).

    Args:
        scores: s (C, N, K) of C crops, raw.
        assignments: q (C, N, K) of the teacher; rows sum to 1; no gradient.
        other_scores: s' of the neighbours.
        other_assignments: q' of the neighbours.
        temperature: τ > 0.
    """
    forth = cross_entropies(scores, other_assignments, temperature=temperature).mean()
    back = cross_entropies(other_scores, assignments, temperature=temperature).mean()
    return (forth + back) / 2
