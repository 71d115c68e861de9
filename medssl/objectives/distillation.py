"""SimSiam and BYOL: predict what a teacher, or the network itself without gradient, says of another view."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from medssl.objectives.base import Family, Given, LossOutput, Objective, promoted
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.pairs import AnchorLosses, unit, weighted_mean

__all__ = ["BYOL", "DistillationObjective", "SimSiam", "agreement", "byol_losses", "simsiam_losses", "spread"]


def agreement(predictions: Tensor, targets: Tensor, labels: Tensor | None = None) -> Tensor:
    r"""Cosine of each prediction with the targets of the other views.

    Its mean over all K·N values is the mean over samples and over ordered pairs of different views,

    .. math:: \frac{1}{|P|} \sum_{(a,b) \in P,\, a \ne b} \cos(p_a, t_b)

    Args:
        predictions: (K, N, D), not normalised.
        targets: (G, N, D) of the first G ≤ K views, not normalised, without gradient.
        labels: (N,); samples of one label are each other's targets too: the cosine is the mean over them, also those
            of other processes.

    Returns:
        (K, N); where G = K the value of a view is its mean over the other views. A zero vector has cosine 0.

    Raises:
        ValueError: targets that do not fit the predictions.

    >>> agreement(torch.eye(3).expand(2, 3, 3), torch.eye(3).expand(2, 3, 3)).mean()
    tensor(1.)
    """
    k, g = len(predictions), len(targets)
    if g > k or targets.shape[1:] != predictions.shape[1:]:
        raise ValueError(f"targets {tuple(targets.shape)} do not fit predictions {tuple(predictions.shape)}")
    known = unit(promoted(targets.detach()))
    if labels is not None:
        known = _mean_of_positives(known, labels)
    everything = known.sum(0, keepdim=True)
    # a prediction's cosines with the other views sum to its product with the sum of their targets
    others = torch.cat([everything - known, everything.expand(k - g, -1, -1)])
    return (unit(promoted(predictions)) * others).sum(-1) * (k / (k * g - g))


def _mean_of_positives(targets: Tensor, labels: Tensor) -> Tensor:
    """(G, N, D): the mean target of all samples, of all processes, with the label of a sample."""
    everyone, everywhere = gather_views(targets).views, gather_integers(labels)
    assert everywhere is not None
    same = (labels.unsqueeze(1) == everywhere).to(targets.dtype)
    return torch.einsum("nm,gmd->gnd", same / same.sum(1, keepdim=True), everyone)


def simsiam_losses(cosine: Tensor) -> Tensor:
    """SimSiam's loss ``-cos``, in [-1, 1] (Chen and He, *Exploring simple Siamese representation learning*, CVPR 2021).

    The mean over two views is the published ``-½ [cos(p₁, z₂) + cos(p₂, z₁)]``.

    Args:
        cosine: of ``agreement``.
    """
    return -cosine


def byol_losses(cosine: Tensor) -> Tensor:
    """BYOL's loss ``2 (2 - 2 cos)``, in [0, 8] (Grill et al., *Bootstrap your own latent*, NeurIPS 2020, equation 2).

    The mean over two views is the published sum of both directions, ``(2 - 2 cos(p₁, t₂)) + (2 - 2 cos(p₂, t₁))``.

    Args:
        cosine: of ``agreement``.
    """
    return 4 - 4 * cosine


def spread(embeddings: Tensor) -> Tensor:
    """How widely unit embeddings are spread: mean standard deviation of a dimension, times √D.

    About 1 for directions that are used evenly, 0 when all embeddings point the same way (collapse).

    Args:
        embeddings: (K, N, D), not normalised.
    """
    rows = unit(embeddings.detach()).flatten(0, -2)
    deviation: Tensor = (rows - rows.mean(0)).square().mean(0).sqrt().mean()
    return deviation * math.sqrt(rows.shape[-1])


class DistillationObjective(Objective):
    """A loss a sample on the cosine between predictions and targets; subclasses say which.

    ``views`` are predictions (K, N, D), ``targets`` those of the first views. With ``labels`` samples of one label
    (recordings of one patient) are targets of each other.
    """

    family: ClassVar[Family] = "distillation"
    pairwise: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"targets"})
    min_samples: ClassVar[int] = 2  # batch statistics of the heads

    @abstractmethod
    def losses(self, cosine: Tensor) -> Tensor:
        """(K, N) losses of the cosines of ``agreement``."""

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``Objective.compute``."""
        return self.compare(views, given)

    def compare(self, predictions: Tensor, given: Given) -> LossOutput:
        """Loss and diagnostics of predictions (K, N, D)."""
        assert given.targets is not None
        cosine = agreement(predictions, given.targets, given.labels)
        n = cosine.shape[1]
        every, total = cosine.new_ones(n, dtype=torch.bool), cosine.new_tensor(float(n))
        loss = weighted_mean(AnchorLosses(self.losses(cosine), every, total, {}), given.weights)
        return LossOutput(loss, {"cosine": cosine.detach().mean(), "target_spread": spread(given.targets)})


class SimSiam(DistillationObjective):
    """SimSiam: predict the network's own projection of another view, without gradient (2021).

    ``target_spread`` near 1 is healthy; a loss near -1 with a spread near 0 is collapse, not success.
    """

    momentum: ClassVar[float | None] = 0.0
    predictor: ClassVar[bool] = True

    def losses(self, cosine: Tensor) -> Tensor:
        """See ``simsiam_losses``."""
        return simsiam_losses(cosine)


class BYOL(DistillationObjective):
    """BYOL: predict a slowly moving teacher's projection of another view (2020).

    The published momentum, 0.996, is for long training; below 20,000 steps take about 0.99.
    """

    momentum: ClassVar[float | None] = 0.996
    predictor: ClassVar[bool] = True

    def losses(self, cosine: Tensor) -> Tensor:
        """See ``byol_losses``."""
        return byol_losses(cosine)
