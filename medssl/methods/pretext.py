"""Pretext tasks: tell which transformation was applied, beside any objective."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from medssl.configurable import Configurable
from medssl.encoders.base import Encoder

__all__ = ["Pretext"]


class Pretext(nn.Module, Configurable, ABC):
    """A task whose cross-entropy is added to an objective: ``L + weight · CE``.

    Attributes:
        weight: of the task.
    """

    weight: float

    @abstractmethod
    def fit_width(self, width: int) -> None:
        """Make the head for pooled features of that width."""

    @abstractmethod
    def check(self, kind: str) -> None:
        """Refuse a kind of recording that the transformations do not serve (``ConfigError``)."""

    @abstractmethod
    def forward(self, rows: Tensor, encoder: Encoder, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of telling the transformations of rows (N, C, *size), and named diagnostics."""
