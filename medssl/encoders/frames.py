"""Encoders of the other frames of a window: its Fourier coefficients and its wavelet transform.

They take the window itself and transform it on the device. They are parts of frame projections and no ``Encoder``,
since their maps have no axis of time (Fourier) or two axes (wavelet).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.encoders.frame_resnet import PreActivationBlock, at_least_single
from medssl.errors import ConfigError
from medssl.views.frames import CWT, Frames, Phase, fourier_frame, wavelet_frame

__all__ = ["FourierEncoder", "FrameEncoders", "Pool", "WaveletEncoder", "reduced"]

Pool = Literal["learned", "adaptive"]
"""How an axis is reduced: by a learned weight for every place, which fixes its length, or by its mean."""


class FrameEncoders(nn.Module):
    """One encoder a frame, for windows of one length.

    Args:
        in_channels: C of the window.
        length: T of the window.
        out_dim: D, even. At 128 the published widths, else in proportion.
        frames: how the frames are computed.
        pool: see ``Pool``; ``adaptive`` takes windows of any length.
    """

    def __init__(self, in_channels: int, length: int, out_dim: int, *, frames: Frames, pool: Pool = "learned") -> None:
        super().__init__()
        if out_dim < 4 or out_dim % 2:
            raise ConfigError(
                f"frame encoders halve their width, which is that of the time encoder; it must be even and at least 4, "
                f"not {out_dim}; change the encoder's out_dim or width"
            )
        if pool not in ("learned", "adaptive") or length < 2:
            raise ConfigError(
                f"frame encoders take a pool of learned or adaptive and windows of at least 2 samples, not '{pool}' "
                f"and {length}"
            )
        self.length, self.pool = length, pool
        self.fourier = FourierEncoder(
            in_channels, length, (max(1, out_dim // 8), max(1, out_dim // 4), out_dim // 2),
            phase=frames.phase, log1p=frames.log1p, pool=pool,
        )  # fmt: skip
        self.wavelet = WaveletEncoder(
            in_channels, length, (out_dim // 4, out_dim // 2, 3 * out_dim // 4, out_dim),
            scales=frames.scale_values, cwt=frames.cwt, log1p=frames.log1p, pool=pool,
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) → what the Fourier encoder and the wavelet encoder say, (B, D) each."""
        return self.fourier(x), self.wavelet(x)


class FourierEncoder(nn.Module):
    """Two residual branches without norms, for magnitude and phase of the Fourier coefficients.

    With the defaults 47,100 weights for six channels of 100 samples. (Published: 55,996, with norms and a linear layer
    that are never used.)

    Args:
        in_channels: C.
        length: T of the windows.
        widths: channels of the stem and of two blocks that halve the number of frequencies.
        phase: see ``Frames``.
        log1p: see ``Frames``.
        pool: of the frequency axis, alike for all channels of a branch.
    """

    def __init__(
        self,
        in_channels: int,
        length: int,
        widths: tuple[int, int, int] = (16, 32, 64),
        *,
        phase: Phase = "angle",
        log1p: bool = False,
        pool: Pool = "learned",
    ) -> None:
        super().__init__()
        self.phase: Phase = phase
        self.log1p = log1p
        self.out_dim = 2 * widths[-1]
        places = reduced(length // 2 + 1, 2)
        self.magnitude = _branch(in_channels, widths, places, pool)
        self.direction = _branch(in_channels * (2 if phase == "cos_sin" else 1), widths, places, pool)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, D)."""
        magnitude, phase = fourier_frame(x, phase=self.phase, log1p=self.log1p)
        pooled = torch.cat([self.magnitude(magnitude), self.direction(phase)], 1)
        return at_least_single(pooled)


class WaveletEncoder(nn.Module):
    """Four convolutions over scale and time, which see the transform itself again at the two coarser resolutions.

    With the defaults 551,381 weights for six channels of 100 samples.

    Args:
        in_channels: C.
        length: T of the windows.
        widths: channels; all convolutions but the first halve both axes.
        scales: S scales in samples, see ``geometric_scales``.
        cwt: see ``Frames``.
        log1p: see ``Frames``.
        pool: of time, and then of scale.
    """

    def __init__(
        self,
        in_channels: int,
        length: int,
        widths: tuple[int, int, int, int] = (32, 64, 96, 128),
        *,
        scales: tuple[float, ...],
        cwt: CWT = "pywt_compatible",
        log1p: bool = False,
        pool: Pool = "learned",
    ) -> None:
        super().__init__()
        self.scales, self.log1p = tuple(scales), log1p
        self.cwt: CWT = cwt
        self.out_dim = widths[-1]
        inputs = (in_channels, widths[0], widths[1] + in_channels, widths[2] + in_channels)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 5, stride=1 if i == 0 else 2, padding=2), nn.BatchNorm2d(b), nn.ReLU())
            for i, (a, b) in enumerate(zip(inputs, widths, strict=True))
        )
        self.over_time = _reduction(reduced(length, 3), pool)
        self.over_scale = _reduction(reduced(len(scales), 3), pool)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) → (B, D)."""
        return self.encode(wavelet_frame(x, self.scales, cwt=self.cwt, log1p=self.log1p))

    def encode(self, frame: Tensor) -> Tensor:
        """Magnitudes (B, C, S, T) → (B, D)."""
        y: Tensor = frame
        for place, layer in enumerate(self.layers):
            if place > 1:
                # rounded up, as strided convolutions do, whatever the length
                y = torch.cat([y, F.avg_pool2d(frame, 2 ** (place - 1), ceil_mode=True)], 1)
            y = layer(y)
        return at_least_single(self.over_scale(self.over_time(y)))


class _Mean(nn.Module):
    """(..., n) → (...)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


class _WeightedSum(nn.Linear):
    """(..., n) → (...), with one weight a place."""

    def __init__(self, places: int) -> None:
        super().__init__(places, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(-1)


def reduced(length: int, halvings: int) -> int:
    """Places that are left of an axis after strides of 2 that round up.

    >>> [reduced(length // 2 + 1, 2) for length in (100, 128, 200, 480, 1000)]
    [13, 17, 26, 61, 126]
    >>> [reduced(length, 3) for length in (100, 128, 200, 480, 1000)]
    [13, 16, 25, 60, 125]
    """
    return -(-length // (1 << halvings))


def _reduction(places: int, pool: Pool) -> nn.Module:
    return _WeightedSum(places) if pool == "learned" else _Mean()


def _branch(in_channels: int, widths: tuple[int, int, int], places: int, pool: Pool) -> nn.Sequential:
    """(B, in_channels, F) → (B, widths[-1])."""
    stem, middle, last = widths
    return nn.Sequential(
        nn.Conv1d(in_channels, stem, 3, padding=1),
        nn.ReLU(),
        PreActivationBlock(stem, middle, kernel=3, stride=2, first=True, norm=False),
        PreActivationBlock(middle, last, kernel=3, stride=2, norm=False),
        _reduction(places, pool),
    )
