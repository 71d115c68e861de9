"""Volume contrast: where a random crop lies, told by its similarity to crops that tile the volume.

Wu, Zhuang & Chen, *VoCo: A simple-yet-effective volume contrastive learning framework for 3D medical image analysis*,
CVPR 2024; and *Large-scale 3D medical image pre-training with geometric context priors*, 2025 ("v2").

Notation: for one volume, ``sw`` random crops with embeddings x and ``n`` base crops with embeddings q. All functions
take any number of leading axes (usually the batch B) and return one value for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "base_starts",
    "intervolume",
    "overlap_labels",
    "position_accuracy",
    "position_chance",
    "position_similarity",
    "prediction_paper",
    "prediction_v1",
    "prediction_v2",
    "regularisation",
]

EPS = 1e-6
NORM_EPS = 1e-8


def base_starts(grid: Sequence[int], crop: Sequence[int]) -> Tensor:
    """First voxel of every base crop, (n, A) int64, last axis fastest.

    Args:
        grid: number of base crops along each of the A axes.
        crop: their size along each axis.

    >>> base_starts((1, 2), (4, 8)).tolist()
    [[0, 0], [0, 8]]
    """
    axes = [torch.arange(g) * c for g, c in zip(grid, crop, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def overlap_labels(starts: Tensor, crop: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Share of each random crop that lies in each base crop; rows sum to 1.

    Args:
        starts: (..., A) first voxel of the random crops, from 0 to ``(grid - 1) * crop`` on each axis.
        crop: size of all crops along each of the A axes.
        grid: number of base crops along each axis; n is their product.

    Returns:
        (..., n) in [0, 1], float32 (float64 for float64 ``starts``), in the order of ``base_starts``.

    >>> overlap_labels(torch.tensor([2, 0]), (4, 8), (2, 1)).tolist()
    [0.5, 0.5]
    """
    starts = starts if starts.is_floating_point() else starts.float()
    shares = starts.new_ones((*starts.shape[:-1], 1))
    for axis, (size, count) in enumerate(zip(crop, grid, strict=True)):
        first = torch.arange(count, device=starts.device, dtype=starts.dtype) * size
        along = (1 - (starts[..., axis, None] - first).abs() / size).clamp_min(0)
        shares = (shares[..., :, None] * along[..., None, :]).flatten(-2)
    return shares


def position_similarity(x: Tensor, q: Tensor) -> Tensor:
    """Rectified cosine similarity of every crop to every base: ``max(0, cos(x_a, q_i))``.

    Args:
        x: (..., sw, D).
        q: (..., n, D).

    Returns:
        (..., sw, n) in [0, 1]; zero vectors give 0.
    """
    return _cosine(x, q).clamp(0, 1)


