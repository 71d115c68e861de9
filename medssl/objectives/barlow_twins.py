"""Barlow Twins, and its form with mixed samples."""

from __future__ import annotations

import math
from itertools import combinations
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Family, Given, LossOutput, Mixture, Objective, positive, promoted
from medssl.objectives.gather import gather_integers, gather_views

__all__ = [
    "BarlowTerms",
    "BarlowTwins",
    "MixedBarlowTwins",
    "barlow_terms",
    "barlow_twins",
    "dead_dimensions",
    "mixture_term",
    "standardise",
]

EPS = 1e-5
DEAD = 1e-4  # standard deviation of a dimension below which it says nothing


class BarlowTerms(NamedTuple):
    """Parts of the loss, means over pairs of views.

    Attributes:
        diagonal: ``Σᵢ (1 - Cᵢᵢ)²``.
        off_diagonal: ``Σᵢ≠ⱼ Cᵢⱼ²``.
        correlation: mean of ``Cᵢᵢ``, without gradient.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    correlation: Tensor


def standardise(x: Tensor, *, eps: float = EPS, correction: int = 0) -> Tensor:
    """Mean 0 and standard deviation 1 over the samples: (..., N, D) → (..., N, D).

    A dimension that is constant becomes 0, given an ``eps``; without one, as some released code has it, it may be NaN.

    Args:
        x: embeddings, N ≥ 2.
        eps: added to the variance.
        correction: 0 divides the variance by N, 1 by N - 1.
    """
    share = (x.shape[-2] - correction) / x.shape[-2]  # batch normalisation divides the variance by N
    # Several times as fast as torch.var_mean along this dimension. The operator, since functional refuses an eps of 0.
    views = [
        torch.batch_norm(view, None, None, None, None, True, 0.0, eps * share, False)
        for view in x.reshape(-1, *x.shape[-2:])
    ]
    scaled: Tensor = math.sqrt(share) * torch.stack(views).view_as(x)
    return scaled


def barlow_terms(standardised: Tensor) -> BarlowTerms:
    """The parts of ``barlow_twins``.

    Args:
        standardised: (K, N, D) of ``standardise``. Memory: D² numbers and their gradient for every pair of views.
    """
    n = standardised.shape[1]
    diagonal, off_diagonal, correlation = [], [], []
    for one, other in combinations(standardised, 2):
        crossed = one.T @ other / n
        matched = crossed.diagonal()
        diagonal.append((1 - matched).square().sum())
        off_diagonal.append(crossed.square().fill_diagonal_(0).sum())
        correlation.append(matched.detach().mean())
    means = [torch.stack(parts).mean() for parts in (diagonal, off_diagonal, correlation)]
    return BarlowTerms(*means)


def barlow_twins(views: Tensor, *, off_diagonal: float = 0.0051, eps: float = EPS, correction: int = 0) -> Tensor:
    r"""The cross-correlation of two views' dimensions should be the identity.

    .. math:: L = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad C = \tilde z_1^T \tilde z_2 / N

    with :math:`\tilde z` standardised over the samples (Zbontar et al., *Barlow Twins*, ICML 2021, equation 1). With
    K > 2 views it is the mean over all pairs of views.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2, not normalised.
        off_diagonal: λ ≥ 0.
        eps, correction: see ``standardise``.

    >>> corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # white, and alike in both views
    >>> round(float(barlow_twins(corners.expand(2, 4, 2))), 4)
    0.0
    """
    terms = barlow_terms(standardise(views, eps=eps, correction=correction))
    return terms.diagonal + off_diagonal * terms.off_diagonal


def mixture_term(
    standardised: Tensor, mixed: Tensor, order: Tensor, share: Tensor, *, published: bool = False
) -> Tensor:
    r"""Embeddings of mixed inputs should correlate with the views as the same mixture of embeddings does.

    .. math:: \sum_{v=1,2} \Big\| \tfrac1N \big(\tilde z_m - \lambda \tilde z_1 - (1-\lambda) \tilde z_2[\pi]\big)^T
              \tilde z_v \Big\|_F^2

    (Bandara et al., *Guarding Barlow Twins against overfitting with mixed samples*, 2023).

    Args:
        standardised: (K, N, D) of ``standardise``; the first two views count.
        mixed: (N, D), z̃_m, standardised too.
        order: (N,) π, which sample of the second view was mixed into each.
        share: (N,) λ, share of the first view.
        published: against the second view, take ``z̃₂`` in the place of ``z̃₁``, as the code released for ImageNet
            does, contrary to the equations; to compare with it.
    """
    one, two = standardised[:2]
    part = share.to(one.dtype).unsqueeze(-1)
    from_other = (1 - part) * two[order]
    first = mixed - (part * one + from_other)
    second = mixed - (part * two + from_other) if published else first
    n = len(one)
    term: Tensor = (first.T @ one / n).square().sum() + (second.T @ two / n).square().sum()
    return term


def dead_dimensions(views: Tensor) -> Tensor:
    """Share of dimensions whose standard deviation over all embeddings (K, N, D) is below 1e-4."""
    rows = views.detach().flatten(0, 1)
    deviation = (rows - rows.mean(0)).square().mean(0).sqrt()
    share: Tensor = (deviation < DEAD).to(views.dtype).mean()
    return share


class BarlowTwins(Objective):
    """Barlow Twins: equal dimensions of two views agree, different ones are uncorrelated (2021).

    Statistics are over the samples of all processes, with exact gradients; accumulating gradients does not enlarge
    them. ``off_diagonal`` among the logs is the sum of the squared off-diagonal entries in units of D²/N, what N
    samples of independent dimensions would give: near 1, the rest is noise.

    Args:
        off_diagonal: λ of the off-diagonal entries. For fewer than 256 samples choose D below about 1024.
    """

    family: ClassVar[Family] = "redundancy"
    min_samples: ClassVar[int] = 2

    def __init__(self, *, off_diagonal: float = 0.0051) -> None:
        super().__init__()
        if off_diagonal < 0:
            raise ConfigError(f"{type(self).__name__} takes an off-diagonal weight of 0 or more, not {off_diagonal}")
        self.off_diagonal = off_diagonal

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``barlow_twins``."""
        everyone = gather_views(views).views
        return self.loss_of(everyone, standardise(everyone))

    def loss_of(self, views: Tensor, standardised: Tensor) -> LossOutput:
        """Loss and diagnostics of the views (K, M, D) of all processes, as they are and standardised."""
        terms = barlow_terms(standardised)
        _, m, d = views.shape
        logs = {
            "correlation": terms.correlation,
            "off_diagonal": terms.off_diagonal.detach() * (m / d**2),
            "dead_dimensions": dead_dimensions(views),
        }
        return LossOutput(terms.diagonal + self.off_diagonal * terms.off_diagonal, logs)


