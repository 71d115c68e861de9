"""Masks and losses of masked autoencoding in space and time of dynamic functional connectivity.

Choi et al., *A generative self-supervised framework using functional connectivity in fMRI data*, 2023 (arXiv
2312.01994), and its successor ST-JEMA (arXiv 2403.06432), of neither of which code was released. Graphs are windows of
a series: nodes are regions, edges their strongest correlations. Hidden are a few regions of every window and the edges
between them; they are told from the window itself, and from two windows before and after it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.base import full_precision, promoted
from medssl.objectives.graph_mae import mean_where, scaled_cosine_error

__all__ = [
    "HiddenRegions",
    "NodeLoss",
    "RegionMask",
    "WindowPairs",
    "edge_loss",
    "edge_scores",
    "hidden_regions",
    "neighbouring_windows",
    "node_loss",
    "of_places",
    "pairs_between",
    "temporal_edge_loss",
    "temporal_gap",
]

RegionMask = Literal["block", "random"]
"""Regions that follow each other in the atlas, or any."""

NodeLoss = Literal["cosine", "mse"]
"""Scaled cosine error (GraphMAE), or mean squared error over regions and their values."""


class HiddenRegions(NamedTuple):
    """Which regions of each window are hidden, twice.

    Attributes:
        hidden: (B, K, N) booleans.
        places: (B, K, M) int64, the hidden regions in ascending order; M is the most that a window hides.
        counted: (B, K, M) booleans; False where a window hides fewer.
    """

    hidden: Tensor
    places: Tensor
    counted: Tensor


class WindowPairs(NamedTuple):
    """From which windows each window is told.

    Attributes:
        before: (B, K) int64, a window that ends before it begins.
        after: (B, K) int64, a window that begins after it ends.
        counted: (B, K) booleans; False where there are no such windows.
    """

    before: Tensor
    after: Tensor
    counted: Tensor


def temporal_gap(window: int, stride: int) -> int:
    """Windows between a window and those it is told from: ``d = ⌈½ (Γ/S + 1)⌉``; windows 2d apart never overlap.

    Args:
        window: Γ in volumes.
        stride: S in volumes.

    >>> temporal_gap(50, 3), temporal_gap(50, 16), temporal_gap(30, 30)
    (9, 3, 1)
    """
    return -(-(window + stride) // (2 * stride))


def hidden_regions(
    valid: Tensor, windows: int, ratio: float, generator: torch.Generator, *, kind: RegionMask = "block"
) -> HiddenRegions:
    """Hide a share of the valid regions of every window, ``max(1, round(ratio·n))`` of n; one stays visible at least.

    Args:
        valid: (B, N) booleans; only these are hidden. A block runs over the valid regions in their order.
        windows: K.
        ratio: share, between 0 and 1.
        generator: of all draws, on the device of ``valid``.
        kind: see ``RegionMask``.
    """
    batch, regions = valid.shape
    most = max(1, math.floor(ratio * regions + 0.5))
    n = valid.sum(1)
    count = torch.minimum((ratio * n + 0.5).floor().long().clamp(1, most), (n - 1).clamp_min(0)).view(-1, 1, 1)
    if kind == "block":
        draw = torch.rand(batch, windows, 1, generator=generator, device=valid.device)
        start = (draw * (n.view(-1, 1, 1) - count + 1)).long()
        rank = (valid.cumsum(1) - 1).unsqueeze(1) - start
    else:
        noise = torch.rand(batch, windows, regions, generator=generator, device=valid.device)
        rank = torch.where(valid.unsqueeze(1), noise, 2.0).argsort(-1).argsort(-1)
    hidden = (rank >= 0) & (rank < count) & valid.unsqueeze(1)
    places = (~hidden).to(torch.uint8).argsort(dim=-1, stable=True)[..., :most]
    return HiddenRegions(hidden, places, hidden.gather(-1, places))


def neighbouring_windows(usable: Tensor, gap: int, generator: torch.Generator) -> WindowPairs:
    """For every window t one of those up to t - gap and one of those from t + gap, uniformly.

    Args:
        usable: (B, K) booleans; windows of padding are neither told nor told from.
        gap: d, see ``temporal_gap``.
        generator: on the device of ``usable``.
    """
    k = torch.arange(usable.shape[1], device=usable.device)
    apart = k - k.unsqueeze(1)  # of row t from column k
    noise = torch.rand(*usable.shape, len(k), generator=generator, device=usable.device)
    before, after = (
        torch.where(reached & usable.unsqueeze(1), noise, -1.0).max(-1) for reached in (apart <= -gap, apart >= gap)
    )
    counted = usable & (before.values >= 0) & (after.values >= 0)
    return WindowPairs(before.indices, after.indices, counted)


def of_places(x: Tensor, places: Tensor) -> Tensor:
    """Rows of regions: (..., N, D) and (..., M) → (..., M, D)."""
    return x.gather(-2, places.unsqueeze(-1).expand(*places.shape, x.shape[-1]))


def pairs_between(counted: Tensor) -> Tensor:
    """Pairs of two different regions that both count: (..., M) → (..., M, M) booleans."""
    m = counted.shape[-1]
    different = ~torch.eye(m, dtype=torch.bool, device=counted.device)
    return counted.unsqueeze(-1) & counted.unsqueeze(-2) & different


def node_loss(
    prediction: Tensor, target: Tensor, hidden: Tensor, *, kind: NodeLoss = "cosine", gamma: float = 2.0
) -> Tensor:
    """Error of what is told of hidden regions.

    Args:
        prediction: (..., F).
        target: (..., F); no gradient.
        hidden: (...) booleans.
        kind: see ``NodeLoss``.
        gamma: of the cosine error.

    Returns:
        Scalar, at least float32.
    """
    if kind == "cosine":
        return scaled_cosine_error(prediction, target, hidden, gamma=gamma)
    with full_precision(prediction.device):
        return mean_where((promoted(prediction) - promoted(target.detach())).square().mean(-1), hidden)


def edge_scores(one: Tensor, other: Tensor) -> Tensor:
    """``Z_i · Z'_j / √D`` of all pairs, in at least float32: (..., M, D), (..., M, D) → (..., M, M)."""
    with full_precision(one.device):
        return promoted(one) @ promoted(other).mT / math.sqrt(one.shape[-1])


def edge_loss(scores: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
    """Spatial: binary cross-entropy of edges of a window, from its own codes; mean over the pairs.

    Args:
        scores: (..., M, M), see ``edge_scores``.
        edges: (..., M, M) booleans.
        pairs: (..., M, M) booleans, the pairs that count.
    """
    each = functional.binary_cross_entropy_with_logits(scores, edges.to(scores.dtype), reduction="none")
    return mean_where(each, pairs)


def temporal_edge_loss(before: Tensor, after: Tensor, edges: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Temporal: cross-entropy of edges of a window from codes of two others, ``P = ½ [σ(s) + σ(s')]``.

    ``s_ij = Z_i(before) · Z_j(after) / √D`` and ``s' = sᵀ``. Computed as logarithms: finite for scores of any size.

    Args:
        before: (..., M, D).
        after: (..., M, D).
        edges: (..., M, M) booleans.
        pairs: (..., M, M) booleans, the pairs that count.

    Returns:
        Scalar, and the log-odds of ``P`` (..., M, M) without gradient.
    """
    s = edge_scores(before, after)
    with full_precision(s.device):
        yes, no = (torch.logaddexp(part, part.mT) - math.log(2) for part in map(functional.logsigmoid, (s, -s)))
        return mean_where(-torch.where(edges, yes, no), pairs), (yes - no).detach()
