r"""Contrast of single steps over a pyramid of time scales, and contrast of whole windows by whose they are.

*Samples* (TS2Vec: instances) are told apart at every step, *observations* (TS2Vec: steps) within every sample. With
:math:`a_i, b_i` the vectors of one step in two views, an anchor's loss is

.. math:: \ell(a_i) = -\log \frac{e^{a_i \cdot b_i}}{\sum_j e^{a_i \cdot b_j} + \sum_{j \ne i} e^{a_i \cdot a_j}}

without temperature or normalisation, and a pair's loss is the mean of :math:`\ell(a_i)` and :math:`\ell(b_i)`. Zhihan
Yue et al., *TS2Vec*, AAAI 2022; Yihe Wang et al., *Contrast Everything* (COMET), NeurIPS 2023.

All sequences are (B, T, D). Everything is computed in float32, or in float64 where that is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from medssl.objectives.base import full_precision, promoted

__all__ = [
    "Scales",
    "id_loss",
    "mean_over_scales",
    "observation_losses",
    "pyramid",
    "same",
    "sample_losses",
    "ts2vec_losses",
]

Scales = Sequence[tuple[Tensor, Tensor]]
CHUNK, GPU_CHUNK = 2**18, 2**24
"""Similarities held at once in each of a few matrices (1 MiB in float32, which a processor's cache holds; 64 MiB on a
GPU), so that longer inputs take no more memory than their gradients."""


def pyramid(one: Tensor, other: Tensor) -> Scales:
    """Two views at full length, half of it (maxima of two neighbours; an odd last step is left out), …, of one step.

    Args:
        one, other: (B, T, D), raised to at least float32.

    Raises:
        ValueError: shapes that differ, or no (B, T, D).
    """
    if one.ndim != 3 or one.shape != other.shape:
        raise ValueError(f"expected two views (B, T, D), got {tuple(one.shape)} and {tuple(other.shape)}")
    scales = [(promoted(one), promoted(other))]
    while scales[-1][0].shape[1] > 1:
        first, second = scales[-1]
        scales.append((_halved(first), _halved(second)))
    return scales


def sample_losses(one: Tensor, other: Tensor) -> Tensor:
    """Loss of every sample, told from the other samples at each step: (B, T, D) twice → (B,), means over steps.

    A sample alone has nothing to be told from: 0.
    """
    return _contrast(one.transpose(0, 1), other.transpose(0, 1)).mean(0)


def observation_losses(one: Tensor, other: Tensor) -> Tensor:
    """Loss of every sample, whose steps are told apart: (B, T, D) twice → (B,), means over steps. One step: 0."""
    return _contrast(one, other).mean(1)


def mean_over_scales(scales: Scales, losses: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """COMET's mean over all scales but the last, of one step: (B,). Sequences of one step have none: 0.

    Args:
        scales: of ``pyramid``.
        losses: ``sample_losses`` or ``observation_losses``.
    """
    used = scales[:-1]
    if not used:
        return _nothing(*scales[0])
    return torch.stack([losses(*scale) for scale in used]).mean(0)


def ts2vec_losses(one: Tensor, other: Tensor, *, alpha: float = 0.5, temporal_unit: int = 0) -> Tensor:
    r"""TS2Vec's loss of every sample, a mean over all S scales, (B,); at the last, of one step, samples alone count.

    .. math:: L = \frac{1}{S} \Big[ \alpha \sum_{s=0}^{S-1} L^{samples}_s +
              (1-\alpha) \sum_{s=u}^{S-2} L^{steps}_s \Big]

    Args:
        one, other: (B, T, D) vectors of the same steps in two views.
        alpha: share of the contrast of samples.
        temporal_unit: u, the first scale at which steps are told apart.
    """
    scales = pyramid(one, other)
    total = _nothing(*scales[0])
    if alpha:
        total = total + alpha * torch.stack([sample_losses(*scale) for scale in scales]).sum(0)
    timed = scales[temporal_unit:-1] if alpha < 1 else ()
    if timed:
        total = total + (1 - alpha) * torch.stack([observation_losses(*scale) for scale in timed]).sum(0)
    return total / len(scales)


def same(ids: Tensor) -> Tensor:
    """(B, B) booleans: which samples share an id, (B,) integers."""
    return ids[:, None] == ids


def id_loss(
    one: Tensor,
    other: Tensor,
    positive: Tensor,
    *,
    temperature: float = 0.1,
    symmetric: bool = False,
    per_anchor: bool = False,
    left_out: Tensor | None = None,
) -> Tensor:
    r"""Samples of one trial, or of one patient, are drawn together (COMET).

    With S the cosine similarity over τ of samples of the first view (rows) and of the second (columns), whose features
    were brought to unit length over *time* before, and P the pairs :math:`r < c` of one id,

    .. math:: L = \frac{1}{2|P|} \sum_{(r, c) \in P} \Big[ \log\sum_k e^{S_{rk}} - S_{rc} +
              \log\sum_k e^{S_{kr}} - S_{cr} \Big]

    as published: the sample with the smaller index alone is the anchor, and its own other view is a negative.

    Args:
        one, other: (B, T, D) vectors of two views.
        positive: (B, B) booleans, symmetric; the diagonal is ignored. Without any pair the loss is 0.
        temperature: τ > 0.
        symmetric: both samples of a pair are anchors, and an anchor's own other view is left out: the order of the
            samples does not matter then.
        per_anchor: mean over the anchors of the mean over their pairs, so that a patient with n samples counts n-fold
            and not n²-fold.
        left_out: (B, B) booleans, symmetric: pairs that are neither positives nor negatives.

    Returns:
        Scalar.
    """
    with full_precision(one.device):
        logits = _by_time(one) @ _by_time(other).mT / temperature
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        pairs = positive & ~itself
        if left_out is not None:
            pairs = pairs & ~left_out
            logits = logits.masked_fill(left_out & ~itself, -math.inf)
        if symmetric:
            logits = logits.masked_fill(itself, -math.inf)
        else:
            pairs = pairs.triu(1)
        shares = _shares(pairs.to(logits.dtype), per_anchor=per_anchor)
        return (_of_anchors(logits, pairs, shares) + _of_anchors(logits.mT, pairs, shares)) / 2


def _shares(pairs: Tensor, *, per_anchor: bool) -> Tensor:
    """Weight in the mean of each pair (anchor, positive), 1 in (B, B); they sum to 1, or to 0 without pairs."""
    if not per_anchor:
        return pairs / pairs.sum().clamp_min(1)
    each = pairs.sum(1, keepdim=True)
    return pairs / each.clamp_min(1) / (each > 0).sum().clamp_min(1)


def _of_anchors(logits: Tensor, pairs: Tensor, shares: Tensor) -> Tensor:
    """Weighted mean over pairs of the cross-entropy of their anchors, which are rows."""
    alone = (logits == -math.inf).all(1, keepdim=True)  # its logsumexp has no gradient, and its share is 0
    normaliser = logits.masked_fill(alone, 0.0).logsumexp(1)
    return (shares.sum(1) * normaliser).sum() - (shares * logits.where(pairs, 0.0)).sum()


def _by_time(z: Tensor) -> Tensor:
    """(B, T, D) → (B, T·D) of unit length, in which every feature's course has the same length."""
    return functional.normalize(functional.normalize(promoted(z), dim=1).flatten(1), dim=1)


