"""The dilated-convolution encoder of TS2Vec."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.encoders.base import Encoder, Features
from medssl.encoders.blocks import parameters_by_prefix

__all__ = ["TS2Vec"]


class _SameConv(nn.Module):
    """Length-keeping dilated convolution. ``conv`` only holds the weights, under the released names."""

    def __init__(self, c_in: int, c_out: int, *, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, 1, T) → (B, c_out, 1, T)."""
        dilation = self.conv.dilation[0]
        weight = self.conv.weight.unsqueeze(2)
        y: Tensor = F.conv2d(x, weight, self.conv.bias, padding=(0, dilation), dilation=(1, dilation))
        return y


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, *, dilation: int, last: bool) -> None:
        super().__init__()
        self.conv1 = _SameConv(c_in, c_out, dilation=dilation)
        self.conv2 = _SameConv(c_out, c_out, dilation=dilation)
        self.projector = nn.Conv1d(c_in, c_out, 1) if c_in != c_out or last else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.gelu(self.conv1(F.gelu(x))))
        if self.projector is None:
            return x + y
        skip: Tensor = F.conv2d(x, self.projector.weight.unsqueeze(2), self.projector.bias)
        return skip + y


class _Stack(nn.Module):
    def __init__(self, width: int, out_dim: int, *, depth: int) -> None:
        super().__init__()
        widths = [width] * depth + [out_dim]
        self.net = nn.Sequential(
            *(
                _Block(widths[i - 1] if i else width, widths[i], dilation=2**i, last=i == depth)
                for i in range(depth + 1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class TS2Vec(Encoder):
    """TS2Vec (Yue et al., AAAI 2022): a linear layer a step, then residual pairs of convolutions of dilation 2^i.

    One map of full length (B, out_dim, T); pooled is its maximum over time. With the default depth of 10 the
    output at a step depends on the 4094 steps before and after it. A step where any channel is NaN is
    set to 0 before and after the input layer, so gaps carry no information.

    Args:
        in_channels: channels of the signal.
        width: channels of the hidden blocks (64 in the paper).
        out_dim: channels of the output (320 in the paper).
        depth: hidden blocks before the output block; the dilation doubles with each.
        dropout: of the output while training.
    """

    exports_any_size = True

    def __init__(
        self, in_channels: int = 1, width: int = 64, *, out_dim: int = 320, depth: int = 10, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.in_channels, self.dims, self.depth = in_channels, 1, depth
        self.out_dim, self.channels = out_dim, (out_dim,)
        self.strides, self.divisor, self.minimum = ((1,),), (1,), (1,)
        self.input_fc = nn.Linear(in_channels, width)
        self.feature_extractor = _Stack(width, out_dim, depth=depth)
        self.repr_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Features:
        """Encode a batch of signals.

        Args:
            x: (B, C, T); NaN marks missing samples.
            mask: (B, T), True where the hidden vector of the input layer is kept; False steps are set to 0
                (TS2Vec's timestamp masking). None keeps all.
        """
        missing = torch.isnan(x).any(1)
        steps = x.masked_fill(missing.unsqueeze(1), 0.0).transpose(1, 2)
        hidden = self.input_fc(steps)
        hidden = hidden.masked_fill((missing if mask is None else missing | ~mask).unsqueeze(-1), 0.0)
        # (B, T, D) seen as (B, D, 1, T) is channels-last as it lies: 2-D kernels convolve it twice as fast on a CPU
        features = self.feature_extractor(hidden.transpose(1, 2).unsqueeze(2)).squeeze(2)
        features = self.repr_dropout(features)
        return Features(features.amax(-1).to(torch.promote_types(features.dtype, torch.float32)), [features])

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Input layer, then one group a block."""
        blocks = [(f"feature_extractor.net.{i}.",) for i in range(self.depth + 1)]
        return parameters_by_prefix(self, [("input_fc.",), *blocks])
