"""Supervised losses as pure functions of logits and labels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dice_and_cross_entropy"]

SMOOTH = 1e-5


def dice_and_cross_entropy(logits: Tensor, labels: Tensor, *, batch_dice: bool = True) -> tuple[Tensor, Tensor]:
    """Soft Dice loss over the foreground classes, and cross-entropy over all.

    ``1 - (2 Σ p·y + ε) / (Σ p + Σ y + ε)`` with ε = 1e-5, averaged over the classes but the background (and over the
    samples, unless ``batch_dice``).

    Args:
        logits: (B, K, *spatial), float32.
        labels: (B, *spatial), int64 in 0..K-1; class 0 is the background.
        batch_dice: take the sums over the whole batch instead of each sample.

    Returns:
        Two scalars.

    >>> labels = torch.tensor([[0, 1, 1]])
    >>> sure = 50.0 * torch.nn.functional.one_hot(labels).float().transpose(1, 2)
    >>> [round(abs(float(v)), 4) for v in dice_and_cross_entropy(sure, labels)]
    [0.0, 0.0]
    """
    log_p = logits.log_softmax(1)
    cross_entropy = -log_p.gather(1, labels.unsqueeze(1)).mean()
    k = logits.shape[1]
    index = torch.arange(1, k, device=logits.device).view(1, k - 1, *(1,) * (logits.ndim - 2))
    truth = labels.unsqueeze(1) == index
    p = log_p[:, 1:].exp()
    axes = (0, *range(2, logits.ndim)) if batch_dice else tuple(range(2, logits.ndim))
    overlap = torch.where(truth, p, 0.0).sum(axes)
    size = p.sum(axes) + truth.sum(axes)
    dice = 1.0 - ((2.0 * overlap + SMOOTH) / (size + SMOOTH)).mean()
    return dice, cross_entropy
