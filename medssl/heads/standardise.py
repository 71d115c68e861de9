"""Pooled features on one scale before the last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Standardise"]


class Standardise(nn.Module):
    """Features less their mean, over their standard deviation, both fixed before training.

    (..., D) → (..., D), float32.

    Features of recordings often differ little beside what they have in common; a last layer that sees them as they are
    learns slowly, and in half precision loses the difference. As it is made, nothing changes.

    Args:
        width: D.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Take mean and scale from features (n, D); dimensions that do not vary become 0."""
        x = features.detach().double().to(self.mean.device)
        std, mean = torch.std_mean(x, dim=0, correction=0)
        varies = std > 1e-6 * mean.abs().clamp(min=1e-3)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / std.clamp(min=1e-12), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., D)."""
        with torch.autocast(x.device.type, enabled=False):
            return (x.float() - self.mean) * self.scale
