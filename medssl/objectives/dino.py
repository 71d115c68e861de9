"""DINO: a teacher's soft assignment to prototypes, predicted by a student; and KoLeo, which spreads embeddings out."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.assignment import (
    assign_together,
    assignment_logs,
    centred,
    cosine_scores,
    new_prototypes,
    prediction_loss,
    refuse_shares,
    still,
    updated_centre,
)
from medssl.objectives.base import Family, Given, LossOutput, Objective, positive
from medssl.objectives.gather import gather_views
from medssl.objectives.pairs import unit

__all__ = ["DINO", "koleo", "warmed"]

KOLEO_EPS = 1e-8


def koleo(embeddings: Tensor) -> Tensor:
    r"""Kozachenko-Leonenko estimate of how far from uniform embeddings are: mean -log distance to the nearest other.

    .. math:: L_v = -\frac{1}{N} \sum_i \log(\|x_i - x_{nn(i)}\| + 10^{-8})

    over unit vectors, the nearest among the samples of all processes (Sablayrolles et al., *Spreading vectors for
    similarity search*, ICLR 2019, as in DINOv2). Finite for duplicates; 0 for one sample alone.

    Args:
        embeddings: x (V, N, D), normalised here; every view for itself.

    Returns:
        (V,).
    """
    anchors = unit(embeddings)
    keys, offset, _ = gather_views(anchors)
    n, m = anchors.shape[1], keys.shape[1]
    if m < 2:
        return (0 * anchors).sum((1, 2))
    with torch.no_grad():
        similarity = anchors @ keys.transpose(1, 2)
        similarity.diagonal(offset, 1, 2).fill_(-torch.inf)
        nearest = similarity.argmax(-1)
    neighbours = keys.gather(1, nearest.unsqueeze(-1).expand(-1, n, keys.shape[-1]))
    distances = functional.pairwise_distance(anchors, neighbours, eps=KOLEO_EPS)
    losses: Tensor = -(distances + KOLEO_EPS).log().mean(1)
    return losses


def warmed(progress: float, ends: tuple[float, float], share: float) -> float:
    """A setting that goes in a line from ``ends[0]`` to ``ends[1]`` during the first ``share`` of the training.

    >>> [round(warmed(p, (0.04, 0.07), 0.3), 3) for p in (0, 0.15, 0.3, 1)]
    [0.04, 0.055, 0.07, 0.07]
    """
    done = min(1.0, progress / share) if share else 1.0
    return ends[0] + (ends[1] - ends[0]) * done


class DINO(Objective):
    """DINO: a slow teacher's prototype assignment of a view, predicted by the student from the others (2021).

    ``prediction_loss`` of the teacher's assignments of the first views: its cosines with its own prototypes, centred by
    a moving mean (Caron et al., *Emerging properties in self-supervised vision transformers*, ICCV 2021) or assigned
    by Sinkhorn-Knopp (DINOv2), two alternatives against collapse. Prototypes: the weight-normed last layer, gain 1;
    the teacher's follow the student's.

    Args:
        prototypes: K; about ten times the clusters that are expected. 65536 for ImageNet.
        temperature: of the student.
        teacher_temperature: at the start, and after the warm-up; below the student's.
        warmup: share of the training in which it rises.
        assignment: ``"centre"``, or ``"sinkhorn"``, which holds at small batches as well.
        centre_momentum: of the centre, a step.
        iterations: of Sinkhorn-Knopp.
        koleo: weight of ``koleo`` on the student's embeddings of the first views; 0.1 in DINOv2.
        frozen: share of the training at the start in which the student's prototypes do not move.
        globals: first views, which the teacher sees.
    """

    family: ClassVar[Family] = "clustering"
    needs: ClassVar[frozenset[str]] = frozenset({"targets"})
    momentum: ClassVar[float | None] = 0.996

    centre: Tensor
    teacher_prototypes: Tensor

    def __init__(
        self,
        *,
        prototypes: int = 1024,
        temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warmup: float = 0.3,
        assignment: Literal["centre", "sinkhorn"] = "centre",
        centre_momentum: float = 0.9,
        iterations: int = 3,
        koleo: float = 0.0,
        frozen: float = 0.01,
        globals: int = 2,
    ) -> None:
        super().__init__()
        start, end = teacher_temperature
        positive("DINO", temperature=temperature, teacher_temperature=min(start, end), iterations=iterations)
        refuse_shares("DINO", warmup=warmup, centre_momentum=centre_momentum, frozen=frozen)
        if assignment not in ("centre", "sinkhorn"):
            raise ConfigError(f"DINO assigns by 'centre' or 'sinkhorn', not '{assignment}'")
        if prototypes < 2 or globals < 1 or koleo < 0:
            raise ConfigError(
                "DINO takes 2 or more prototypes, 1 or more globals and a koleo weight of 0 or more, "
                f"not {prototypes}, {globals} and {koleo}"
            )
        self.count, self.globals, self.koleo = prototypes, globals, koleo
        self.temperature, self.teacher_temperature, self.warmup = temperature, (start, end), warmup
        self.assignment, self.centre_momentum, self.iterations = assignment, centre_momentum, iterations
        self.frozen = frozen

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        self.prototypes: nn.Parameter = new_prototypes(self.count, width)
        self.register_buffer("teacher_prototypes", self.prototypes.detach().clone())
        self.register_buffer("centre", torch.zeros(self.count))

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """See ``Objective.follow``."""
        self.teacher_prototypes.lerp_(self.prototypes, 1 - momentum)

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``prediction_loss``."""
        assert given.targets is not None
        scores = cosine_scores(views, still(self.prototypes, given.progress < self.frozen))
        teacher = cosine_scores(given.targets[: self.globals], self.teacher_prototypes)
        temperature = warmed(given.progress, self.teacher_temperature, self.warmup)
        if self.assignment == "sinkhorn":
            q = assign_together(teacher, epsilon=temperature, iterations=self.iterations)
        else:
            q = centred(teacher, self.centre, temperature=temperature)
            if self.training:
                self.centre.copy_(updated_centre(self.centre, teacher, momentum=self.centre_momentum))
        loss = prediction_loss(scores, q, temperature=self.temperature)
        logs = assignment_logs(loss.detach(), scores, q)
        if self.koleo:
            spread = koleo(views[: self.globals]).sum()
            loss, logs = loss + self.koleo * spread, {**logs, "koleo": spread.detach()}
        return LossOutput(loss, logs)
