"""InceptionTime, from tsai."""

from __future__ import annotations

from torch import nn

from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.tsai_backbone import TsaiEncoder, tsai_model
from medssl.errors import ConfigError

__all__ = ["InceptionTime"]


class InceptionTime(TsaiEncoder):
    """InceptionTime (Fawaz et al., 2020), tsai's InceptionTimePlus without its head. One map of full length.

    Args:
        in_channels: channels of the signal.
        width: filters of each of the four branches; the map has 4 width channels.
        depth: inception modules, a multiple of 3 (a shortcut spans three).
        kernel: longest convolution in samples; the others are a half and a quarter of it.

    Raises:
        ConfigError: a depth that is no multiple of 3, or tsai cannot be imported.
    """

    def __init__(self, in_channels: int = 1, width: int = 32, *, depth: int = 6, kernel: int = 40) -> None:
        super().__init__()
        if depth < 3 or depth % 3:
            raise ConfigError(f"InceptionTime needs a depth that is a multiple of 3, not {depth}")
        model = tsai_model("InceptionTimePlus")(in_channels, 1, nf=width, depth=depth, ks=kernel)
        self.in_channels, self.dims, self.depth = in_channels, 1, depth
        self.out_dim, self.channels = 4 * width, (4 * width,)
        self.strides, self.divisor, self.minimum = ((1,),), (1,), (2,)
        self.backbone = model.backbone[0]

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """One group for every three modules and their shortcut."""
        groups = [
            (*(f"backbone.inception.{3 * g + i}." for i in range(3)), f"backbone.shortcut.{g}.")
            for g in range(self.depth // 3)
        ]
        return parameters_by_prefix(self, groups)
