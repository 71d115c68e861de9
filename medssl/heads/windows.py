"""Classification from several windows of a signal that are encoded one by one and decided together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from medssl.heads.classification import ClassificationHead
from medssl.views.base import Batch, to_input

__all__ = ["WindowsHead", "padded"]


def padded(rows: Tensor, known: Tensor) -> Tensor:
    """Rows (n, D) at the n true places of ``known`` (B, N), zeros elsewhere: (B, N, D).

    >>> padded(torch.tensor([[1.0], [2.0]]), torch.tensor([[True, False], [True, False]])).squeeze(2)
    tensor([[1., 0.],
            [2., 0.]])
    """
    return rows.new_zeros(*known.shape, rows.shape[1]).masked_scatter(known.unsqueeze(2), rows)


class WindowsHead(ClassificationHead):
    """The part that heads over bags and over sequences of windows share.

    A batch holds ``x`` (B, N, C, *size) stored integers (or ``features`` (B, N, D) of a frozen encoder, computed
    before) and ``known`` (B, N), false where an item has fewer than N windows; those come last. Windows that are not
    there are neither encoded nor normalised over.

    Args: see ``ClassificationHead``; ``centre`` does not apply.
    """

    @abstractmethod
    def decide(self, features: Tensor, known: Tensor) -> Tensor:
        """Logits of the encoder's features (B, N, D) of N windows, of which ``known`` (B, N) are there."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a collated batch; augments every window by itself while training."""
        known = batch["known"]
        features = padded(self._encoded(batch, known), known) if "x" in batch else batch["features"]
        return self.logits_loss(self.decide(features, known), batch["y"]), {}

    def _encoded(self, batch: Batch, known: Tensor) -> Tensor:
        x = to_input(batch["x"], batch)[known]
        if self.training and self.augmentation is not None:
            x = self.augmentation.augment(x, self.generator)
        return self.per_window(x)

    def per_window(self, x: Tensor) -> Tensor:
        """The encoder's pooled features: (n, C, *size) → (n, D)."""
        return self.encode(x).pooled

    def per_item(self, windows: Tensor, counts: Sequence[int]) -> Tensor:
        """Logits of items from the features (n, D) of their windows; see ``Head``."""
        number = torch.tensor(list(counts), device=self.device)
        known = torch.arange(int(number.max()), device=self.device) < number.unsqueeze(1)
        return self.decide(padded(windows.to(self.device), known), known).float().to(windows.device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C, *size), N windows each → logits."""
        known = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return self.decide(self.per_window(x.flatten(0, 1)).unflatten(0, x.shape[:2]), known)
