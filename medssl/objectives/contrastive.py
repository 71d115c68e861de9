"""InfoNCE (NT-Xent), and the terms that it shares with its relatives: DCL, DCLW, hard negatives, supervised."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, Weights, full_precision, positive
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up, weighted_mean

__all__ = [
    "Contrast",
    "InfoNCE",
    "anchor_losses",
    "contrast",
    "info_nce",
    "info_nce_anchors",
    "info_nce_of_means",
    "mean_of_views",
    "other_views",
    "with_positives",
]


def info_nce(
    views: Tensor,
    *,
    temperature: float,
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
    same_view: bool = True,
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
        same_view: k runs over the anchor's own view too; False: over the other view alone, in both directions (CPC;
            CLIP).

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
        return weighted_mean(info_nce_anchors(pairs, temperature=temperature, same_view=same_view), weights)


def info_nce_anchors(
    pairs: Pairs, *, temperature: float, chunk: int = 0, same_view: bool = True, quantile: float = 0.0
) -> AnchorLosses:
    """The terms of ``info_nce``, (K, N), one an anchor, and ``pair_accuracy`` among the logs; see ``contrast``."""
    terms = contrast(pairs, temperature=temperature, chunk=chunk, same_view=same_view, quantile=quantile)
    return anchor_losses(pairs, terms.energy - terms.target, terms.nearest)


def info_nce_of_means(pairs: Pairs, *, temperature: float, chunk: int = 0, same_view: bool = True) -> AnchorLosses:
    """Every view against the mean of the unit embeddings of all others, which is not normalised again.

    The AVG baseline of Koromilas et al. (2025). Two views: ``info_nce``. Returns terms (2K, N).
    """
    k = len(pairs.anchors)
    anchors, keys = ((x.sum(0) - x) / (k - 1) for x in (pairs.anchors, pairs.keys))
    terms = []
    for view in range(k):
        two = replace(
            pairs,
            anchors=torch.stack([pairs.anchors[view], anchors[view]]),
            keys=torch.stack([pairs.keys[view], keys[view]]),
        )
        terms.append(info_nce_anchors(two, temperature=temperature, chunk=chunk, same_view=same_view))
    accuracy = torch.stack([t.logs["pair_accuracy"] for t in terms]).mean()
    losses = torch.cat([t.losses for t in terms])
    return AnchorLosses(losses, pairs.valid, pairs.total, {"pair_accuracy": accuracy})


class Contrast(NamedTuple):
    """What InfoNCE and its relatives are made of: the loss of anchor i of view a, against view b, is energy - target.

    The diagonal a = b means nothing; ``mean_of_views`` leaves it out.

    Attributes:
        energy: (K, N, K) at [a, i, b]: log Σ exp(s/τ) over the keys of views a and b. -inf where there is none.
        target: (K, N, K) s/τ of the positive, or its mean over all positives.
        nearest: (K, N) 1 where the own positives of all views are nearer than every other of the keys, else 0.
    """

    energy: Tensor
    target: Tensor
    nearest: Tensor


def contrast(
    pairs: Pairs,
    *,
    temperature: float,
    chunk: int = 0,
    decoupled: bool = False,
    same_view: bool = True,
    quantile: float = 0.0,
) -> Contrast:
    """Similarities of all anchors to positives and, in the log domain, to all they are compared with.

    With a teacher the keys are the teacher's (MoCo v3); with a queue its keys are further negatives. Memory: the
    (K, N, K, M) similarities and their gradient, or those of one chunk; never N²D.

    Args:
        pairs: anchors and keys.
        temperature: τ.
        chunk: samples at a time, see ``in_chunks``.
        decoupled: the energy is of the negatives alone, without any positive (DCL).
        same_view: the energy counts keys of the anchor's own view.
        quantile: negatives of a view whose similarity to the anchor is below this quantile are left out.
    """

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        mine = pairs.with_own_sample(anchors, keys, rows) / temperature
        similarity = torch.einsum("aid,bjd->aibj", anchors / temperature, keys)
        further = None if pairs.positive is None else pairs.positive[rows]
        target = mine if further is None else _mean_positive(similarity, mine, further, same_view)
        negative = pairs.negative[rows]
        kept = negative if decoupled else with_positives(pairs, rows)
        pairs.drop(similarity, rows, None if pairs.everyone and not decoupled else kept)
        earlier = None if pairs.queue is None else pairs.to_queue(anchors / temperature, rows)
        if quantile > 0:
            _drop_easy(similarity, negative.unsqueeze(1), quantile)
            if earlier is not None and pairs.queue_negative is not None:
                _drop_easy(earlier, pairs.queue_negative[rows], quantile)
        energy, best = _energies(similarity, earlier, same_view)
        nearest = ~((best > mine.detach()) & other_views(len(anchors), anchors.device)).any(-1)
        return energy, target, nearest.to(energy.dtype)

    energy, target, nearest = in_chunks(terms, pairs, chunk)
    return Contrast(energy, target, nearest)


def anchor_losses(pairs: Pairs, losses: Tensor, nearest: Tensor, **logs: Tensor) -> AnchorLosses:
    """(K, N, K) losses to their mean over the other views, with ``pair_accuracy`` beside other logs."""
    hits = ((nearest > 0) & pairs.valid).sum().float() / (pairs.valid.sum() * len(pairs.anchors)).clamp_min(1)
    return AnchorLosses(mean_of_views(losses), pairs.valid, pairs.total, {"pair_accuracy": hits.detach(), **logs})


def mean_of_views(values: Tensor) -> Tensor:
    """(K, N, K) → (K, N): mean over the other views b ≠ a."""
    k = len(values)
    return torch.where(other_views(k, values.device), values, 0.0).sum(-1) / (k - 1)


def other_views(k: int, device: torch.device) -> Tensor:
    """(K, 1, K) booleans: view b is another than a."""
    return ~torch.eye(k, dtype=torch.bool, device=device).view(k, 1, k)


def with_positives(pairs: Pairs, rows: slice) -> Tensor:
    """(n, M) negatives, keys of the anchor's own sample, and those with its label."""
    kept = pairs.negative[rows] | pairs.own[rows]
    return kept if pairs.positive is None else kept | pairs.positive[rows]