def prediction_v1(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Position prediction of the released code, version 1.

    .. math:: L_{pos} = \frac{\sum_{ai} -y_{ai} \log(1 - |y_{ai} - l_{ai}| + ε)}{\sum y + ε}, \quad
              L_{neg} = \frac{\sum_{ai} [y_{ai} = 0]\, l_{ai}^2}{\#\{y = 0\} + ε}

    Args:
        logits: (..., sw, n) similarities in [0, 1].
        labels: (..., sw, n) overlaps in [0, 1].
        valid: (..., sw, n) booleans; entries that may serve as negatives. All by default.

    Returns:
        The positive and the negative term, each (...,).
    """
    negative = _negatives(labels, valid)
    term = (negative * logits.square()).sum((-2, -1)) / (negative.sum((-2, -1)) + EPS)
    return _positive_term(logits, labels), term


def prediction_v2(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Position prediction of the released code, version 2: negatives cost :math:`-\log(1 - l + ε)`.

    Arguments as in ``prediction_v1``; the sum of both terms is returned, (...,).
    """
    negative = _negatives(labels, valid)
    cost = -torch.log(1 - logits + EPS)
    return _positive_term(logits, labels) + (negative * cost).sum((-2, -1)) / (negative.sum((-2, -1)) + EPS)


def prediction_paper(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Position prediction as the paper prints it: :math:`-\text{mean} \log(1 - |y - l| + ε)` over all entries, (...,).

    Arguments as in ``prediction_v1``; entries with y = 0 that are not ``valid`` are left out.
    """
    cost = -torch.log(1 - (labels - logits).abs() + EPS)
    if valid is None:
        return cost.mean((-2, -1))
    kept = valid | (labels > 0)
    return (kept * cost).sum((-2, -1)) / kept.sum((-2, -1)).clamp_min(1)


def regularisation(
    q: Tensor,
    *,
    squared: bool = True,
    rectified: bool = True,
    detach_later: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Keeps the bases apart: :math:`\frac{2}{n(n-1)} \sum_{i<j} [\cos(q_i, sg(q_j))]_+^2`.

    Args:
        q: (..., n, D), n ≥ 2.
        squared: the square of the cosine (released code); otherwise its first power (paper).
        rectified: negative cosines cost nothing (released code); otherwise the absolute value counts (paper).
        detach_later: base j gets a gradient only from pairs in which it is the first (released code).
        valid: (..., n) booleans; other bases take no part. All by default.

    Returns:
        (...,) in [0, 1].
    """
    cosine = _cosine(q, q.detach() if detach_later else q)
    pairs = torch.ones(q.shape[-2:-1] * 2, dtype=torch.bool, device=q.device).triu(1)
    if valid is not None:
        pairs = pairs & valid[..., :, None] & valid[..., None, :]
    cost = cosine.clamp_min(0) if rectified else cosine.abs()
    cost = cost.square() if squared else cost
    return (pairs * cost).sum((-2, -1)) / pairs.sum((-2, -1)).clamp_min(1)


def intervolume(x: Tensor, q: Tensor, x_teacher: Tensor, q_teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Agreement of student and teacher on where a crop lies in the *next* volume of the batch (version 2).

    ``CE(S(x_b, q_k) of the teacher, S(x_b, q_k) of the student)`` with k = (b + 1) mod B, CE as in ``prediction_v2``.
    With B = 1 a volume is compared with itself, which says nothing: callers skip it.

    Args:
        x: (B, sw, D) crops, student. x_teacher: the same of the teacher, taken as constant.
        q: (B, n, D) bases, student. q_teacher: the same of the teacher, taken as constant.
        valid: (B, sw, n) booleans, entries of (crop of b, base of k) that may serve as negatives.

    Returns:
        (B,).
    """
    target = position_similarity(x_teacher, q_teacher.roll(-1, 0)).detach()
    return prediction_v2(position_similarity(x, q.roll(-1, 0)), target, valid)


def position_accuracy(logits: Tensor, labels: Tensor, counted: Tensor | None = None) -> Tensor:
    """Share of crops whose most similar base is (one of) the most overlapped; detached scalar.

    Args:
        logits, labels: (..., sw, n).
        counted: (..., sw) booleans, crops that count. All by default.
    """
    with torch.no_grad():
        found = labels.gather(-1, logits.argmax(-1, keepdim=True)).squeeze(-1)
        right = found >= labels.amax(-1) - EPS
        if counted is None:
            return right.float().mean()
        return (right & counted).sum() / counted.sum().clamp_min(1)


def position_chance(grid: Sequence[int]) -> float:
    """Accuracy of always naming the likeliest base, for uniformly drawn crops: what an encoder that sees nothing gets.

    An inner base is the nearest for 1/(g - 1) of the starts along its axis, an outer one for half of that.

    >>> position_chance((1, 3, 3))
    0.25
    """
    return 1 / math.prod(max(1, g - 1) if g != 2 else 2 for g in grid)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """(..., n, D) and (..., m, D) → (..., n, m). Divides the few products, not the long vectors."""
    lengths = a.norm(dim=-1, keepdim=True).clamp_min(NORM_EPS) * b.norm(dim=-1).clamp_min(NORM_EPS).unsqueeze(-2)
    cosine: Tensor = a @ b.mT / lengths
    return cosine


def _positive_term(logits: Tensor, labels: Tensor) -> Tensor:
    cost = -torch.log(1 - (labels - logits).abs() + EPS)
    return (labels * cost).sum((-2, -1)) / (labels.sum((-2, -1)) + EPS)


def _negatives(labels: Tensor, valid: Tensor | None) -> Tensor:
    zero = labels == 0
    return zero if valid is None else zero & valid
