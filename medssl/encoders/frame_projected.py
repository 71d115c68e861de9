"""What frame projections leave behind: a time encoder, and what it says of the other frames of a window."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features
from medssl.encoders.frame_resnet import at_least_single
from medssl.encoders.frames import FrameEncoders, Pool
from medssl.errors import ConfigError
from medssl.views.frames import Frames, zero_filled

__all__ = ["FrameMapping", "FrameProjected", "Inference"]

Inference = Literal["mapped", "time_only", "all_encoders"]


class FrameMapping(nn.Module):
    """From what one encoder says of a window to what another would say of it in another frame.

    Convolution → ReLU → transposed convolution, both of stride 2 along the vector; 449 weights.

    Args:
        hidden: channels between (64 in the paper).
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.down = nn.Conv1d(1, hidden, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose1d(hidden, 1, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) → (B, D), D even."""
        return at_least_single(self.up(torch.relu(self.down(x.unsqueeze(1)))).squeeze(1))


class FrameProjected(Encoder):
    """A time encoder whose features are joined by those of the Fourier and the wavelet frame (NeurIPS 2025).

    Pooled, always in this order: what the encoder says of the window (D), and what is to be said of its Fourier frame
    (D) and of its wavelet frame (D). Maps: those of the time encoder. NaN counts as 0.

    Args:
        encoder: of signals, with an even ``out_dim`` D; what is wrapped.
        inference: ``mapped``: both other parts are told from the first one by small mappings, without any transform.
            ``all_encoders``: the window is transformed, and encoders of their own say them; some forty times the work.
            ``time_only``: there are none, pooled is (B, D).
        hidden: channels of the mappings.
        length: T of the windows, which ``all_encoders`` with a learned ``pool`` needs to know.
        frames: how the frames are computed; ``all_encoders`` alone.
        pool: see ``FrameEncoders``.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        inference: Inference = "mapped",
        hidden: int = 64,
        length: int | None = None,
        frames: Frames | None = None,
        pool: Pool = "learned",
    ) -> None:
        super().__init__()
        if encoder.dims != 1:
            raise ConfigError(
                f"frame projections take encoders of signals (dims 1), but {type(encoder).__name__} takes "
                f"{encoder.dims} axes; choose FrameResNet, for one"
            )
        if inference not in ("mapped", "time_only", "all_encoders"):
            raise ConfigError(f"inference is mapped, time_only or all_encoders, not '{inference}'")
        if inference == "mapped" and (encoder.out_dim % 2 or hidden < 1):
            raise ConfigError(
                f"the mappings of frame projections need features of an even number and at least 1 hidden channel, not "
                f"{encoder.out_dim} and {hidden}; change the encoder's out_dim or width"
            )
        self.encoder = encoder
        self.inference: Inference = inference
        if inference == "mapped":
            self.to_fourier, self.to_wavelet = FrameMapping(hidden), FrameMapping(hidden)
        if inference == "all_encoders":
            if length is None:
                raise ConfigError("FrameProjected with all encoders is made for windows of one length; give its length")
            self.frames = FrameEncoders(
                encoder.in_channels, length, encoder.out_dim, frames=frames or Frames(), pool=pool
            )
        self.in_channels, self.dims = encoder.in_channels, 1
        self.out_dim = encoder.out_dim * (1 if inference == "time_only" else 3)
        self.channels, self.strides = encoder.channels, encoder.strides
        self.divisor, self.minimum = encoder.divisor, encoder.minimum
        self.any_channels = encoder.any_channels and inference != "all_encoders"
        self.position_grids = {f"encoder.{k}": v for k, v in getattr(encoder, "position_grids", {}).items()}

    def forward(self, x: Tensor) -> Features:
        """See ``Encoder.forward``: (B, C, T)."""
        x = zero_filled(x)
        features: Features = self.encoder(x)
        others: tuple[Tensor, ...] = ()
        if self.inference == "mapped":
            others = self.to_fourier(features.pooled), self.to_wavelet(features.pooled)
        elif self.inference == "all_encoders":
            others = self.frames(x)
        return Features(torch.cat([features.pooled, *others], 1), features.maps)

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``: the time encoder has its say, and learned reductions fix the length."""
        self.encoder.check_input(channels, size)
        if self.inference == "all_encoders" and self.frames.pool == "learned" and size != (self.frames.length,):
            raise ConfigError(
                f"the Fourier and wavelet encoders were built for windows of {self.frames.length} samples, not "
                f"{size[0]}; use such windows, or pre-train with pool: adaptive or inference: mapped"
            )

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Those of the time encoder, and then what adds the other frames."""
        groups = [[(f"encoder.{name}", p) for name, p in group] for group in self.encoder.layers()]
        others = [(name, p) for name, p in self.named_parameters() if not name.startswith("encoder.")]
        return [*groups, others] if others else groups
