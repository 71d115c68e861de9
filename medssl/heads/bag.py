"""Classification of a recording from a bag of its windows, weighed by learned attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.heads.schedules import Schedule
from medssl.heads.windows import WindowsHead
from medssl.optim import Optim
from medssl.views.base import Views

__all__ = ["BagHead"]


class BagHead(WindowsHead):
    """Gated attention over the windows of a recording, then dropout and a linear layer.

    Weights ``softmax_n wᵀ(tanh(V h_n) ⊙ σ(U h_n))`` over the windows of an item; their weighted mean of features is
    classified (Ilse, Tomczak and Welling, ICML 2018, equation 9). The order of the windows does not matter.

    The batch's ``y`` is as in ``ClassificationHead``: one class an item, or several.

    Args:
        encoder: of single windows.
        classes, multilabel, class_weights, dropout, label_smoothing: see ``ClassificationHead``.
        attention_width: rows of U and V.
        optim, encoder_lr, layer_decay, frozen_steps, augmentation, schedule: see ``Head``.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: tuple[str, ...] = ("negative", "positive"),
        *,
        multilabel: bool = False,
        class_weights: tuple[float, ...] | None = None,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        attention_width: int = 128,
        optim: Optim | None = None,
        encoder_lr: float = 1.0,
        layer_decay: float = 1.0,
        frozen_steps: int = 0,
        augmentation: Views | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(
            encoder, classes, multilabel=multilabel, class_weights=class_weights, dropout=dropout,
            label_smoothing=label_smoothing, optim=optim, encoder_lr=encoder_lr, layer_decay=layer_decay,
            frozen_steps=frozen_steps, augmentation=augmentation, schedule=schedule,
        )  # fmt: skip
        self.value = nn.Linear(encoder.out_dim, attention_width)
        self.gate = nn.Linear(encoder.out_dim, attention_width)
        self.score = nn.Linear(attention_width, 1, bias=False)

    def attention(self, features: Tensor, known: Tensor) -> Tensor:
        """Weights (B, N), 0 where a window is not there and summing to 1, of features (B, N, D); float32."""
        hidden = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        scores: Tensor = self.score(hidden).squeeze(2).float()
        return scores.masked_fill(~known, -torch.inf).softmax(1)

    def decide(self, features: Tensor, known: Tensor) -> Tensor:
        """(B, N, D), (B, N) → logits (B, K)."""
        pooled = torch.einsum("bn,bnd->bd", self.attention(features, known), features.float())
        logits: Tensor = self.output(self.dropout(pooled))
        return logits
