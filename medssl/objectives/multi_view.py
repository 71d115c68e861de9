"""Objectives of all views at once: MV-InfoNCE, MV-DHEL and Poly-View contrast."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, Weights, full_precision, positive
from medssl.objectives.contrastive import mean_of_views, other_views
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, Pairs, in_chunks, pair_up, weighted_mean

__all__ = [
    "MVDHEL",
    "MVInfoNCE",
    "PolyView",
    "Variant",
    "mv_dhel",
    "mv_dhel_anchors",
    "mv_info_nce",
    "mv_info_nce_anchors",
    "poly_view",
    "poly_view_anchors",
]

Variant = Literal["code", "paper", "per_view"]


def mv_info_nce(
    views: Tensor,
    *,
    temperature: float,
    variant: Variant = "code",
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    r"""One InfoNCE term a sample for all its views (Koromilas et al., 2025, arXiv 2507.06979, :math:`L_{MV-InfoNCE}`).

    .. math:: L = -\frac{1}{N} \sum_i \log \frac{\sum_{l \ne m} e^{u_{il} \cdot u_{im}/\tau}}
        {\sum_{l} \sum_{(j,m) \ne (i,l)} e^{u_{il} \cdot u_{jm}/\tau}}

    with u_il the unit embedding of sample i in view l.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2; normalised here.
        temperature: τ > 0.
        variant: ``"code"`` as above, which gave the published figures; ``"paper"``: the denominator runs over m ≠ l
            alone, without negatives from the same view; ``"per_view"``: the paper's ablation, one logarithm a view l
            and the mean of these.
        group: (N,) integers; other samples of the same group are no negatives.
        weights: see ``Weights``.
        labels: (N,) integers; other samples of the same label are no negatives.

    >>> round(float(mv_info_nce(torch.ones(3, 4, 8), temperature=0.5).exp()), 3)  # K(KN - 1) terms, K(K - 1) positive
    5.5
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        return weighted_mean(mv_info_nce_anchors(pairs, temperature=temperature, variant=variant), weights)


def mv_info_nce_anchors(pairs: Pairs, *, temperature: float, variant: Variant = "code", chunk: int = 0) -> AnchorLosses:
    """The terms of ``mv_info_nce``: (1, N), or (K, N) for ``"per_view"``. Memory: (K, N, K, M)."""

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        mine = pairs.with_own_sample(anchors, keys, rows) / temperature
        similarity = torch.einsum("aid,bjd->aibj", anchors / temperature, keys)
        pairs.drop(similarity, rows, None if pairs.everyone else pairs.negative[rows] | pairs.own[rows])
        energy = similarity.logsumexp(-1)
        if variant != "code":
            energy = energy.masked_fill(~other_views(len(energy), energy.device), -torch.inf)
        return _of_others(mine), _with_queue(energy.logsumexp(-1), pairs, anchors / temperature, rows)

    own, energy = in_chunks(terms, pairs, chunk)  # both (K, N)
    if variant != "per_view":
        own, energy = own.logsumexp(0, keepdim=True), energy.logsumexp(0, keepdim=True)
    return AnchorLosses(energy - own, pairs.valid, pairs.total, {})


