"""Resampling of volumes along their own axes, and of signals by exact rational factors.

Volumes are only ever resampled along array axes (canonical orientation permutes and flips, it never rotates), so
trilinear interpolation separates into one cheap pass an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interpolation", "LabelInterpolation", "rate_ratio", "resample_labels", "resample_signal", "resample_volume"]

Interpolation = Literal["linear", "cubic"]
LabelInterpolation = Literal["nearest", "onehot_linear"]

_MAX_FACTOR = 50_000


def resample_volume(
    data: NDArray[np.floating[Any]],
    shape: Sequence[int],
    ratio: Sequence[float],
    *,
    interpolation: Interpolation = "linear",
    antialias: bool = True,
) -> NDArray[np.float32]:
    """Resample onto a grid with the same centre.

    Args:
        data: (Z, Y, X).
        shape: of the result.
        ratio: new spacing / old spacing an axis.
        interpolation: linear, or cubic B-spline.
        antialias: smooth axes that lose resolution first, with the Gaussian whose width is the difference of the two
            voxels' (full width at half maximum), sigma² = (ratio² - 1) / (8 ln 2) (Cardoso et al., MICCAI 2015).

    Returns:
        float32; beyond the outermost voxel centres the edge value is held.
    """
    from scipy import ndimage

    result: NDArray[np.float32] = np.asarray(data, dtype=np.float32)
    for axis, step in enumerate(ratio):
        if antialias and step > 1.0 + 1e-6:
            sigma = sqrt((step * step - 1.0) / (8.0 * np.log(2.0)))
            result = np.asarray(ndimage.gaussian_filter1d(result, sigma, axis=axis, mode="nearest"), dtype=np.float32)
    if interpolation == "cubic":
        offset = [_start(n, m, r) for n, m, r in zip(result.shape, shape, ratio, strict=True)]
        return np.asarray(
            ndimage.affine_transform(
                result, np.asarray(ratio), offset, output_shape=tuple(shape), order=3, mode="nearest"
            ),
            dtype=np.float32,
        )
    # The axis that shrinks most goes first: later passes then touch fewer voxels.
    for axis in sorted(range(3), key=lambda a: shape[a] / result.shape[a]):
        result = _lerp(result, _coordinates(result.shape[axis], shape[axis], ratio[axis]), axis)
    return result


def resample_labels(
    labels: NDArray[np.integer[Any]],
    shape: Sequence[int],
    ratio: Sequence[float],
    *,
    interpolation: LabelInterpolation = "onehot_linear",
) -> NDArray[np.uint8]:
    """Resample a label map onto the grid of :func:`resample_volume`; never invents a label value.

    ``"onehot_linear"`` interpolates the indicator of every label and takes the largest (ties go to the smaller
    label), which keeps smooth borders where ``"nearest"`` leaves stairs. Each label is worked on in its own bounding
    box, so that a hundred small structures cost little more than one.
    """
    source = [_nudged(n, m, r) for n, m, r in zip(labels.shape, shape, ratio, strict=True)]
    if interpolation == "nearest":
        picks = [np.floor(c + 0.5).astype(np.intp) for c in source]
        return np.asarray(labels[np.ix_(*picks)], dtype=np.uint8)
    from scipy import ndimage

    winner = np.zeros(tuple(shape), dtype=np.uint8)
    best = np.zeros(tuple(shape), dtype=np.float32)
    total = np.zeros(tuple(shape), dtype=np.float32)
    boxes: Sequence[Any] = ndimage.find_objects(np.asarray(labels, dtype=np.int32))
    for value, box in enumerate(boxes, start=1):
        if box is None:
            continue
        near = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        spans = [_span(c, s, n) for c, s, n in zip(source, near, labels.shape, strict=True)]
        if any(s.stop <= s.start for s in spans):
            continue  # thinner than the new voxels: no centre falls into it
        part = np.asarray(labels[near] == value, dtype=np.float32)
        for axis in range(3):
            part = _lerp(part, source[axis][spans[axis]] - near[axis].start, axis)
        where = tuple(spans)
        total[where] += part
        wins = part > best[where]
        winner[where][wins] = value
        best[where][wins] = part[wins]
    # Background competes too: the indicators of all labels sum to one.
    winner[(1.0 - total) >= best - 1e-6] = 0
    return winner


def _start(count: int, new: int, ratio: float) -> float:
    return (count - 1) / 2 - (new - 1) / 2 * ratio


def _coordinates(count: int, new: int, ratio: float) -> NDArray[np.float64]:
    """Where the new voxel centres lie, in voxels of the old axis."""
    coordinates = _start(count, new, ratio) + np.arange(new, dtype=np.float64) * ratio
    return np.asarray(np.clip(coordinates, 0.0, count - 1.0), dtype=np.float64)


def _nudged(count: int, new: int, ratio: float) -> NDArray[np.float64]:
    """Centres moved by 1e-4 of a voxel where they are resampled.

    A centre half-way between label and background (every one, at ratio 2) would be a tie, and a rule for ties would
    thicken or thin all structures; so nudged, one border of a structure gains what the other loses.
    """
    centres = _coordinates(count, new, ratio)
    return centres if abs(ratio - 1.0) < 1e-9 else np.minimum(centres + 1e-4, count - 1.0)


def _span(coordinates: NDArray[np.float64], box: slice, count: int) -> slice:
    """New voxels whose value the box decides: those inside it, or held at an edge of the volume it touches."""
    low = 0 if box.start == 0 else int(np.searchsorted(coordinates, box.start, side="left"))
    last = len(coordinates)
    high = last if box.stop >= count else int(np.searchsorted(coordinates, box.stop - 1, side="right"))
    return slice(low, high)


def _lerp(data: NDArray[Any], coordinates: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    count = data.shape[axis]
    if len(coordinates) == count and np.array_equal(coordinates, np.arange(count)):
        return np.asarray(data, dtype=np.float32)
    low = np.minimum(coordinates.astype(np.intp), max(count - 2, 0))
    weight = (coordinates - low).astype(np.float32)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(data.ndim)])
    below = np.take(data, low, axis=axis)
    above = np.take(data, np.minimum(low + 1, count - 1), axis=axis)
    above -= below
    above *= weight
    above += below
    return np.asarray(above, dtype=np.float32)


def rate_ratio(old_hz: float, new_hz: float) -> Fraction:
    """``new_hz / old_hz`` as an exact ratio of small whole numbers.

    >>> rate_ratio(360.0, 250.0), rate_ratio(173.61, 128.0)
    (Fraction(25, 36), Fraction(12800, 17361))
    """
    ratio = Fraction(new_hz).limit_denominator(10_000) / Fraction(old_hz).limit_denominator(10_000)
    if max(ratio.numerator, ratio.denominator) > _MAX_FACTOR:
        ratio = ratio.limit_denominator(_MAX_FACTOR)  # off by < 1e-9: a millisecond in ten days
    return ratio


def resample_signal(data: NDArray[np.floating[Any]], ratio: Fraction) -> NDArray[np.float32]:
    """Polyphase resampling of (C, T) with an anti-aliasing FIR; sample 0 stays at time 0.

    Ends are extended along the line through the first and last sample, so that a drift does not ring.

    Returns:
        (C, ceil(T * ratio)) float32.
    """
    if ratio == 1:
        return np.asarray(data, dtype=np.float32)
    from scipy.signal import resample_poly

    wide = np.asarray(data, dtype=np.float64)  # float32 filters of 10^5 taps lose the small signals
    # An offset would leak through the stop band as a ripple at the old rate, so it goes round the filter.
    level = np.median(wide, axis=-1, keepdims=True)
    moved = resample_poly(
        wide - level, ratio.numerator, ratio.denominator, axis=-1, window=("kaiser", 8.0), padtype="line"
    )
    return np.asarray(moved + level, dtype=np.float32)
