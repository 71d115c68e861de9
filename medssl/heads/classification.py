"""Classification of whole recordings, crops or windows."""

from __future__ import annotations

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

__all__ = ["ClassificationHead", "centre_pool"]


def centre_pool(x: Tensor, fraction: float) -> Tensor:
    """Mean of a feature map over the middle ``fraction`` of every axis: (B, C, *spatial) → (B, C), float32.

    >>> centre_pool(torch.arange(6.0).view(1, 1, 6), 1 / 3)
    tensor([[2.5000]])
    """
    for axis in range(2, x.ndim):
        length = x.shape[axis]
        keep = max(1, round(length * fraction))
        if (length - keep) % 2:  # only an equal rest on both sides is centred
            keep += 1
        x = x.narrow(axis, (length - keep) // 2, keep)
    return x.flatten(2).float().mean(-1)


class ClassificationHead(Head):
    """Dropout and a linear layer over the pooled features.

    The batch's ``y`` is (B,) int64, or (B, K) float for several labels at once, where NaN marks an unknown label.

    Args:
        encoder: any encoder.
        classes: names in order of their index.
        multilabel: classes do not exclude each other (binary cross-entropy a class).
        class_weights: a factor a class: of its samples' cross-entropy, or of its positives with ``multilabel``.
        dropout: of the features.
        label_smoothing: share of the target spread over all classes, 0 to 1; not with ``multilabel``.
        centre: for windows centred on an event: features of the middle of the window join the pooled ones, so a beat is
            told apart from the rhythm around it.
        centre_fraction: how much of the window (along every axis) the middle is.
        standardise: the linear layer sees features on one scale, see ``Standardise``.
        optim, encoder_lr, layer_decay, frozen_steps, augmentation, schedule: see ``Head``.

    Raises:
        ConfigError: fewer than two classes (one with ``multilabel``), weights of another number, or a share out of
            range.
    """

    weights: Tensor

    def __init__(
        self,
        encoder: Encoder,
        classes: tuple[str, ...] = ("negative", "positive"),
        *,
        multilabel: bool = False,
        class_weights: tuple[float, ...] | None = None,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        centre: bool = False,
        centre_fraction: float = 0.1,
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
        if len(classes) < (1 if multilabel else 2):
            raise ConfigError(f"classification needs at least two classes, got {list(classes)}")
        if class_weights is not None and len(class_weights) != len(classes):
            raise ConfigError(f"{len(class_weights)} class_weights were given for {len(classes)} classes")
        if not (0 <= label_smoothing < 1 and 0 <= dropout < 1 and 0 < centre_fraction <= 1):
            raise ConfigError(
                f"dropout ({dropout}) and label_smoothing ({label_smoothing}) must be in [0, 1) and centre_fraction "
                f"({centre_fraction}) in (0, 1]"
            )
        self.classes, self.multilabel = tuple(classes), multilabel
        self.label_smoothing, self.centre, self.centre_fraction = label_smoothing, centre, centre_fraction
        weights = torch.ones(len(classes)) if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("weights", weights, persistent=False)  # they are arguments already
        width = encoder.out_dim + (encoder.channels[-1] if centre else 0)
        self.standardise = Standardise(width) if standardise else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, len(classes))

    def features(self, features: Features) -> Tensor:
        """What is classified: (B, D), with the centre's features appended if asked for."""
        if not self.centre:
            return features.pooled
        return torch.cat([features.pooled, centre_pool(features.maps[-1], self.centre_fraction)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *size) → logits (B, K)."""
        found = self.features(self.encode(x))
        if self.standardise is not None:
            found = self.standardise(found)
        logits: Tensor = self.output(self.dropout(found))
        return logits

    def criterion(self, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropy, or binary cross-entropy over the known labels.

        Args:
            x: (B, C, *size).
            target: (B,) class indices, or (B, K) in {0, 1, NaN}.
        """
        return self.logits_loss(self(x), target), {}

    def logits_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The scalar loss of logits (B, K), in float32; ``target`` as in ``criterion``."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            if not self.multilabel:
                return F.cross_entropy(logits, target, weight=self.weights, label_smoothing=self.label_smoothing)
            known = ~torch.isnan(target)
            each = F.binary_cross_entropy_with_logits(
                logits, target.float().nan_to_num(0.0), pos_weight=self.weights, reduction="none"
            )
            return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, K): summing to 1, or independent with ``multilabel``; float32."""
        return logits.float().sigmoid() if self.multilabel else logits.float().softmax(1)
