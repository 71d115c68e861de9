"""TS2Vec's encoder with the trend layer of CoST, as AutoTCL uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.base import Features
from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError

__all__ = ["TrendTS2Vec"]


class _CausalConv(nn.Conv1d):
    """Length-keeping; a step sees itself and earlier ones."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, C', T)."""
        return super().forward(functional.pad(x, (self.kernel_size[0] - 1, 0)))


class TrendTS2Vec(TS2Vec):
    """TS2Vec's dilated convolutions, then the mean of causal convolutions of kernels 1, 2, 4, … (CoST, ICLR 2022).

    One map of full length (B, out_dim, T); pooled is its maximum over time. The last layer alone is causal, the dilated
    convolutions before it are not.

    Args:
        in_channels: channels of the signal.
        width: channels of the hidden blocks (64).
        out_dim: channels of the output (320).
        depth: hidden blocks before the output block (10).
        kernels: of the trend layer (published: 8, so 1 to 128).
        dropout: before the trend layer while training (AutoTCL: 0).
    """

    def __init__(
        self,
        in_channels: int = 1,
        width: int = 64,
        *,
        out_dim: int = 320,
        depth: int = 10,
        kernels: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, width, out_dim=out_dim, depth=depth, dropout=dropout)
        if kernels < 1:
            raise ConfigError(f"TrendTS2Vec needs at least one kernel in its trend layer, not {kernels}")
        self.tfd = nn.ModuleList(_CausalConv(out_dim, out_dim, 2**i) for i in range(kernels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Features:
        """See ``TS2Vec.forward``."""
        steps = super().forward(x, mask).maps[0]
        trend = torch.stack([conv(steps) for conv in self.tfd]).mean(0)
        return Features(trend.amax(-1).to(torch.promote_types(trend.dtype, torch.float32)), [trend])

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Input layer, one group a block, and the trend layer."""
        blocks = [(f"feature_extractor.net.{i}.",) for i in range(self.depth + 1)]
        return parameters_by_prefix(self, [("input_fc.",), *blocks, ("tfd.",)])