def _halved(z: Tensor) -> Tensor:
    """Maximum of neighbouring steps: (B, T, D) → (B, T // 2, D)."""
    planes = z.mT.unsqueeze(2)  # channels-last as they lie: twice as fast on a CPU as pooling rows
    return functional.max_pool2d(planes, (1, 2)).squeeze(2).mT


def _nothing(one: Tensor, other: Tensor) -> Tensor:
    """(B,) zeros that depend on the views, with a gradient of 0."""
    return (one.flatten(1)[:, :1] + other.flatten(1)[:, :1]).sum(1) * 0


def _contrast(one: Tensor, other: Tensor) -> Tensor:
    """Losses of the pairs in G groups of N: (G, N, D) twice → (G, N)."""
    with full_precision(one.device):
        losses: Tensor = _Contrast.apply(promoted(one), promoted(other))
    return losses


class _Contrast(torch.autograd.Function):
    """The losses of both directions without keeping a similarity: the backward pass computes them again.

    Own code because autograd would keep several (G, N, N) tensors; here a few chunks of groups stand in memory.
    """

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        normalisers = one.new_empty(2, *one.shape[:2])
        losses = one.new_empty(one.shape[:2])
        for part in _chunks(one):
            a, b = one[part], other[part]
            across = a @ b.mT
            normalisers[0, part] = torch.logaddexp(_within(a).logsumexp(2), across.logsumexp(2))
            normalisers[1, part] = torch.logaddexp(_within(b).logsumexp(2), across.logsumexp(1))
            losses[part] = normalisers[:, part].mean(0) - across.diagonal(dim1=1, dim2=2)
        ctx.save_for_backward(one, other, normalisers)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        one, other, normalisers = ctx.saved_tensors
        by_one, by_other = torch.empty_like(one), torch.empty_like(other)
        for part in _chunks(one):
            a, b, g = one[part], other[part], gradient[part]
            first, second = normalisers[:, part]
            across = a @ b.mT
            shares = (across - first.unsqueeze(2)).exp_().mul_(g.unsqueeze(2) / 2)
            shares += across.sub_(second.unsqueeze(1)).exp_().mul_(g.unsqueeze(1) / 2)
            shares.diagonal(dim1=1, dim2=2).sub_(g)
            by_one[part] = shares @ b + _by_within(a, first, g)
            by_other[part] = shares.mT @ a + _by_within(b, second, g)
        return by_one, by_other


def _within(a: Tensor) -> Tensor:
    """(G, N, N) similarities of a view to itself, -inf on the diagonal."""
    similarity = a @ a.mT
    similarity.diagonal(dim1=1, dim2=2).fill_(-math.inf)
    return similarity


def _by_within(a: Tensor, normaliser: Tensor, gradient: Tensor) -> Tensor:
    """What the similarities of a view to itself add to its gradient; each stands in the losses of two anchors."""
    shares = _within(a).sub_(normaliser.unsqueeze(2)).exp_().mul_(gradient.unsqueeze(2) / 2)
    return shares @ a + shares.mT @ a


def _chunks(z: Tensor) -> Iterator[slice]:
    """Parts of the groups of (G, N, D), each of at most ``CHUNK`` similarities, or of one group."""
    size = max(1, (CHUNK if z.device.type == "cpu" else GPU_CHUNK) // max(1, z.shape[1] ** 2))
    return (slice(start, start + size) for start in range(0, len(z), size))