def mv_dhel(
    views: Tensor,
    *,
    temperature: float,
    variant: Variant = "code",
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    r"""Alignment of all views, and uniformity inside each (Koromilas et al., 2025, :math:`L_{MV-DHEL}`).

    .. math:: L = \frac{1}{N} \sum_i \Big[ \sum_l \log \sum_{j \ne i} e^{u_{il} \cdot u_{jl}/\tau}
        - \log \sum_{l < m} e^{u_{il} \cdot u_{im}/\tau} \Big]

    computed in the log domain; the energies take K·N² similarities, not K²·N².

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2; normalised here.
        temperature: τ > 0.
        variant: ``"code"`` as above; ``"paper"``: the positives run over both orders of l and m, which subtracts
            log 2; ``"per_view"``: the ablation, the mean over l of log Σ_{m ≠ l} for the positives.
        group: (N,) integers; other samples of the same group are no negatives.
        weights: see ``Weights``.
        labels: (N,) integers; other samples of the same label are no negatives.

    >>> views = torch.eye(4).expand(3, 4, 4)
    >>> round(float(mv_dhel(views, temperature=1.0).exp() * torch.tensor(1.0).exp()), 3)  # (N - 1)^K over K(K - 1)/2
    9.0
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        return weighted_mean(mv_dhel_anchors(pairs, temperature=temperature, variant=variant), weights)


def mv_dhel_anchors(pairs: Pairs, *, temperature: float, variant: Variant = "code", chunk: int = 0) -> AnchorLosses:
    """The terms of ``mv_dhel``, (1, N). Memory: (K, N, M)."""

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        mine = pairs.with_own_sample(anchors, keys, rows) / temperature
        similarity = torch.einsum("aid,ajd->aij", anchors / temperature, keys)
        energy = similarity.masked_fill_(~pairs.negative[rows], -torch.inf).logsumexp(-1)
        return _of_others(mine), _with_queue(energy, pairs, anchors / temperature, rows)

    own, energy = in_chunks(terms, pairs, chunk, met=1)  # both (K, N)
    aligned = own.mean(0) if variant == "per_view" else own.logsumexp(0)
    losses = energy.sum(0) - aligned + (math.log(2) if variant == "code" else 0.0)
    return AnchorLosses(losses.unsqueeze(0), pairs.valid, pairs.total, {})


def poly_view(
    views: Tensor,
    *,
    temperature: float,
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    r"""Poly-View contrast, geometric mean (Shidani et al., *Poly-View contrastive learning*, ICLR 2024).

    The mean over ordered pairs (a, b) of views of the cross-entropy of view a of a sample, whose positive is its view
    b, against all K·(N - 1) embeddings of other samples:

    .. math:: L = \frac{-1}{N K (K-1)} \sum_{i, a \ne b} \log \frac{e^{u_{ia} \cdot u_{ib}/\tau}}
        {e^{u_{ia} \cdot u_{ib}/\tau} + \sum_m \sum_{j \ne i} e^{u_{ia} \cdot u_{jm}/\tau}}

    Two views: InfoNCE.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2; normalised here.
        temperature: τ > 0.
        group: (N,) integers; other samples of the same group are no negatives.
        weights: see ``Weights``.
        labels: (N,) integers; other samples of the same label are no negatives.

    >>> round(float(poly_view(torch.ones(3, 4, 8), temperature=0.5).exp()), 3)  # 1 + K(N - 1)
    10.0
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        return weighted_mean(poly_view_anchors(pairs, temperature=temperature), weights)


def poly_view_anchors(pairs: Pairs, *, temperature: float, chunk: int = 0) -> AnchorLosses:
    """The terms of ``poly_view``, (K, N). Memory: (K, N, K, M)."""

    def terms(anchors: Tensor, keys: Tensor, rows: slice) -> tuple[Tensor, ...]:
        mine = pairs.with_own_sample(anchors, keys, rows) / temperature
        similarity = torch.einsum("aid,bjd->aibj", anchors / temperature, keys)
        energy = pairs.drop(similarity, rows, pairs.negative[rows]).flatten(2).logsumexp(-1)
        energy = _with_queue(energy, pairs, anchors / temperature, rows)
        return (mean_of_views(torch.logaddexp(energy.unsqueeze(-1), mine) - mine),)

    (losses,) = in_chunks(terms, pairs, chunk)
    return AnchorLosses(losses, pairs.valid, pairs.total, {})


def _of_others(mine: Tensor) -> Tensor:
    """(K, n, K) similarities inside a sample → (K, n): log Σ exp over the other views."""
    return mine.masked_fill(~other_views(len(mine), mine.device), -torch.inf).logsumexp(-1)


def _with_queue(energy: Tensor, pairs: Pairs, anchors: Tensor, rows: slice) -> Tensor:
    """Energies (K, n) with the queue's keys as further negatives of every view."""
    if pairs.queue is None:
        return energy
    return torch.logaddexp(energy, pairs.to_queue(anchors, rows).logsumexp(-1))


class _MultiView(ContrastiveObjective):
    """Temperature and variant of the multi-view objectives."""

    def __init__(self, *, temperature: float, variant: Variant, queue: int, chunk: int) -> None:
        super().__init__(queue=queue, chunk=chunk)
        name = type(self).__name__
        positive(name, temperature=temperature)
        if variant not in get_args(Variant):
            raise ConfigError(f"{name} has the variants {', '.join(get_args(Variant))}, not '{variant}'")
        self.temperature, self.variant = temperature, variant


class MVInfoNCE(_MultiView):
    """MV-InfoNCE: one term for all views of a sample, instead of one a pair of views (2025).

    Labels only take samples from the negatives.

    Args:
        temperature: τ; 0.5 for small images, 0.1 for ImageNet in the paper.
        variant: ``code`` as published figures were made, ``paper`` without negatives of the same view, ``per_view``
            the paper's ablation.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(self, *, temperature: float = 0.5, variant: Variant = "code", queue: int = 0, chunk: int = 0) -> None:
        super().__init__(temperature=temperature, variant=variant, queue=queue, chunk=chunk)

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``mv_info_nce``."""
        pairs = pair_up(views, given, self.queue)
        return mv_info_nce_anchors(pairs, temperature=self.temperature, variant=self.variant, chunk=self.chunk)


class MVDHEL(_MultiView):
    """MV-DHEL: aligns all views of a sample at once and spreads the samples inside every view (2025).

    The cheapest objective of many views, K·N² similarities. Labels only take samples from the negatives.

    Args:
        temperature: τ; 0.5 for small images, 0.1 for ImageNet in the paper.
        variant: ``code``; ``paper``, less by log 2; ``per_view`` the paper's ablation.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(self, *, temperature: float = 0.5, variant: Variant = "code", queue: int = 0, chunk: int = 0) -> None:
        super().__init__(temperature=temperature, variant=variant, queue=queue, chunk=chunk)

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``mv_dhel``."""
        pairs = pair_up(views, given, self.queue)
        return mv_dhel_anchors(pairs, temperature=self.temperature, variant=self.variant, chunk=self.chunk)


class PolyView(ContrastiveObjective):
    """Poly-View contrast: every pair of views against all views of all other samples (2024).

    Labels only take samples from the negatives.

    Args:
        temperature: τ.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(self, *, temperature: float = 0.2, queue: int = 0, chunk: int = 0) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive("PolyView", temperature=temperature)
        self.temperature = temperature

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``poly_view``."""
        return poly_view_anchors(pair_up(views, given, self.queue), temperature=self.temperature, chunk=self.chunk)
