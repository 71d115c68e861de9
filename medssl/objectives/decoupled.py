"""Decoupled contrastive learning: InfoNCE without the positive in the denominator, DCL and DCLW."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.objectives.base import Given, Weights, full_precision, positive
from medssl.objectives.contrastive import anchor_losses, contrast, other_views
from medssl.objectives.gather import gather_views
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, pair_up, weighted_mean

__all__ = ["DCL", "DCLW", "dcl", "dcl_anchors", "dclw", "dclw_anchors", "pair_weights"]


def dcl(
    views: Tensor,
    *,
    temperature: float,
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    r"""Decoupled contrastive loss (Yeh et al., *Decoupled contrastive learning*, ECCV 2022, :math:`L_{DC}`).

    .. math:: L_i = -s_{i,p(i)}/\tau + \log \sum_{k \notin \{i, p(i)\}} e^{s_{ik}/\tau}

    over the 2N - 2 negatives in both views, s the cosine similarity; the mean over all anchors and, for K > 2, all
    pairs of views. The gradient of the positive similarity is -1/τ however easy the negatives are, which matters
    in small batches. Related to InfoNCE by :math:`L_{InfoNCE,i} = \log(e^{L_i} + 1)`; unbounded below, so its values
    are not to be compared with those of InfoNCE.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2; normalised here.
        temperature: τ > 0.
        group: (N,) integers; other samples of the same group are no negatives. A sample that has no negative left is
            dropped from the mean.
        weights: see ``Weights``.
        labels: (N,) integers; other samples of the same label are further positives: the first term is the mean.

    >>> round(float(dcl(torch.ones(2, 4, 8), temperature=0.5).exp() * torch.tensor(2.0).exp()), 3)  # 2N - 2 negatives
    44.334
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        return weighted_mean(dcl_anchors(pairs, temperature=temperature), weights)


def dcl_anchors(pairs: Pairs, *, temperature: float, chunk: int = 0) -> AnchorLosses:
    """The terms of ``dcl``, (K, N), and ``pair_accuracy`` among the logs; memory as ``contrast``."""
    terms = contrast(pairs, temperature=temperature, chunk=chunk, decoupled=True)
    return anchor_losses(pairs, terms.energy - terms.target, terms.nearest)


def dclw(
    views: Tensor,
    *,
    temperature: float,
    sigma: float = 0.5,
    detach_weights: bool = True,
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    r"""Weighted decoupled contrastive loss (Yeh et al., ECCV 2022, :math:`L_{DCW}`).

    .. math:: L_i = -w_i s_{i,p(i)}/\tau + \log \sum_{k \notin \{i, p(i)\}} e^{s_{ik}/\tau}

    with ``pair_weights``: poorly aligned pairs are attracted more.

    Args:
        views, temperature, group, weights, labels: see ``dcl``; with labels the weight is that of the mean similarity.
        sigma: see ``pair_weights``.
        detach_weights: no gradient through the weights.
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        terms = dclw_anchors(pairs, temperature=temperature, sigma=sigma, detach_weights=detach_weights)
        return weighted_mean(terms, weights)


def dclw_anchors(
    pairs: Pairs, *, temperature: float, sigma: float, detach_weights: bool = True, chunk: int = 0
) -> AnchorLosses:
    """The terms of ``dclw``, (K, N); ``pair_accuracy`` and ``min_weight`` among the logs; memory as ``contrast``.

    The weights' softmax runs over the samples of all processes, so that the loss does not depend on their number.
    """
    terms = contrast(pairs, temperature=temperature, chunk=chunk, decoupled=True)
    similarity = terms.target.detach() if detach_weights else terms.target
    weight = pair_weights(gather_views(similarity).views * temperature, sigma=sigma)
    lowest = torch.where(other_views(len(weight), weight.device), weight, torch.inf).detach().amin()
    mine = weight[:, pairs.offset : pairs.offset + similarity.shape[1]]
    return anchor_losses(pairs, terms.energy - mine * terms.target, terms.nearest, min_weight=lowest)


def pair_weights(similarity: Tensor, *, sigma: float) -> Tensor:
    r"""Negative von Mises-Fisher weights :math:`w_i = 2 - N \, \mathrm{softmax}_i(s_i / \sigma)`; their mean is 1.

    Below 0 for a sample far better aligned than the others, which is then pushed apart.

    Args:
        similarity: (A, N, ...) cosine similarities of the pairs; the softmax runs over the N samples.
        sigma: σ > 0; all weights tend to 1 as it grows.

    >>> pair_weights(torch.tensor([[0.5, 0.5, 0.5]]), sigma=0.5)
    tensor([[1., 1., 1.]])
    """
    return 2 - similarity.shape[1] * (similarity / sigma).softmax(1)


class DCL(ContrastiveObjective):
    """DCL: InfoNCE without the positive in the denominator, so that small batches learn from easy pairs too (2022).

    Args:
        temperature: τ; the paper tunes it for each data set, 0.07 to 0.25.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(self, *, temperature: float = 0.1, queue: int = 0, chunk: int = 0) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive(type(self).__name__, temperature=temperature)
        self.temperature = temperature

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``dcl``."""
        return dcl_anchors(pair_up(views, given, self.queue), temperature=self.temperature, chunk=self.chunk)


class DCLW(DCL):
    """DCLW: DCL that attracts poorly aligned pairs more than well aligned ones (2022).

    Args:
        temperature: τ; 0.07 to 0.25 in the paper.
        sigma: σ of the weights; larger values weigh all pairs more alike.
        detach_weights: no gradient through the weights.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        sigma: float = 0.5,
        detach_weights: bool = True,
        queue: int = 0,
        chunk: int = 0,
    ) -> None:
        super().__init__(temperature=temperature, queue=queue, chunk=chunk)
        positive("DCLW", sigma=sigma)
        self.sigma, self.detach_weights = sigma, detach_weights

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``dclw``."""
        return dclw_anchors(
            pair_up(views, given, self.queue), temperature=self.temperature, sigma=self.sigma,
            detach_weights=self.detach_weights, chunk=self.chunk,
        )  # fmt: skip
