"""Objectives that pull the views of one sample together and push other samples away."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.base import LossOutput, Objective, Weights, full_precision, promoted
from medssl.objectives.gather import gather_integers, gather_views

__all__ = ["AnchorLosses", "InfoNCE", "info_nce", "info_nce_anchors"]

EPS = 1e-12


class AnchorLosses(NamedTuple):
    """Losses of all anchors before the mean.

    Attributes:
        losses: (K, N); 0 where the anchor has no negative.
        valid: (N,) whether the sample has at least one negative.
        total: samples with a negative among all keys (of all processes), divided by the number of processes.
        accuracy: scalar, share of valid anchors whose own positive is the nearest key; detached.
    """

    losses: Tensor
    valid: Tensor
    total: Tensor
    accuracy: Tensor


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
    return _reduce(info_nce_anchors(views, temperature=temperature, group=group, labels=labels), weights)


def info_nce_anchors(
    views: Tensor,
    *,
    temperature: float,
    group: Tensor | None = None,
    labels: Tensor | None = None,
) -> AnchorLosses:
    """The terms of ``info_nce``, one an anchor. In a process group, keys are gathered from all processes.

    Memory: the (K, N, K, W·N) similarities, their masked copy and the gradient; never N²D.
    """
    if views.ndim != 3 or views.shape[0] < 2:
        raise ValueError(f"needs at least 2 views, as (K, N, D); got {tuple(views.shape)}")
    with full_precision(views.device):
        anchors = functional.normalize(promoted(views), dim=-1, eps=EPS)
        keys, offset, world = gather_views(anchors)
        if keys.shape[1] < 2:
            raise ValueError("needs at least 2 samples: with one there is nothing to contrast with")
        # (K, N, K, M): the similarity of anchor (a, i) to key (b, j)
        similarity = torch.einsum("aid,bjd->aibj", anchors, keys) / temperature
        own = _own(anchors.shape[1], keys.shape[1], offset, views.device)
        same_group = _same(group, own)
        same_label = None if labels is None else _same(labels, own)
        losses, nearest = _terms(similarity, own, offset, same_group, same_label)
        negatives = _negatives_of_all_keys(group, labels, keys.shape[1], views.device)
        valid = negatives[offset : offset + anchors.shape[1]]
        losses = torch.where(valid, losses, 0.0)
        accuracy = (nearest & valid).sum().float() / (valid.sum() * views.shape[0]).clamp_min(1)
        return AnchorLosses(losses, valid, negatives.sum() / world, accuracy.detach())


def _terms(
    similarity: Tensor, own: Tensor, offset: int, same_group: Tensor, same_label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Losses (K, N) averaged over the other views, and whether the own positive is the nearest of the allowed keys.

    ``own``, ``same_group`` and ``same_label`` are (N, M): the key is of the anchor's sample, group, label.
    """
    k, n = similarity.shape[:2]
    excluded = same_group if same_label is None else same_group & ~same_label
    itself = torch.eye(k, dtype=torch.bool, device=own.device).view(k, 1, k, 1) & own.view(1, n, 1, -1)
    allowed = similarity.masked_fill(itself | (excluded & ~own).view(1, n, 1, -1), -torch.inf)
    # logsumexp over the keys of each view; then over the pair of the anchor's own and the other view
    denominators = allowed.logsumexp(-1)
    pair = torch.logaddexp(_of_own_view(denominators), denominators)  # (K, N, K): anchor's view, sample, other view
    place = torch.arange(n, device=own.device)
    mine = similarity[:, place, :, place + offset].transpose(0, 1)
    positive = mine if same_label is None else _positives(similarity, mine, same_label & ~own)
    other = ~torch.eye(k, dtype=torch.bool, device=own.device).view(k, 1, k)
    losses = torch.where(other, pair - positive, 0.0).sum(-1) / (k - 1)
    best = allowed.detach().amax(-1)
    nearest = ~((torch.maximum(best, _of_own_view(best)) > mine) & other).any(-1)
    return losses, nearest


def _of_own_view(values: Tensor) -> Tensor:
    """(K, N, K) → (K, N, 1): of the keys in the anchor's own view."""
    return values.diagonal(dim1=0, dim2=2).transpose(0, 1).unsqueeze(-1)


def _positives(similarity: Tensor, mine: Tensor, further: Tensor) -> Tensor:
    """(K, N, K): mean similarity of anchor (a, i) to its positives of the pair of views (a, b).

    ``mine`` (K, N, K) is that to its own sample, ``further`` (N, M) tells keys of other samples with its label.
    """
    n = similarity.shape[1]
    others = torch.where(further.view(1, n, 1, -1), similarity, 0.0).sum(-1)
    count = further.sum(-1).view(1, n, 1)
    return (mine + others + _of_own_view(others)) / (1 + 2 * count)


def _own(n: int, m: int, offset: int, device: torch.device) -> Tensor:
    return torch.arange(m, device=device) == torch.arange(n, device=device).unsqueeze(1) + offset


def _same(values: Tensor | None, own: Tensor) -> Tensor:
    """(N, M): anchor and key carry the same integer; only the sample itself where there are no integers."""
    if values is None:
        return own
    keys = gather_integers(values)
    assert keys is not None
    return values.unsqueeze(1) == keys


def _negatives_of_all_keys(group: Tensor | None, labels: Tensor | None, m: int, device: torch.device) -> Tensor:
    """(M,): the key, taken as an anchor, has at least one negative."""
    itself = torch.eye(m, dtype=torch.bool, device=device)
    same = itself.clone()
    for values in (group, labels):
        keys = gather_integers(values)
        if keys is not None:
            same |= keys.unsqueeze(1) == keys
    return ~same.all(-1)


def _reduce(terms: AnchorLosses, weights: Weights | None) -> Tensor:
    losses = terms.losses
    if callable(weights):
        weights = weights(torch.where(terms.valid, losses.detach().mean(0), torch.nan))
    if weights is not None:
        losses = torch.where(terms.valid, losses * weights, 0.0)
    count = torch.where(terms.total > 0, terms.total, 1.0)
    return losses.sum() / (losses.shape[0] * count)


class InfoNCE(Objective):
    """InfoNCE / NT-Xent: the other view of the sample against all other samples (SimCLR, 2020).

    Args:
        temperature: τ; small values concentrate on the nearest negatives. 0.1 to 0.5 in the literature.
    """

    pairwise: ClassVar[bool] = True
    min_samples: ClassVar[int] = 2

    def __init__(self, *, temperature: float = 0.2) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"InfoNCE needs a temperature above 0, not {temperature}")
        self.temperature = temperature

    def forward(
        self,
        views: Tensor,
        *,
        index: Tensor | None = None,
        group: Tensor | None = None,
        weights: Weights | None = None,
        labels: Tensor | None = None,
    ) -> LossOutput:
        """See ``info_nce`` and ``Objective.forward``."""
        terms = info_nce_anchors(views, temperature=self.temperature, group=group, labels=labels)
        logs = {"pair_accuracy": terms.accuracy, "samples_with_negatives": terms.valid.float().mean()}
        return LossOutput(_reduce(terms, weights), logs)