def _energies(similarity: Tensor, earlier: Tensor | None, same_view: bool) -> tuple[Tensor, Tensor]:
    """From (K, n, L, M), -inf where left out, and (K, n, Q) likewise: (K, n, K) log-sum-exp, and the maximum."""
    energy, best = similarity.logsumexp(-1), similarity.detach().amax(-1)  # over the keys of each view
    if same_view:
        energy = torch.logaddexp(_of_own_view(energy), energy)
        best = torch.maximum(best, _of_own_view(best))
    if earlier is not None:
        energy = torch.logaddexp(energy, earlier.logsumexp(-1, keepdim=True))
        best = torch.maximum(best, earlier.detach().amax(-1, keepdim=True))
    return energy, best


def _drop_easy(similarity: Tensor, negative: Tensor, quantile: float) -> None:
    """Set to -inf, in place, negatives below the quantile (interpolated linearly) of their row's negatives.

    Args:
        similarity: (..., M).
        negative: booleans that broadcast to it.
        quantile: 0 keeps all, 1 the nearest.
    """
    known = similarity.detach().masked_fill(~negative, -torch.inf).sort(-1).values
    width = known.shape[-1]
    count = negative.sum(-1, keepdim=True).expand(*known.shape[:-1], 1)
    # rounded, since 0.55 · 100 is just above 55 in floating point
    rank = (quantile * (count - 1).double()).round(decimals=9)
    place = (width - count + rank).clamp(0, width - 1)  # what is no negative stands first
    low, high = (known.gather(-1, p.long()) for p in (place.floor(), place.ceil()))
    share = place.frac().to(low.dtype)
    limit = torch.where(share > 0, low + (high - low) * share, low)
    similarity.masked_fill_(negative & (similarity.detach() < limit), -torch.inf)


def _of_own_view(values: Tensor) -> Tensor:
    """(K, n, K) → (K, n, 1): of the keys in the anchor's own view."""
    return values.diagonal(dim1=0, dim2=2).transpose(0, 1).unsqueeze(-1)


def _mean_positive(similarity: Tensor, mine: Tensor, further: Tensor, same_view: bool) -> Tensor:
    """(K, n, K): mean similarity of anchor (a, i) to its positives of the pair of views (a, b), or of view b alone.

    ``mine`` (K, n, K) is that to its own sample, ``further`` (n, M) tells keys of other samples with its label.
    """
    others = torch.einsum("aibj,ij->aib", similarity, further.to(similarity.dtype))
    count = further.sum(-1).view(1, -1, 1)
    if not same_view:
        return (mine + others) / (1 + count)
    return (mine + others + _of_own_view(others)) / (1 + 2 * count)


class InfoNCE(ContrastiveObjective):
    """InfoNCE / NT-Xent: the other view of the sample against all other samples (SimCLR, 2020).

    Args:
        temperature: τ; small values concentrate on the nearest negatives. 0.1 to 0.5 in the literature.
        same_view: negatives come from the anchor's own view too (SimCLR); False: from the other view alone (CLIP).
        positives: with more than two views, each is compared with every other in turn (``"pairs"``), or with the mean
            of all others (``"mean"``).
        queue: keys of earlier steps that serve as further negatives; 0 for none (MoCo).
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        same_view: bool = True,
        positives: Literal["pairs", "mean"] = "pairs",
        queue: int = 0,
        chunk: int = 0,
    ) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive("InfoNCE", temperature=temperature)
        if positives not in ("pairs", "mean"):
            raise ConfigError(f"InfoNCE takes positives 'pairs' or 'mean', not '{positives}'")
        self.temperature, self.same_view, self.positives = temperature, same_view, positives

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``info_nce``."""
        pairs = pair_up(views, given, self.queue)
        terms = info_nce_anchors if self.positives == "pairs" else info_nce_of_means
        return terms(pairs, temperature=self.temperature, chunk=self.chunk, same_view=self.same_view)
