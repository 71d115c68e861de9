"""Physical values ⇄ stored integers ⇄ network input, for volumes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoded", "encode_ct", "encode_lossless", "encode_mr", "lattice", "without_nan"]

HU_RANGE = (-1024, 3071)
_PROBE = 65_536
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Encoded:
    """One channel as integers.

    Attributes:
        stored: int16, the shape of the volume.
        scale, offset: ``stored * scale + offset`` is physical.
        input_scale, input_offset: ``stored * input_scale + input_offset`` is network input.
        input_range: to which network input is clamped.
        fill: stored value of what lies outside.
        clipped: share of voxels that the integers could not reach.
    """

    stored: NDArray[np.int16]
    scale: float
    offset: float
    input_scale: float
    input_offset: float
    input_range: tuple[float, float]
    fill: int
    clipped: float


def without_nan(data: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Replace NaN and infinities by the smallest finite value.

    Returns:
        The array (itself where nothing had to be replaced) and the share of voxels replaced; 1.0 when none is finite.
    """
    if not np.issubdtype(data.dtype, np.floating):
        return data, 0.0
    finite = np.isfinite(data)
    bad = data.size - int(np.count_nonzero(finite))
    if bad == 0:
        return data, 0.0
    if bad == data.size:
        return data, 1.0
    return np.where(finite, data, data[finite].min()), bad / data.size


def lattice(values: NDArray[Any], *, levels: int = 65_536) -> tuple[float, float] | None:
    """Step and one level of evenly spaced values (what an ADC or an 8-bit file leaves), or None.

    Such data are stored exactly, and compress far better than the same data on a finer grid of another phase.

    >>> lattice(np.array([0.5, 1.0, 3.5, 2.0]))
    (0.5, 0.5)
    """
    flat = values.reshape(-1)
    if np.issubdtype(values.dtype, np.integer):
        return 1.0, float(flat[0])
    probe = np.unique(flat[:: max(1, flat.size // _PROBE)].astype(np.float64))
    if probe.size < 2:
        return None
    gaps = np.diff(probe)
    span = float(probe[-1] - probe[0])
    # The smallest gap carries the rounding of two floats; counted in it, all gaps together average that out.
    count = float(np.rint(gaps / gaps.min()).sum())
    if count > levels:
        return None
    step = span / count
    if not _on_lattice(probe, step, float(probe[0])) or not _on_lattice(flat, step, float(probe[0])):
        return None
    return step, float(probe[0])


def _on_lattice(values: NDArray[Any], step: float, level: float) -> bool:
    codes = (values - level) / step
    return bool(np.abs(codes - np.rint(codes)).max() < 0.1)


def encode_ct(data: NDArray[Any], window: tuple[float, float]) -> Encoded:
    """Hounsfield units as they are, int16 clipped to [-1024, 3071]; ``window`` becomes network input [0, 1]."""
    low, high = HU_RANGE
    values = np.rint(data) if np.issubdtype(data.dtype, np.floating) else data
    clipped = float(np.count_nonzero((values < low) | (values > high))) / values.size
    width = window[1] - window[0]
    return Encoded(
        np.clip(values, low, high).astype(np.int16), 1.0, 0.0, 1.0 / width, -window[0] / width, (0.0, 1.0), low, clipped
    )


def encode_mr(data: NDArray[Any], percentiles: tuple[float, float], *, bits: int = 14) -> Encoded:
    """Arbitrary units: robust percentiles of the body become network input [0, 1].

    The percentiles are taken over voxels above the volume's minimum, so that zero padding does not decide them.
    Values are stored exactly where they lie on a lattice of at most ``2**bits`` steps between the percentiles,
    otherwise in ``2**bits`` steps; either way up to twice the upper percentile is kept for later.
    """
    low, high = _robust_range(data, percentiles)
    found = lattice(data, levels=1 << 16)
    if found is not None and (high - low) / found[0] < 1 << bits:
        scale = found[0]
        offset = found[1] + round((low - found[1]) / scale) * scale
    else:
        scale, offset = (high - low) / ((1 << bits) - 1), low
    stored, clipped = _quantise(data, scale, offset)
    width = high - low
    return Encoded(stored, scale, offset, scale / width, (offset - low) / width, (0.0, 1.0), 0, clipped)


def encode_lossless(data: NDArray[Any]) -> Encoded:
    """Values as they are (network input = physical): whole steps where they lie on a lattice, else 16 bits."""
    low, high = float(data.min()), float(data.max())
    found = lattice(data)
    steps = (high - low) / found[0] if found is not None else math.inf
    scale = found[0] if found is not None and steps <= 65_535 else (high - low) / 65_534
    # Zero is a level wherever it can be, so that integers stay the same integers.
    fits = _INT16.min * scale <= low and high <= _INT16.max * scale
    exact = found is None or abs(found[1] / scale - round(found[1] / scale)) < 0.02
    offset = 0.0 if fits and exact else low - _INT16.min * scale
    stored, clipped = _quantise(data, scale, offset)
    return Encoded(stored, scale, offset, scale, offset, (low, high), int(stored.min()), clipped)


def _robust_range(data: NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
    minimum = data.min()
    body = data[data > minimum]
    low, high = (float(v) for v in np.percentile(body, percentiles))
    if high <= low:  # nearly all voxels share one value: a mask, or a few bright dots
        low, high = float(minimum), float(data.max())
    return low, high


def _quantise(data: NDArray[Any], scale: float, offset: float) -> tuple[NDArray[np.int16], float]:
    codes = np.rint((np.asarray(data, dtype=np.result_type(data.dtype, np.float32)) - offset) / scale)
    clipped = float(np.count_nonzero((codes < _INT16.min) | (codes > _INT16.max))) / codes.size
    return np.clip(codes, _INT16.min, _INT16.max).astype(np.int16), clipped
