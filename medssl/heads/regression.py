"""Regression of one number a recording, crop or window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.encoders.base import Encoder, Features
from medssl.errors import ConfigError
from medssl.heads.base import Head
from medssl.heads.schedules import Schedule
from medssl.heads.standardise import Standardise
from medssl.optim import Optim
from medssl.views.base import Views

__all__ = ["RegressionHead"]


class RegressionHead(Head):
    """Dropout and a linear layer over the pooled features, in the target's own unit.

    The loss is taken on standardised values, so its size does not depend on the unit; ``forward`` and ``probabilities``
    give values in the unit of the target.

    Args:
        encoder: any encoder.
        mean: of the target over the training patients.
        std: of the target over the training patients; above 0.
        loss: ``"huber"`` (transition at one standard deviation), ``"mse"`` or ``"mae"``.
        dropout: of the features.
        standardise: the linear layer sees features on one scale, see ``Standardise``.
        optim, encoder_lr, layer_decay, frozen_steps, augmentation, schedule: see ``Head``.

    Raises:
        ConfigError: a standard deviation that is not above 0, or an unknown loss.
    """

    def __init__(
        self,
        encoder: Encoder,
        mean: float = 0.0,
        *,
        std: float = 1.0,
        loss: Literal["huber", "mse", "mae"] = "huber",
        dropout: float = 0.2,
        standardise: bool = False,
        optim: Optim | None = None,
        encoder_lr: float = 1.0,
        layer_decay: float = 1.0,
        frozen_steps: int = 0,
        augmentation: Views | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(
            encoder,
            optim=optim,
            encoder_lr=encoder_lr,
            layer_decay=layer_decay,
            frozen_steps=frozen_steps,
            augmentation=augmentation,
            schedule=schedule,
        )
        if not std > 0:
            raise ConfigError(f"regression needs a target that varies; its standard deviation is {std}")
        if loss not in _LOSSES:
            raise ConfigError(f"unknown regression loss '{loss}'; known: {', '.join(sorted(_LOSSES))}")
        self.mean, self.std, self.kind = mean, std, loss
        self.standardise = Standardise(encoder.out_dim) if standardise else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(encoder.out_dim, 1)

    def features(self, features: Features) -> Tensor:
        """What the value is read from: (B, D)."""
        return features.pooled

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) → (B,) in the target's unit, float32."""
        found = self.features(self.encode(x))
        if self.standardise is not None:
            found = self.standardise(found)
        standardised: Tensor = self.output(self.dropout(found))
        return standardised[:, 0].float() * self.std + self.mean

    def criterion(self, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on standardised values.

        Args:
            x: (B, C, *size).
            target: (B,) in the target's unit.
        """
        error = (self(x) - target.float()) / self.std
        loss = _LOSSES[self.kind](error, torch.zeros_like(error))
        return loss, {"mae": error.detach().abs().mean() * self.std}

    def probabilities(self, logits: Tensor) -> Tensor:
        """The predicted values as they are."""
        return logits


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"huber": F.huber_loss, "mse": F.mse_loss, "mae": F.l1_loss}
