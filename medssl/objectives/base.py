"""The contract of every self-supervised objective."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from medssl.configurable import Configurable

__all__ = ["LossOutput", "Objective", "Weights", "full_precision", "promoted"]


class LossOutput(NamedTuple):
    """What an objective returns.

    Attributes:
        loss: scalar to minimise.
        logs: named diagnostics, detached scalars.
    """

    loss: Tensor
    logs: Mapping[str, Tensor]


Weights = Tensor | Callable[[Tensor], Tensor]
"""Multipliers of the samples' losses, (N,) or (K, N); or what makes (N,) of them from the (N,) detached losses, which
are NaN for samples that were left out."""


class Objective(nn.Module, Configurable, ABC):
    """A loss on embeddings of several views, for any encoder and any kind of recording.

    The arithmetic stands in pure functions; a subclass only keeps settings (and, where the method has any, state in
    buffers, so that it is checkpointed).

    Attributes:
        pairwise: it has one loss a sample, so ``weights`` apply.
        needs: optional inputs that it cannot do without, of ``"index"``, ``"labels"``.
        min_views: fewest views K it is defined for.
        min_samples: fewest samples N it is defined for.
    """

    pairwise: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    min_views: ClassVar[int] = 2
    min_samples: ClassVar[int] = 1

    @abstractmethod
    def forward(
        self,
        views: Tensor,
        *,
        index: Tensor | None = None,
        group: Tensor | None = None,
        weights: Weights | None = None,
        labels: Tensor | None = None,
    ) -> LossOutput:
        """The loss of a batch.

        Args:
            views: (K, N, D) embeddings of K views of the same N samples, in one order; need not be normalised.
            index: (N,) stable dataset rows, for objectives that remember samples.
            group: (N,) integers; samples of one group (a patient) are never each other's negatives.
            weights: see ``Weights``.
            labels: (N,) integers; samples of one label are each other's positives.
        """


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context without autocast: losses are computed in float32 whatever the encoder ran in."""
    return torch.autocast(device_type=device.type, enabled=False)


def promoted(x: Tensor) -> Tensor:
    """At least float32: half precision is raised, float64 (tests) is kept."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
