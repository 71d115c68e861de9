"""Encoders of which one knows what they see."""

from __future__ import annotations

import torch

from medssl.encoders.base import Encoder, Features


class Brightness(Encoder):
    """Tells bright from dark in every place of a volume or clip.

    Pooled: the mean of the last column, and of everything.

    Args:
        in_channels: averaged.
        stride: of its cells, but along the first axis.
    """

    def __init__(self, *, in_channels: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.dims, self.out_dim, self.channels = in_channels, 3, 2, (2,)
        self.strides, self.divisor, self.minimum = ((1, stride, stride),), (1, stride, stride), (1, stride, stride)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> Features:
        grey = x.mean(1, keepdim=True) * self.scale
        bright = torch.nn.functional.avg_pool3d(grey, self.strides[0])
        pooled = torch.stack([grey[..., -1].flatten(1).mean(1), grey.flatten(1).mean(1)], 1)
        return Features(pooled, [torch.cat([bright > 0.7, bright <= 0.7], 1).float()])
