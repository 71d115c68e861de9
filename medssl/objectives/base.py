"""The contract of every self-supervised objective."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from medssl.configurable import Configurable
from medssl.errors import ConfigError

__all__ = ["Family", "Given", "LossOutput", "Mixture", "Objective", "Weights", "full_precision", "positive", "promoted"]

Family = Literal["contrastive", "distillation", "redundancy", "clustering", "dense"]
"""Which method trains with an objective: Contrastive, SelfDistillation, RedundancyReduction, Clustering, Dense."""


class LossOutput(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: scalar to minimise.
        logs: named diagnostics, detached scalars.
    """

    loss: Tensor
    logs: Mapping[str, Tensor]


Weights = Tensor | Callable[[Tensor], Tensor]
"""Multipliers of the samples' losses, (N,) or (A, N); or what makes (N,) of them from the (N,) detached losses, which
are NaN for samples that were left out."""


class Mixture(NamedTuple):
    """Embeddings of mixed inputs ``share · x₁ + (1 - share) · x₂[order]``, x₁ and x₂ the first two views.

    Attributes:
        embeddings: (N, D).
        order: (N,) which sample of the second view was mixed into each.
        share: (N,) share of the first view, in [0, 1].
    """

    embeddings: Tensor
    order: Tensor
    share: Tensor


@dataclass(frozen=True)
class Given:
    """What an objective may know of a batch beside the embeddings; ``Objective.needs`` names what it cannot do without.

    Attributes:
        targets: (G, N, D), or (G, N, D, *grid) for maps: what a teacher says of the first G views (of all of them
            unless the objective says otherwise), without gradient.
        index: (N,) int64 stable dataset rows, for objectives that remember samples.
        group: (N,) integers; samples of one group (a patient) are never each other's negatives.
        weights: see ``Weights``.
        labels: (N,); integers: samples of one label belong together; floating point: a continuous value (age).
        mixture: embeddings of mixed inputs.
        mask: (K, N, *grid) booleans: cells whose input was hidden from the student.
        generator: of all random draws, on the device of the embeddings.
        progress: share of the training that is done, 0 to 1; for schedules.
    """

    targets: Tensor | None = None
    index: Tensor | None = None
    group: Tensor | None = None
    weights: Weights | None = None
    labels: Tensor | None = None
    mixture: Mixture | None = None
    mask: Tensor | None = None
    generator: torch.Generator | None = None
    progress: float = 1.0


class Objective(nn.Module, Configurable, ABC):
    """A loss on embeddings of several views, for any encoder and any kind of recording.

    The arithmetic stands in pure functions; a subclass only keeps settings and, where the objective has any, weights
    and memory in parameters and buffers, so that they are trained and checkpointed. Memory changes in training only.

    Attributes:
        family: which method class trains with it.
        pairwise: it has one loss a sample, so ``weights`` apply.
        needs: fields of ``Given`` that it cannot do without.
        takes: what ``views`` are: outputs of the projection head, pooled features of the encoder (the objective then
            has heads of its own), or feature maps.
        momentum: of the moving average that makes the teacher, as published; 0: the student's own outputs without
            gradient; None: no teacher is asked for.
        predictor: a trained network predicts the teacher's outputs from the student's.
        continuous: its labels are values of a numeric column (age), not classes.
        min_views: fewest views K it is defined for.
        min_samples: fewest samples N it is defined for.
    """

    family: ClassVar[Family]
    pairwise: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[Literal["projections", "features", "maps"]] = "projections"
    momentum: ClassVar[float | None] = None
    predictor: ClassVar[bool] = False
    continuous: ClassVar[bool] = False
    min_views: ClassVar[int] = 2
    min_samples: ClassVar[int] = 1

    def fit_width(self, width: int) -> None:
        """Make the weights and memory that depend on D; the method calls it once, before training.

        Args:
            width: D of what ``takes`` names.
        """

    def remember(self, samples: int) -> None:
        """Make the memory of single recordings; called once, before training, when it is known what will be read.

        Args:
            samples: rows that ``Given.index`` counts.
        """

    def follow(self, momentum: float) -> None:
        """Move what the objective keeps of a teacher (prototypes, say) towards the student's, before a step.

        Args:
            momentum: of the moving average, 0 to 1.
        """

    def forward(
        self,
        views: Tensor,
        *,
        targets: Tensor | None = None,
        index: Tensor | None = None,
        group: Tensor | None = None,
        weights: Weights | None = None,
        labels: Tensor | None = None,
        mixture: Mixture | None = None,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> LossOutput:
        """The loss of a batch, in float32 whatever the autocast.

        Args:
            views: (K, N, D) embeddings of K views of the same N samples, in one order, not normalised; or their maps
                (K, N, D, *grid).
            targets, index, group, weights, labels, mixture, mask, generator, progress: see ``Given``.

        Raises:
            ValueError: too few views or samples, or something that the objective needs was not given.
        """
        given = Given(
            None if targets is None else promoted(targets.detach()), index, group, weights, labels,
            mixture, mask, generator, progress,
        )  # fmt: skip
        self._refuse(views, given)
        with full_precision(views.device):
            return self.compute(promoted(views), given)

    @abstractmethod
    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """The loss of checked arguments; called outside autocast, with at least float32."""

    def _refuse(self, views: Tensor, given: Given) -> None:
        name = type(self).__name__
        if views.ndim < 3 or views.shape[0] < self.min_views:
            raise ValueError(f"{name} needs at least {self.min_views} views, as (K, N, D); got {tuple(views.shape)}")
        if views.shape[1] < self.min_samples:
            raise ValueError(f"{name} needs at least {self.min_samples} samples, got {views.shape[1]}")
        missing = sorted(need for need in self.needs if getattr(given, need) is None)
        if missing:
            raise ValueError(f"{name} needs {' and '.join(missing)}")

    @classmethod
    def requirements(cls) -> str:
        """What it asks for, in words for `medssl list objectives`."""
        words = {
            "targets": "a teacher" if cls.momentum else "targets without gradient",
            "index": "memory of every recording",
            "labels": "a numeric label: COLUMN"
            if cls.continuous
            else "labels (same_patient: positive, or label: COLUMN)",
            "mixture": "mixed inputs",
            "mask": "hidden parts",
        }
        asked = [f"at least {cls.min_views} views"] if cls.min_views != 2 else []
        asked += [f"at least {cls.min_samples} recordings a batch"] if cls.min_samples > 1 else []
        asked += [words.get(need, need) for need in sorted(cls.needs)]
        asked += ["a predictor"] if cls.predictor else []
        return ", ".join(asked) or "nothing but views"


def positive(name: str, **values: float) -> None:
    """Refuse settings that are not above 0.

    >>> positive("InfoNCE", temperature=0.2)

    Raises:
        ConfigError: names the first that is not.
    """
    for key, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} needs a {key.replace('_', ' ')} above 0, not {value}")


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context without autocast: losses are computed in float32 whatever the encoder ran in."""
    return torch.autocast(device_type=device.type, enabled=False)


def promoted(x: Tensor) -> Tensor:
    """At least float32: half precision is raised, float64 (tests) is kept."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
