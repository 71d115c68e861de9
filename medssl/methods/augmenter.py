"""AutoTCL's augmenter: a network that says which steps of a series to keep, and how to scale what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from medssl.encoders.trend import TrendTS2Vec
from medssl.errors import ConfigError
from medssl.objectives.autotcl import relaxed_gate, straight_through

__all__ = ["Augmented", "Augmenter", "AugmenterSettings", "Gate"]


@dataclass(frozen=True)
class Gate:
    """How a number of every step becomes a near-binary gate; see ``relaxed_gate``.

    Attributes:
        input: the network's ``logit``, or its probability (``prob``), which the published code puts where a logit
            belongs: without noise such a gate stays within 0.50 and 0.73.
        bias: b; 0.001 to 0.4 in the paper.
        stretch: γ; 0.0006 to 0.5 in the paper. Near 0.5 most gates are shut.
        temperature: τ.
        hard: 0 or 1, with the gradient of the soft gate.
    """

    input: Literal["logit", "prob"] = "logit"
    bias: float = 0.05
    stretch: float = 0.02
    temperature: float = 1.0
    hard: bool = False

    def __post_init__(self) -> None:
        if self.input not in ("logit", "prob"):
            raise ConfigError(f"a gate takes the input logit or prob, not '{self.input}'")
        if not 0 < self.bias < 0.5 or self.stretch < 0 or not self.temperature > 0:
            raise ConfigError(
                "a gate takes a bias between 0 and 0.5, a stretch of at least 0 and a temperature above 0, not "
                f"{self.bias}, {self.stretch} and {self.temperature}"
            )

    def __call__(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """(N, C, T) logits and uniform noise (None: none) → gates in [0, 1]."""
        given = logits if self.input == "logit" else torch.sigmoid(logits)
        gate = relaxed_gate(given, noise, bias=self.bias, stretch=self.stretch, temperature=self.temperature)
        return straight_through(gate) if self.hard else gate


@dataclass(frozen=True)
class AugmenterSettings:
    """The network that augments, and how it is trained.

    Attributes:
        width: channels of its hidden blocks (64 in the paper).
        depth: hidden blocks (1 to 5).
        out_dim: channels of its output (8 to 256).
        kernels: of its trend layer (8).
        lr: peak learning rate (0.01).
        every: optimiser steps from one of its steps to the next. Above 1 and with several GPUs,
            ``--trainer.strategy ddp_find_unused_parameters_true`` is needed.
    """

    width: int = 64
    depth: int = 3
    out_dim: int = 32
    kernels: int = 8
    lr: float = 0.01
    every: int = 1

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.out_dim, self.kernels, self.every) < 1 or self.lr <= 0:
            raise ConfigError(f"the augmenter takes numbers of at least 1 and a learning rate above 0, not {self}")


class Augmented(NamedTuple):
    """What the augmenter makes of series.

    Attributes:
        view: (N, C, T) the series, scaled and gated.
        probability: (N, C, T) of keeping each step, in [0, 1].
        gate: (N, C, T) without noise, without gradient.
    """

    view: Tensor
    probability: Tensor
    gate: Tensor


class Augmenter(nn.Module):
    """``v = g ⊙ m ⊙ x``: a gate m keeps what informs, a factor g in (0, 1) changes it.

    Both come step by step from TS2Vec's convolutions with a trend layer and a linear layer each. Gaps (NaN) stay gaps.

    Args:
        channels: C.
        settings: of the network.
        gate: how m is made.
    """

    def __init__(self, channels: int, settings: AugmenterSettings, gate: Gate) -> None:
        super().__init__()
        self.network = TrendTS2Vec(
            channels, settings.width, out_dim=settings.out_dim, depth=settings.depth, kernels=settings.kernels
        )
        self.factor = nn.Conv1d(settings.out_dim, channels, 1)
        self.transform = nn.Conv1d(settings.out_dim, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor, noise: Tensor | None) -> Augmented:
        """(N, C, T), and uniform noise of that shape for the gate (None: none)."""
        steps = self.network(x).maps[0]
        logits = self.factor(steps).float()
        factor = torch.sigmoid(self.transform(steps).float()) * self.gate(logits, noise)
        missing = torch.isnan(x)  # selected, since 0 · NaN would be NaN in the gradient
        view = (factor * x.masked_fill(missing, 0.0)).masked_fill(missing, torch.nan)
        return Augmented(view, torch.sigmoid(logits), self.gate(logits.detach(), None))
