"""Matryoshka: clusterings of several granularities from nested parts of the features (Franca)."""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.assignment import (
    assign_together,
    assignment_logs,
    new_prototypes,
    prediction_loss,
    refuse_shares,
    start_head,
    still,
)
from medssl.objectives.base import Family, Given, LossOutput, Objective, positive
from medssl.objectives.dino import koleo, warmed
from medssl.objectives.pairs import unit

__all__ = ["Matryoshka", "NestedHead"]

Nesting = Literal["slice", "project"]


class NestedHead(nn.Module):
    """Scores of one level: a part of the features, a network of three layers, and weight-normed prototypes (gain 1).

    Args:
        width: D of the features.
        share: of the features that the level reads, above 0, up to 1; at least one of them.
        nesting: ``"slice"``: the first ones, and scores are cosines; ``"project"``: as many learned combinations of
            all, a GELU after the last layer too, and scores that are not normalised.
        hidden: features of the layers between.
        bottleneck: features that are compared with the prototypes.
        prototypes: K of the level that reads all features; this one has its share of them, at least 2.
    """

    def __init__(
        self, width: int, share: float, *, nesting: Nesting, hidden: int, bottleneck: int, prototypes: int
    ) -> None:
        super().__init__()
        self.part, self.nesting = max(1, int(width * share)), nesting
        self.projection = nn.Linear(width, self.part) if nesting == "project" else nn.Identity()
        layers: list[nn.Module] = [
            nn.Linear(self.part, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        ]  # fmt: skip
        self.network = nn.Sequential(*layers, *([nn.GELU()] if nesting == "project" else []))
        start_head(self)
        self.prototypes = new_prototypes(max(2, int(prototypes * self.part / width)), bottleneck)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """(..., D) → (..., K_l); with ``frozen`` the prototypes get a gradient of 0."""
        part = self.projection(x) if self.nesting == "project" else x[..., : self.part]
        y = self.network(part)
        y = y if self.nesting == "project" else unit(y)
        return functional.linear(y, unit(still(self.prototypes, frozen)))


class Matryoshka(Objective):
    """Matryoshka: DINO with clusterings from coarse to fine, each of a nested part of the features (Franca, 2025).

    Sum over levels of ``prediction_loss`` of the teacher's Sinkhorn-Knopp assignments (Venkataramanan et al., *Franca:
    Nested Matryoshka clustering for scalable visual representation learning*, 2025). It has heads of its own on the
    encoder's features, one a level; the teacher's follow the student's. With ``slice``, as the paper describes it, the
    first features alone are made to serve coarse clusterings; ``project`` is what the released code does.

    Args:
        prototypes: K of the finest level; the others have their share. 131072 in the paper.
        levels: shares of the features, from coarse to fine.
        nesting: ``"slice"`` reads the first features, ``"project"`` as many learned combinations of all.
        hidden: features of a head's layers; 2048 in the paper.
        bottleneck: features that are compared with the prototypes; 384 in the paper.
        temperature: of the student.
        teacher_temperature: at the start, and after the warm-up; below the student's.
        warmup: share of the training in which it rises.
        iterations: of Sinkhorn-Knopp.
        koleo: weight of ``koleo`` on the student's features of the first views.
        frozen: share of the training at the start in which the student's prototypes do not move.
        globals: first views, which the teacher sees.
    """

    family: ClassVar[Family] = "clustering"
    needs: ClassVar[frozenset[str]] = frozenset({"targets"})
    takes: ClassVar[Literal["projections", "features", "maps"]] = "features"
    momentum: ClassVar[float | None] = 0.994

    def __init__(
        self,
        *,
        prototypes: int = 1024,
        levels: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5, 1.0),
        nesting: Nesting = "slice",
        hidden: int = 512,
        bottleneck: int = 256,
        temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warmup: float = 0.3,
        iterations: int = 3,
        koleo: float = 0.1,
        frozen: float = 0.01,
        globals: int = 2,
    ) -> None:
        super().__init__()
        start, end = teacher_temperature
        positive("Matryoshka", temperature=temperature, teacher_temperature=min(start, end), iterations=iterations)
        refuse_shares("Matryoshka", warmup=warmup, frozen=frozen)
        if nesting not in ("slice", "project"):
            raise ConfigError(f"Matryoshka nests by 'slice' or 'project', not '{nesting}'")
        if not levels or not all(0 < share <= 1 for share in levels):
            raise ConfigError(f"Matryoshka takes levels above 0 and up to 1, at least one, not {levels}")
        if min(prototypes, hidden, bottleneck) < 2 or globals < 1 or koleo < 0:
            raise ConfigError(
                "Matryoshka takes 2 or more prototypes, hidden features and bottleneck features, 1 or more globals and "
                f"a koleo weight of 0 or more, not {prototypes}, {hidden}, {bottleneck}, {globals} and {koleo}"
            )
        self.count, self.levels, self.nesting, self.hidden, self.bottleneck = (
            prototypes, tuple(levels), nesting, hidden, bottleneck
        )  # fmt: skip
        self.temperature, self.teacher_temperature, self.warmup = temperature, (start, end), warmup
        self.iterations, self.koleo, self.frozen, self.globals = iterations, koleo, frozen, globals

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        options = {"hidden": self.hidden, "bottleneck": self.bottleneck, "prototypes": self.count}
        self.heads = nn.ModuleList(NestedHead(width, s, nesting=self.nesting, **options) for s in self.levels)
        self.teacher_heads = copy.deepcopy(self.heads).requires_grad_(False)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """See ``Objective.follow``."""
        torch._foreach_lerp_(list(self.teacher_heads.parameters()), list(self.heads.parameters()), 1 - momentum)

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``prediction_loss``."""
        assert given.targets is not None
        epsilon = warmed(given.progress, self.teacher_temperature, self.warmup)
        seen = given.targets[: self.globals]
        total, logs = views.new_zeros(()), dict[str, Tensor]()
        for level, (student, teacher) in enumerate(zip(self.heads, self.teacher_heads, strict=True), 1):
            scores = student(views, given.progress < self.frozen)
            q = assign_together(teacher(seen), epsilon=epsilon, iterations=self.iterations)
            loss = prediction_loss(scores, q, temperature=self.temperature)
            total = total + loss
            logs |= {f"level_{level}_{k}": v for k, v in assignment_logs(loss.detach(), scores, q).items()}
        if self.koleo:
            spread = koleo(views[: self.globals]).sum()
            total, logs = total + self.koleo * spread, {**logs, "koleo": spread.detach()}
        return LossOutput(total, logs)