class MixedBarlowTwins(BarlowTwins):
    """Mixed Barlow Twins: embeddings of mixed inputs are that mixture of embeddings; guards small sets (2023).

    Barlow Twins overfits small sets; the term on mixed inputs lets it go on improving. See ``mixture_term``, which is
    added times ``mixing`` · ``off_diagonal``.

    Args:
        off_diagonal: λ of the off-diagonal entries; 1/128 for small sets, 0.0051 for large ones.
        mixing: weight of the term on mixed inputs, relative to λ; 2 to 4 for small sets.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"mixture"})

    def __init__(self, *, off_diagonal: float = 0.0078125, mixing: float = 4.0) -> None:
        super().__init__(off_diagonal=off_diagonal)
        positive("MixedBarlowTwins", mixing=mixing)
        self.mixing = mixing

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``barlow_twins`` and ``mixture_term``."""
        assert given.mixture is not None
        everyone, mixture = _gather_mixture(views, given.mixture)
        standardised = standardise(everyone)
        plain = self.loss_of(everyone, standardised)
        term = mixture_term(standardised, standardise(mixture.embeddings), mixture.order, mixture.share)
        loss = plain.loss + self.mixing * self.off_diagonal * term
        return LossOutput(loss, {**plain.logs, "mixture": term.detach()})


def _gather_mixture(views: Tensor, mixture: Mixture) -> tuple[Tensor, Mixture]:
    """Views and mixture of all processes; every process mixed among its own samples."""
    embeddings = promoted(mixture.embeddings).unsqueeze(0)
    joined, offset, _ = gather_views(torch.cat([views, embeddings.to(views.dtype)]))
    order = gather_integers(mixture.order + offset)
    share = gather_views(mixture.share.detach().to(views.dtype).view(1, -1, 1)).views.flatten()
    assert order is not None
    return joined[:-1], Mixture(joined[-1], order, share)
