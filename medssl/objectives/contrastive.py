"""InfoNCE (NT-Xent), its decoupled forms DCL and DCLW, and supervised contrastive learning."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.objectives.base import Given, Weights, full_precision, positive
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up, weighted_mean

__all__ = ["InfoNCE", "info_nce", "info_nce_anchors"]


def info_nce(
    views: Tensor,
    *,
    temperature: float,
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    r"""NT-Xent / InfoNCE with negatives from both views.

    .. math:: L = \frac{1}{2N} \sum_i \Big[ \log \sum_{k \ne i} e^{s_{ik}/\tau} - s_{i,p(i)}/\tau \Big]

    over the 2N embeddings of two views, :math:`s` the cosine similarity and :math:`p(i)` the other view of the sample
    (Chen et al., *A simple framework for contrastive learning of visual representations*, ICML 2020). With K > 2 views
    it is the mean over all pairs of views. With ``labels`` the second term is the mean over all positives (Khosla et
    al., *Supervised contrastive learning*, NeurIPS 2020, :math:`L_{out}`).

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2; normalised here.
        temperature: τ > 0.
        group: (N,) integers; other samples of the same group are no negatives. A sample that has no negative left is
            dropped from the mean; when none has any, the loss is 0.
        weights: multipliers of the losses, see ``Weights``; the divisor stays the number of anchors.
        labels: (N,) integers; other samples of the same label are further positives.

    Returns:
        Scalar, float32 (float64 for float64 input).

    Raises:
        ValueError: fewer than 2 views or 2 samples.

    >>> round(float(info_nce(torch.ones(2, 4, 8), temperature=0.5).exp()), 3)  # all equal: log(2N - 1)
    7.0
    """
    if views.ndim != 3 or views.shape[0] < 2:
        raise ValueError(f"needs at least 2 views, as (K, N, D); got {tuple(views.shape)}")
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        return weighted_mean(info_nce_anchors(pairs, temperature=temperature), weights)


def info_nce_anchors(pairs: Pairs, *, temperature: float, chunk: int = 0) -> AnchorLosses:
    """The terms of ``info_nce``, (K, N), one an anchor, and ``pair_accuracy`` among the logs.

    With a teacher the keys are the teacher's (MoCo v3); with a queue its keys are further negatives. Memory: the
    (K, N, K, M) similarities and their gradient, or those of one chunk; never N²D.
    """

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        return _terms(pairs, anchors, keys, rows, temperature)

    losses, nearest = in_chunks(terms, pairs, chunk)
    hits = ((nearest > 0) & pairs.valid).sum().float() / (pairs.valid.sum() * len(pairs.anchors)).clamp_min(1)
    return AnchorLosses(losses, pairs.valid, pairs.total, {"pair_accuracy": hits.detach()})


def _terms(pairs: Pairs, anchors: Tensor, keys: Tensor, rows: slice, temperature: float) -> tuple[Tensor, Tensor]:
    """Losses (K, n) averaged over the other views, and 1 where the own positive is the nearest of the allowed keys."""
    k = len(anchors)
    mine = pairs.with_own_sample(anchors, keys, rows) / temperature
    similarity = torch.einsum("aid,bjd->aibj", anchors / temperature, keys)
    target = mine
    further = None if pairs.positive is None else pairs.positive[rows]
    if further is not None:
        target = _mean_positive(similarity, mine, further)
    kept = pairs.negative[rows] | pairs.own[rows]
    kept = kept if further is None else kept | further
    pairs.drop(similarity, rows, None if pairs.everyone and further is None else kept)
    # logsumexp over the keys of each view; then over the pair of the anchor's own and the other view
    denominators = similarity.logsumexp(-1)
    pair = torch.logaddexp(_of_own_view(denominators), denominators)  # (K, n, K): anchor's view, sample, other view
    best = similarity.detach().amax(-1)
    best = torch.maximum(best, _of_own_view(best))
    if pairs.queue is not None:
        earlier = pairs.to_queue(anchors / temperature, rows)
        pair = torch.logaddexp(pair, earlier.logsumexp(-1, keepdim=True))
        best = torch.maximum(best, earlier.detach().amax(-1, keepdim=True))
    other = ~torch.eye(k, dtype=torch.bool, device=anchors.device).view(k, 1, k)
    losses = torch.where(other, pair - target, 0.0).sum(-1) / (k - 1)
    nearest = ~((best > mine.detach()) & other).any(-1)
    return losses, nearest.to(losses.dtype)


def _of_own_view(values: Tensor) -> Tensor:
    """(K, n, K) → (K, n, 1): of the keys in the anchor's own view."""
    return values.diagonal(dim1=0, dim2=2).transpose(0, 1).unsqueeze(-1)


def _mean_positive(similarity: Tensor, mine: Tensor, further: Tensor) -> Tensor:
    """(K, n, K): mean similarity of anchor (a, i) to its positives of the pair of views (a, b).

    ``mine`` (K, n, K) is that to its own sample, ``further`` (n, M) tells keys of other samples with its label.
    """
    others = torch.einsum("aibj,ij->aib", similarity, further.to(similarity.dtype))
    count = further.sum(-1).view(1, -1, 1)
    return (mine + others + _of_own_view(others)) / (1 + 2 * count)


class InfoNCE(ContrastiveObjective):
    """InfoNCE / NT-Xent: the other view of the sample against all other samples (SimCLR, 2020).

    Args:
        temperature: τ; small values concentrate on the nearest negatives. 0.1 to 0.5 in the literature.
        queue: keys of earlier steps that serve as further negatives; 0 for none (MoCo).
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(self, *, temperature: float = 0.2, queue: int = 0, chunk: int = 0) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive("InfoNCE", temperature=temperature)
        self.temperature = temperature

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``info_nce``."""
        return info_nce_anchors(pair_up(views, given, self.queue), temperature=self.temperature, chunk=self.chunk)
