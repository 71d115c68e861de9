"""The time-series transformer TST, from tsai."""

from __future__ import annotations

import math

from torch import nn

from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.tsai_backbone import TsaiEncoder, tsai_model
from medssl.errors import ConfigError

__all__ = ["TST"]


class TST(TsaiEncoder):
    """Time-series transformer (Zerveas et al., 2021), tsai's TSTPlus without its head.

    One map (B, width, T'), T' = ceil(length / stride). The length is fixed because the learned positions are.

    Args:
        in_channels: channels of the signal.
        length: samples of every input.
        width: token dimension.
        depth: transformer layers.
        heads: attention heads; must divide ``width``.
        mlp_width: hidden width of the layers' MLP.
        max_tokens: longer inputs are shortened to at most so many tokens by a strided input convolution.
        dropout: inside the layers.

    Raises:
        ConfigError: heads that do not divide the width, or tsai cannot be imported.
    """

    def __init__(
        self,
        in_channels: int = 1,
        length: int = 512,
        *,
        width: int = 128,
        depth: int = 3,
        heads: int = 16,
        mlp_width: int = 256,
        max_tokens: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"TST needs a width ({width}) that is a multiple of the heads ({heads})")
        # tsai pads to exactly max_seq_len tokens; asking for just as many as the stride needs leaves no empty ones
        tokens = math.ceil(length / math.ceil(length / max_tokens))
        model = tsai_model("TSTPlus")(
            in_channels,
            1,
            length,
            max_seq_len=tokens,
            n_layers=depth,
            d_model=width,
            n_heads=heads,
            d_ff=mlp_width,
            dropout=dropout,
            key_padding_mask=False,  # "auto" would overwrite NaN in the caller's array
        )
        self.in_channels, self.dims, self.length, self.depth = in_channels, 1, length, depth
        self.out_dim, self.channels = width, (width,)
        self.strides = ((math.ceil(length / tokens),),)
        self.divisor, self.minimum = (1,), (length,)
        self.tokens = tokens
        self.backbone = model.backbone

    @property
    def position_grids(self) -> dict[str, tuple[int, ...]]:
        """Tokens of the position table by weight name; ``load_weights`` resizes foreign tables to it."""
        return {"backbone.W_pos": (self.tokens,)}

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``; also refuses any length but the one it was built for."""
        super().check_input(channels, size)
        if size != (self.length,):
            raise ConfigError(
                f"TST was built for windows of {self.length} samples, not {size[0]}; set its length to the window"
            )

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Input and positions, then one group a layer."""
        blocks = [(f"backbone.encoder.layers.{i}.",) for i in range(self.depth)]
        return parameters_by_prefix(self, [("backbone.W_P.", "backbone.W_pos"), *blocks])
