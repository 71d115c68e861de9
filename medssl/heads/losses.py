"""Supervised losses as pure functions of logits and labels."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dice_and_cross_entropy"]

SMOOTH = 1e-5


def dice_and_cross_entropy(
    logits: Tensor, labels: Tensor, *, batch_dice: bool = True, voxel_balance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Soft Dice loss over the foreground classes, and cross-entropy over all.

    ``1 - (2 Σ p·y + ε) / (Σ p + Σ y + ε)`` with ε = 1e-5, averaged over the classes but the background (and over the
    samples, unless ``batch_dice``).

    Dice does not find a class by itself: where its probability is near 0 everywhere, so is the gradient. Then only the
    cross-entropy pulls, and in the mean over voxels a structure of few voxels pulls weakly; ``voxel_balance`` lets each
    voxel of class c count (voxels of c in the batch)^-``voxel_balance``.

    Args:
        logits: (B, K, *spatial), float32.
        labels: (B, *spatial), int64 in 0..K-1; class 0 is the background.
        batch_dice: take the sums over the whole batch instead of each sample.
        voxel_balance: 0: every voxel counts the same; 1: every class that is there.

    Returns:
        Two scalars.

    >>> labels = torch.tensor([[0, 1, 1]])
    >>> sure = 50.0 * torch.nn.functional.one_hot(labels).float().transpose(1, 2)
    >>> [round(abs(float(v)), 4) for v in dice_and_cross_entropy(sure, labels)]
    [0.0, 0.0]
    """
    log_p = logits.log_softmax(1)
    k = logits.shape[1]
    surprise = -log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
    cross_entropy = surprise.mean() if not voxel_balance else _balanced_mean(surprise, labels, k, voxel_balance)
    index = torch.arange(1, k, device=logits.device).view(1, k - 1, *(1,) * (logits.ndim - 2))
    truth = labels.unsqueeze(1) == index
    p = log_p[:, 1:].exp()
    axes = (0, *range(2, logits.ndim)) if batch_dice else tuple(range(2, logits.ndim))
    overlap = torch.where(truth, p, 0.0).sum(axes)
    size = p.sum(axes) + truth.sum(axes)
    dice = 1.0 - ((2.0 * overlap + SMOOTH) / (size + SMOOTH)).mean()
    return dice, cross_entropy


def _balanced_mean(values: Tensor, labels: Tensor, classes: int, exponent: float) -> Tensor:
    """Mean of values (B, *spatial) in which a voxel of class c weighs n_c^-exponent."""
    flat = labels.flatten()
    count = values.new_zeros(classes).index_add_(0, flat, torch.ones_like(flat, dtype=values.dtype))
    weight = count.clamp(min=1.0).pow(-exponent)
    total = values.new_zeros(classes).index_add(0, flat, values.flatten())
    return (weight * total).sum() / (weight * count).sum()
