"""XceptionTime, from tsai."""

from __future__ import annotations

from torch import nn

from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.tsai_backbone import TsaiEncoder, tsai_model

__all__ = ["XceptionTime"]


class XceptionTime(TsaiEncoder):
    """XceptionTime (Rahimian et al., 2019), tsai's XceptionTimePlus without its head. One map of full length.

    Args:
        in_channels: channels of the signal.
        width: filters of each branch of the first module; each of the four modules doubles it, so the map has
            32 width channels.
        kernel: longest separable convolution in samples; the others are a half and a quarter of it.

    Raises:
        ConfigError: tsai cannot be imported.
    """

    def __init__(self, in_channels: int = 1, width: int = 16, *, kernel: int = 40) -> None:
        super().__init__()
        model = tsai_model("XceptionTimePlus")(in_channels, 1, nf=width, ks=kernel)
        self.in_channels, self.dims = in_channels, 1
        self.out_dim, self.channels = 32 * width, (32 * width,)
        self.strides, self.divisor, self.minimum = ((1,),), (1,), (2,)
        backbone = model.backbone
        if in_channels == width:
            # tsai takes the first shortcut for a mere norm here, though it must widen the signal, and fails in forward
            widen = tsai_model("layers", "ConvBlock")
            backbone.shortcut[0] = widen(in_channels, 8 * width, 1, bias=False, norm="Batch", act=None)
        self.backbone = backbone

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """One group for every two modules and their shortcut."""
        groups = [
            (f"backbone.xception.{2 * g}.", f"backbone.xception.{2 * g + 1}.", f"backbone.shortcut.{g}.")
            for g in range(2)
        ]
        return parameters_by_prefix(self, groups)
