"""VICReg: invariance, variance and covariance, each by a term of its own."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.barlow_twins import dead_dimensions
from medssl.objectives.base import Family, Given, LossOutput, Objective
from medssl.objectives.gather import gather_views

__all__ = ["VICReg", "VICRegTerms", "vicreg", "vicreg_terms"]

EPS = 1e-4
LARGEST = 1e15  # covariances count up to here, so that their squares stay finite in float32


class VICRegTerms(NamedTuple):
    """Parts of the loss; means over views, the first over pairs of views.

    Attributes:
        invariance: mean squared difference of two views.
        variance: mean over dimensions of ``relu(1 - standard deviation)``.
        covariance: ``Σᵢ≠ⱼ Covᵢⱼ² / D``.
    """

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_terms(views: Tensor) -> VICRegTerms:
    """The parts of ``vicreg``.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2. Memory: D² numbers and their gradient for every view.
    """
    k, n, d = views.shape
    # the mean over pairs of views of their squared distance is twice the variance over views
    invariance = 2 / (k - 1) * (views - views.mean(0)).square().sum(0).mean()
    centred = views - views.mean(1, keepdim=True)
    covariances = [x.T @ x / (n - 1) for x in centred]
    deviation = (torch.stack([c.diagonal() for c in covariances]) + EPS).sqrt()
    covariance = torch.stack([_squares_off_diagonal(c) / d for c in covariances]).mean()
    return VICRegTerms(invariance, torch.relu(1 - deviation).mean(), covariance)


def _squares_off_diagonal(matrix: Tensor) -> Tensor:
    return matrix.clamp(-LARGEST, LARGEST).square().fill_diagonal_(0).sum()


def vicreg(views: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    r"""Views agree, every dimension varies, and no two dimensions vary together.

    .. math::
        L = \lambda\, \mathrm{mse}(z_1, z_2)
          + \frac{\mu}{2} \sum_v \frac1D \sum_j \mathrm{relu}\Big(1 - \sqrt{\mathrm{Var}(z_{vj}) + 10^{-4}}\Big)
          + \nu \sum_v \frac1D \sum_{i \ne j} \mathrm{Cov}(z_v)_{ij}^2

    (Bardes, Ponce, LeCun, *VICReg*, ICLR 2022, equation 6, as in the released code). Variance and covariance divide by
    N - 1. With K > 2 views the first term is the mean over pairs, and :math:`\frac12 \sum_v` the mean over views.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2, not normalised.
        invariance, variance, covariance: λ, μ, ν.

    >>> round(float(vicreg(torch.zeros(2, 4, 3))), 3)  # collapsed: only the variance term, 25 · (1 - √1e-4)
    24.75
    """
    terms = vicreg_terms(views)
    return invariance * terms.invariance + variance * terms.variance + 2 * covariance * terms.covariance


class VICReg(Objective):
    """VICReg: views agree, every dimension keeps its variance, different ones are uncorrelated (2022).

    Statistics are over the samples of all processes, with exact gradients; accumulating gradients does not enlarge
    them. The covariance of N ≤ D samples has rank N - 1: for small batches choose a small D, or lower ``covariance``
    by N/D. The logs hold the three terms before their weights.

    Args:
        invariance: λ of the distance between views.
        variance: μ of the hinge that keeps each standard deviation above 1.
        covariance: ν of the squared covariances.
    """

    family: ClassVar[Family] = "redundancy"
    min_samples: ClassVar[int] = 2

    def __init__(self, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        bad = [f"{name} {value}" for name, value in weights.items() if value < 0]
        if bad:
            raise ConfigError(f"VICReg takes weights of 0 or more, not {', '.join(bad)}")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``vicreg``."""
        everyone = gather_views(views).views
        terms = vicreg_terms(everyone)
        loss = (
            self.invariance * terms.invariance + self.variance * terms.variance + 2 * self.covariance * terms.covariance
        )
        logs = {name: term.detach() for name, term in terms._asdict().items()}
        return LossOutput(loss, {**logs, "dead_dimensions": dead_dimensions(everyone)})
