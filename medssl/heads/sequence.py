"""Classification of every window of a sequence (sleep stages of consecutive epochs) in the light of its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.heads.context import make_context
from medssl.heads.schedules import Schedule
from medssl.heads.windows import WindowsHead, padded
from medssl.optim import Optim
from medssl.views.base import Views

__all__ = ["OUTSIDE", "SequenceHead"]

OUTSIDE = -100
"""Class index of a place without a window; what torch's cross-entropy leaves out."""


class SequenceHead(WindowsHead):
    """Each window's features, a context over the sequence, and a linear layer at every place.

    A window's features go through Linear, batch norm, ELU and Linear to ``width``, the context mixes the places of each
    sequence, dropout and a linear layer answer at each (NeuroNet's temporal context module, 2024). Sequences that are
    shorter than the others of a batch are mixed by themselves, so nothing is ever seen of padding.

    The batch's ``y`` is (B, S) int64, ``OUTSIDE`` (-100) where ``known`` is false.

    Args:
        encoder: of single windows.
        classes, class_weights, dropout, label_smoothing: see ``ClassificationHead``.
        context: how the places see each other, see ``make_context``.
        bidirectional: a context that runs along time also runs against it.
        width: of the context.
        optim, encoder_lr, layer_decay, frozen_steps, augmentation, schedule: see ``Head``.

    Raises:
        ConfigError: an unknown context, or a width that does not suit it.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: tuple[str, ...] = ("negative", "positive"),
        *,
        class_weights: tuple[float, ...] | None = None,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        context: str = "lstm",
        bidirectional: bool = False,
        width: int = 256,
        optim: Optim | None = None,
        encoder_lr: float = 1.0,
        layer_decay: float = 1.0,
        frozen_steps: int = 0,
        augmentation: Views | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(
            encoder, classes, class_weights=class_weights, dropout=dropout, label_smoothing=label_smoothing,
            optim=optim, encoder_lr=encoder_lr, layer_decay=layer_decay, frozen_steps=frozen_steps,
            augmentation=augmentation, schedule=schedule,
        )  # fmt: skip
        if width < 1:
            raise ConfigError(f"the width of a context must be at least 1, not {width}")
        self.into = nn.Linear(encoder.out_dim, width)
        self.norm = _Norm(width)
        self.onward = nn.Linear(width, width)
        self.context = make_context(context, width, bidirectional=bidirectional)
        self.output = nn.Linear(width, len(classes))

    def decide(self, features: Tensor, known: Tensor) -> Tensor:
        """(B, S, D), (B, S) → logits (B, S, K) in float32; those of places that are not known are 0."""
        rows = self.onward(nn.functional.elu(self.norm(self.into(features[known]))))
        lengths = known.sum(1)
        spread = padded(rows, known)
        logits = torch.zeros(*known.shape, len(self.classes), device=features.device)
        for length in torch.unique(lengths).tolist():  # one or two of them: whole sequences and short recordings
            own = torch.nonzero(lengths == length)[:, 0]
            mixed = self.context(spread[own, :length])
            answers = self.output(self.dropout(mixed)).float()
            logits = logits.index_put((own.unsqueeze(1), torch.arange(length, device=own.device)), answers)
        return logits

    def logits_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy over all known places of logits (B, S, K), ``target`` (B, S)."""
        return super().logits_loss(logits.flatten(0, 1), target.flatten())

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., K) summing to 1, float32."""
        return logits.float().softmax(-1)


class _Norm(nn.BatchNorm1d):
    """Batch norm that takes its running statistics where a training batch is a single window."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) > 1:
            return super().forward(input)
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
