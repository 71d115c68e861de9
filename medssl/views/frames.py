"""One window seen in other frames: its Fourier coefficients, and the magnitude of its wavelet transform.

Pure functions on the device, for methods and objectives that compare a window with itself in another frame (*Learning
Without Augmenting: Unsupervised Time Series Representation Learning via Frame Projections*, NeurIPS 2025). Nothing is
drawn at random. Transforms are computed in float32 whatever the autocast, or in float64 where that is given; missing
samples (NaN) count as 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from medssl.errors import ConfigError

__all__ = [
    "CWT",
    "FourierFrame",
    "Frames",
    "Phase",
    "centre_frequencies",
    "fourier_frame",
    "geometric_scales",
    "pywt_taps",
    "wavelet_coefficients",
    "wavelet_frame",
    "zero_filled",
]

CWT = Literal["pywt_compatible", "analytic"]
Phase = Literal["angle", "cos_sin"]

HALF_WIDTH = 8.0  # of the wavelet at scale 1, in samples: exp(-64) is nothing
GRID = 4096  # points of PyWavelets' table of the wavelet
CLEAN = 2.0  # scale from which a centre frequency lies below half the sampling rate
ELEMENTS = {"cpu": 2**17, "cuda": 2**27}  # complex numbers at once: 1 MiB, which a cache holds; 1 GiB


class FourierFrame(NamedTuple):
    """One-sided orthonormal Fourier coefficients.

    Attributes:
        magnitude: (..., C, F), F = T // 2 + 1.
        phase: (..., C, F) radians from -π to π; or (..., 2C, F), cosines and then sines times the magnitude.
    """

    magnitude: Tensor
    phase: Tensor


@dataclass(frozen=True)
class Frames:
    """How a window is shown in the two other frames.

    Attributes:
        phase: ``angle`` is published, but jumps at ±π and means nothing where the magnitude is 0; ``cos_sin`` does not.
        log1p: log(1 + magnitude), for signals that are not standardised.
        cwt: ``pywt_compatible`` samples the wavelet as PyWavelets does; ``analytic`` evaluates it, from scale 2 upward.
        scales: number of scales, in geometric progression.
        smallest: first scale; None: 1 (rows below 2 lie above half the sampling rate), or 2 where ``cwt`` is analytic.
        largest: last scale. The centre frequency of a scale is the sampling rate divided by it.
    """

    phase: Phase = "angle"
    log1p: bool = False
    cwt: CWT = "pywt_compatible"
    scales: int = 48
    smallest: float | None = None
    largest: float = 128.0

    def __post_init__(self) -> None:
        for name, value, allowed in (("phase", self.phase, get_args(Phase)), ("cwt", self.cwt, get_args(CWT))):
            if value not in allowed:
                raise ConfigError(f"Frames takes a {name} of {' or '.join(allowed)}, not '{value}'")
        if self.scales < 2 or not 0 < self.first < self.largest:
            raise ConfigError(
                f"Frames needs at least 2 scales from above 0 to a larger one, not {self.scales} from {self.first} to "
                f"{self.largest}"
            )
        if self.cwt == "analytic" and self.first < CLEAN:
            raise ConfigError(
                f"an analytic wavelet transform starts at scale {CLEAN:g}, not {self.first:g}: below it the wavelet is "
                "faster than the sampling; raise smallest, or choose cwt: pywt_compatible"
            )

    @property
    def first(self) -> float:
        """The smallest scale."""
        return self.smallest if self.smallest is not None else (CLEAN if self.cwt == "analytic" else 1.0)

    @property
    def scale_values(self) -> tuple[float, ...]:
        """All scales, the smallest first."""
        return geometric_scales(self.scales, self.first, self.largest)


def zero_filled(x: Tensor) -> Tensor:
    """Missing samples (NaN) set to 0; of any shape."""
    return x.masked_fill(x.isnan(), 0.0)


def fourier_frame(x: Tensor, *, phase: Phase = "angle", log1p: bool = False) -> FourierFrame:
    """Magnitude and phase of the orthonormal discrete Fourier transform over time.

    Args:
        x: (..., C, T), NaN for missing samples.
        phase: see ``Frames``. A channel of zeros has magnitude 0 and angle 0.
        log1p: compress the magnitude, which then also weighs ``cos_sin``.

    >>> magnitude, angle = fourier_frame(torch.tensor([[1.0, 0.0, -1.0, 0.0]]))
    >>> magnitude.tolist(), angle.tolist()
    ([[0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]])
    """
    with _without_autocast(x.device):
        spectrum = torch.fft.rfft(zero_filled(_real(x)), norm="ortho")
        size = spectrum.abs()
        magnitude = size.log1p() if log1p else size
        if phase == "angle":
            # 0 added: a negative zero would turn the angle of a real coefficient from π to -π, and of nothing from 0
            return FourierFrame(magnitude, torch.atan2(spectrum.imag + 0.0, spectrum.real + 0.0))
        direction = torch.view_as_real(spectrum)
        if log1p:
            direction = direction * (magnitude / size.clamp_min(torch.finfo(size.dtype).tiny)).unsqueeze(-1)
        return FourierFrame(magnitude, torch.cat(direction.unbind(-1), dim=-2))


def wavelet_frame(x: Tensor, scales: tuple[float, ...], *, cwt: CWT = "pywt_compatible", log1p: bool = False) -> Tensor:
    """Magnitude of the continuous wavelet transform, (..., C, T) → (..., C, S, T); see ``wavelet_coefficients``."""
    with _without_autocast(x.device):
        x = zero_filled(_real(x))
        rows = x.reshape(-1, x.shape[-1])
        magnitude = torch.cat([part.abs() for part in _in_chunks(rows, scales, cwt)])
        magnitude = magnitude.log1p() if log1p else magnitude
        return magnitude.view(*x.shape[:-1], len(scales), x.shape[-1])


def wavelet_coefficients(x: Tensor, scales: tuple[float, ...], *, cwt: CWT = "pywt_compatible") -> Tensor:
    r"""Continuous wavelet transform with the complex Morlet wavelet ``cmor1-1``, zeros outside the window.

    .. math:: W(s, b) = s^{-1/2} \sum_t x_t \, \overline{\psi((t - b) / s)}, \quad
        \psi(t) = \pi^{-1/2} e^{-t^2} e^{2 \pi i t}

    as it stands (``analytic``), or with the sampling of PyWavelets, see ``pywt_taps`` (``pywt_compatible``). All rows
    and scales are one product in the Fourier domain: taps farther than T - 1 from the centre meet no sample, so the
    transform needs a length of 2T - 1 even where the kernel is longer (2,049 taps at scale 128).

    Args:
        x: (..., C, T), NaN for missing samples.
        scales: S scales in samples; see ``geometric_scales``.
        cwt: the two kernels differ by more than half up to scale 2, by 8 % at 4.7, and at 128 by half a sample's lag.

    Returns:
        (..., C, S, T), complex.
    """
    with _without_autocast(x.device):
        x = zero_filled(_real(x))
        rows = x.reshape(-1, x.shape[-1])
        return torch.cat(list(_in_chunks(rows, scales, cwt))).view(*x.shape[:-1], len(scales), x.shape[-1])


def geometric_scales(count: int = 48, smallest: float = 1.0, largest: float = 128.0) -> tuple[float, ...]:
    """Scales in geometric progression.

    >>> geometric_scales(3, 1.0, 4.0)
    (1.0, 2.0, 4.0)
    """
    return tuple(float(s) for s in np.geomspace(smallest, largest, count))


def centre_frequencies(scales: tuple[float, ...], rate_hz: float) -> tuple[float, ...]:
    """Frequency in Hz at which each scale answers most strongly.

    >>> centre_frequencies((2.0, 50.0), 100.0)
    (50.0, 2.0)
    """
    return tuple(rate_hz / scale for scale in scales)


def pywt_taps(scale: float) -> tuple[NDArray[np.int64], NDArray[np.complex128]]:
    r"""The kernel that PyWavelets convolves with at a scale, before it differentiates the result.

    The wavelet's running integral on 4,096 points from -8 to 8 (step h), conjugated, read at every ⌊k / (s h)⌋ and
    reversed.

    Args:
        scale: s > 0, in samples.

    Returns:
        Places in the integral, and the kernel: (16 s + 1,) each, fewer where the last lies outside.
    """
    grid, integral = _integrated_wavelet()
    places = (np.arange(2 * HALF_WIDTH * scale + 1) / (scale * (grid[1] - grid[0]))).astype(np.int64)
    places = places[places < GRID]
    return places, integral.conj()[places][::-1]


@functools.cache
def _integrated_wavelet() -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    grid = np.linspace(-HALF_WIDTH, HALF_WIDTH, GRID)
    return grid, np.cumsum(_wavelet(grid)) * (grid[1] - grid[0])


def _wavelet(t: NDArray[np.float64]) -> NDArray[np.complex128]:
    found: NDArray[np.complex128] = np.exp(2j * np.pi * t - t**2) / math.sqrt(math.pi)
    return found


def _kernel(scale: float, length: int, cwt: CWT) -> NDArray[np.complex128]:
    """Taps at -(T - 1), …, T - 1 from the centre: output b is Σ_t x_t k[b - t]."""
    reach = np.arange(1 - length, length)
    if cwt == "analytic":
        return _wavelet(reach / scale) / math.sqrt(scale)  # ψ(-t) is the conjugate of ψ(t)
    taps = pywt_taps(scale)[1]
    # the difference of the convolution is the convolution with the difference
    taps = -math.sqrt(scale) * np.diff(taps, prepend=0, append=0)
    place = reach + 1 + (len(taps) - 3) // 2
    inside = (place >= 0) & (place < len(taps))
    return np.where(inside, taps[place.clip(0, len(taps) - 1)], 0)


@functools.lru_cache(maxsize=32)
def _spectra(scales: tuple[float, ...], length: int, cwt: CWT, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(S, n) Fourier transforms of the kernels, laid out in a circle of n ≥ 2T - 1; once a device."""
    circle = np.zeros((len(scales), next_fast_len(2 * length - 1, real=True)), np.complex128)
    circle[:, np.arange(1 - length, length)] = np.stack([_kernel(scale, length, cwt) for scale in scales])
    with torch.inference_mode(False):  # what is kept must serve training too
        return torch.from_numpy(np.fft.fft(circle)).to(device, dtype.to_complex())


def _in_chunks(rows: Tensor, scales: tuple[float, ...], cwt: CWT) -> Iterator[Tensor]:
    """Coefficients (n, S, T) of rows (N, T), some rows at a time, so that the peak does not grow with the batch."""
    if not scales or min(scales) <= 0:
        raise ConfigError(f"a wavelet transform needs scales above 0, not {scales}")
    length = rows.shape[-1]
    spectra = _spectra(tuple(scales), length, cwt, rows.dtype, rows.device)
    for some in rows.split(max(1, ELEMENTS.get(rows.device.type, ELEMENTS["cpu"]) // spectra.numel())):
        found = torch.fft.fft(some, n=spectra.shape[-1]).unsqueeze(1) * spectra
        yield torch.fft.ifft(found)[..., :length]


def _real(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def _without_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)
