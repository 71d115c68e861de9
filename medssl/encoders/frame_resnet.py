"""The pre-activation residual network over time of frame projections, and its block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.encoders.base import Encoder, Features
from medssl.encoders.blocks import parameters_by_prefix
from medssl.errors import ConfigError

__all__ = ["FrameResNet", "PreActivationBlock", "SameConv1d", "at_least_single"]

WIDEN = 4  # blocks of one width; the next ones are twice as wide


class SameConv1d(nn.Conv1d):
    """A convolution with ceil(T / stride) outputs; what it lacks is padded on both sides, the smaller half before."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, T) → (B, c_out, ceil(T / stride))."""
        length, step, kernel = x.shape[-1], self.stride[0], self.kernel_size[0]
        lacking = max(0, (-(-length // step) - 1) * step + kernel - length)
        return super().forward(F.pad(x, (lacking // 2, lacking - lacking // 2)))


class PreActivationBlock(nn.Module):
    """[norm → ReLU → dropout →] convolution → norm → ReLU → dropout → convolution, beside a skip without weights.

    The skip is pooled by its maximum where the block strides (for odd lengths the last sample meets a zero), and padded
    with channels of zeros, half of them before, where it widens.

    Args:
        c_in: channels in.
        c_out: channels out.
        kernel: length of the convolutions.
        stride: 1 or 2, of the first convolution.
        first: the block begins with its convolution.
        norm: batch norms before the ReLUs.
        dropout: after the ReLUs.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernel: int,
        stride: int = 1,
        first: bool = False,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride, self.added = stride, c_out - c_in

        def activation(width: int) -> nn.Module:
            return nn.Sequential(nn.BatchNorm1d(width) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout))

        self.before = nn.Identity() if first else activation(c_in)
        self.conv1 = SameConv1d(c_in, c_out, kernel, stride=stride)
        self.between = activation(c_out)
        self.conv2 = SameConv1d(c_out, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, T) → (B, c_out, ceil(T / stride))."""
        y: Tensor = self.conv2(self.between(self.conv1(self.before(x))))
        return y + self._skip(x)

    def _skip(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = F.max_pool1d(F.pad(x, (0, x.shape[-1] % 2)), 2)
        front = self.added // 2
        return F.pad(x, (0, 0, front, self.added - front)) if self.added else x


class FrameResNet(Encoder):
    """Pre-activation residual network, the time encoder of frame projections (NeurIPS 2025).

    A stem, and blocks of two convolutions of which every second one halves the length; the width doubles after every
    four. One map (B, C, ceil(T / stride)) after a last norm and ReLU; pooled is a linear layer on its mean. With the
    defaults 206,240 weights for six channels. (Published: 206,629, with a norm of the first block and a head for five
    classes that are never used.)

    Args:
        in_channels: channels of the signal.
        width: channels of the first blocks.
        blocks: residual blocks.
        out_dim: features of ``pooled``.
        kernel: length of the convolutions.
        dropout: inside the blocks while training.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 32,
        *,
        blocks: int = 8,
        out_dim: int = 128,
        kernel: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(width, blocks, out_dim, kernel) < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                "FrameResNet takes a width, blocks, out_dim and kernel of at least 1 and a dropout from 0 to below 1, "
                f"not {width}, {blocks}, {out_dim}, {kernel} and {dropout}"
            )
        widths = [width * 2 ** (i // WIDEN) for i in range(blocks)]
        stride = 2 ** (blocks // 2)
        self.in_channels, self.dims = in_channels, 1
        self.out_dim, self.channels = out_dim, (widths[-1],)
        # a norm over a single step of a single window would turn it into zeros
        self.strides, self.divisor, self.minimum = ((stride,),), (1,), (stride + 1,)
        self.stem = nn.Sequential(SameConv1d(in_channels, width, kernel), nn.BatchNorm1d(width), nn.ReLU())
        self.blocks = nn.Sequential(
            *(
                PreActivationBlock(
                    widths[max(0, i - 1)], widths[i], kernel=kernel, stride=1 + i % 2, first=i == 0, dropout=dropout
                )
                for i in range(blocks)
            )
        )
        self.norm = nn.Sequential(nn.BatchNorm1d(widths[-1]), nn.ReLU())
        self.output = nn.Linear(widths[-1], out_dim)

    def forward(self, x: Tensor) -> Features:
        """(B, C, T) → one map (B, D', ceil(T / stride)), and (B, out_dim)."""
        features: Tensor = self.norm(self.blocks(self.stem(x)))
        return Features(at_least_single(self.output(features.mean(-1))), [features])

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Stem, one group a block, and the last norm with the linear layer."""
        blocks = [(f"blocks.{i}.",) for i in range(len(self.blocks))]
        return parameters_by_prefix(self, [("stem.",), *blocks, ("norm.", "output.")])


def at_least_single(x: Tensor) -> Tensor:
    """In float32 what autocast made half precision; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
