"""A 2-D encoder that takes volumes: every slice along the axial axis for itself."""

from __future__ import annotations

from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features
from medssl.errors import ConfigError

__all__ = ["SliceWise"]


class SliceWise(Encoder):
    """What a 2-D encoder says of each axial slice, put together as maps of the volume.

    Methods that are trained on slices export it, so that whatever takes a volume encoder (segmentation, classification,
    embedding, studies) takes theirs: the slices of all volumes go through the encoder as one batch.

    Maps: those of the encoder, (B, C_i, Z, *plane_i), stride 1 along z. Pooled: the mean over the slices.

    Args:
        encoder: of images, ``dims`` 2; what is wrapped.
    """

    exports_any_size = True

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if encoder.dims != 2:
            raise ConfigError(
                f"SliceWise wraps encoders of slices (dims 2), but {type(encoder).__name__} takes {encoder.dims} axes; "
                "it needs no wrapping if it takes volumes"
            )
        self.encoder = encoder
        self.in_channels, self.dims, self.out_dim = encoder.in_channels, 3, encoder.out_dim
        self.channels = encoder.channels
        self.strides = tuple((1, *stride) for stride in encoder.strides)
        self.divisor, self.minimum = (1, *encoder.divisor), (1, *encoder.minimum)
        self.position_grids = {f"encoder.{k}": v for k, v in getattr(encoder, "position_grids", {}).items()}

    def forward(self, x: Tensor) -> Features:
        """See ``Encoder.forward``: (B, C, Z, Y, X)."""
        batch = x.shape[0]  # not len(x), which would fix the batch of an exported encoder
        features: Features = self.encoder(x.transpose(1, 2).flatten(0, 1))
        maps = [m.unflatten(0, (batch, -1)).transpose(1, 2) for m in features.maps]
        return Features(features.pooled.unflatten(0, (batch, -1)).mean(1), maps)

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``."""
        super().check_input(channels, size)
        self.encoder.check_input(channels, size[1:])

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Those of the encoder."""
        return [[(f"encoder.{name}", p) for name, p in group] for group in self.encoder.layers()]
