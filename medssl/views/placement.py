"""Where to read: positions of crops and windows in a recording. Pure functions of a NumPy generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import CohortError

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = [
    "background_input",
    "centred_start",
    "covered",
    "foreground_box",
    "nearby_start",
    "read_crops",
    "uniform_start",
    "window_start",
]

Start = NDArray[np.int64]


def uniform_start(shape: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> Start:
    """Start of a crop anywhere inside; along axes shorter than the crop the recording is centred in it.

    Args:
        shape: of the recording, one number an axis.
        size: of the crop.
        rng: drawn from once an axis.
    """
    low, high = _bounds(shape, size)
    return rng.integers(low, high + 1)


def centred_start(
    shape: Sequence[int], size: Sequence[int], centre: Sequence[int] | NDArray[Any], rng: np.random.Generator
) -> Start:
    """Start of a crop that holds ``centre`` near its middle (within a quarter of its size), kept inside."""
    low, high = _bounds(shape, size)
    quarter = np.asarray(size) // 4
    jitter = rng.integers(-quarter, quarter + 1)
    start: Start = np.clip(np.asarray(centre) - np.asarray(size) // 2 + jitter, low, high)
    return start


def nearby_start(
    shape: Sequence[int], size: Sequence[int], anchor: Start, min_overlap: float, rng: np.random.Generator
) -> Start:
    """Start of a crop that shares at least ``min_overlap`` of its volume with the crop at ``anchor``.

    The overlap is ``Π (1 - |d_a| / size_a)``; a random part of the budget ``-log(min_overlap)`` is divided at random
    among the axes, so that no draw has to be rejected. Clipping to the recording only brings the crops closer.
    """
    extent = np.asarray(size)
    low, high = _bounds(shape, size)
    if min_overlap <= 0:
        return rng.integers(low, high + 1)
    budget = -math.log(min_overlap) * rng.random()
    parts = rng.dirichlet(np.ones(len(extent))) * budget
    # floor, less a hair for rounding: the promise is "at least"
    shift = np.floor((1 - np.exp(-parts)) * extent - 1e-9).clip(0).astype(np.int64) * rng.choice((-1, 1), len(extent))
    start: Start = np.clip(anchor + shift, low, high)
    return start


def window_start(
    shape: Sequence[int], window: Sequence[int], box: tuple[Start, Start], rng: np.random.Generator
) -> Start:
    """Start of a large window over the body: centred where the body fits, anywhere over the body where it does not.

    Centring gives the cells of the window much the same anatomy in every patient.

    Args:
        shape: of the recording.
        window: size of the window; may exceed the recording, which then lies inside it.
        box: first and past-the-last voxel of the body, see ``foreground_box``.
        rng: drawn from once an axis.
    """
    size, (first, stop) = np.asarray(window), box
    inside_low, inside_high = _bounds(shape, window)
    fits = stop - first <= size
    centred = np.clip((first + stop - size) // 2, inside_low, inside_high)
    anywhere = rng.integers(np.where(fits, 0, first), np.where(fits, 1, stop - size + 1))
    return np.where(fits, centred, anywhere)


def covered(reader: Reader, size: Sequence[int], size_mm: Sequence[float] | None) -> tuple[int, ...]:
    """Voxels of a recording that a crop covers: its size, or what an extent in mm comes to at the recording's spacing.

    Args:
        reader: of the recording.
        size: of the crop in voxels, an axis each.
        size_mm: its extent; None for ``size`` voxels of whatever spacing.

    Raises:
        CohortError: an extent in mm of a recording without voxel size.
    """
    if size_mm is None:
        return tuple(int(s) for s in size)
    if reader.spacing_mm is None:
        raise CohortError(
            f"recording {reader.recording} has no voxel size; give the size of crops in voxels, not in mm"
        )
    return tuple(max(1, round(mm / s)) for mm, s in zip(size_mm, reader.spacing_mm, strict=True))


def foreground_box(reader: Reader) -> tuple[Start, Start]:
    """First and past-the-last voxel of the body, from its sampled coordinates; of the recording if there are none."""
    points = reader.foreground()
    if len(points) == 0:
        return np.zeros(len(reader.shape), np.int64), np.asarray(reader.shape, np.int64)
    return points.min(0).astype(np.int64), points.max(0).astype(np.int64) + 1


def background_input(reader: Reader, fields: dict[str, Any]) -> NDArray[np.float32]:
    """(C,) network input of what lies outside the recording.

    Args:
        reader: of the recording.
        fields: its ``input_fields()``.
    """
    fill = float(reader.record["fill"])
    low, high = fields["input_range"]
    value: NDArray[np.float32] = np.clip(fill * fields["input_scale"] + fields["input_offset"], low, high)
    return value.astype(np.float32)


def read_crops(reader: Reader, starts: Sequence[Start], size: Sequence[int]) -> NDArray[Any]:
    """Crops at several places of one recording, (V, C, *size); one enclosing read where that is less to read."""
    first = np.min(starts, axis=0)
    extent = np.max(starts, axis=0) + np.asarray(size) - first
    if len(starts) == 1 or math.prod(extent.tolist()) > len(starts) * math.prod(size):
        return np.stack([reader.read(s.tolist(), size) for s in starts])
    block = reader.read(first.tolist(), extent.tolist())
    places = [
        (slice(None), *(slice(a, a + e) for a, e in zip((s - first).tolist(), size, strict=True))) for s in starts
    ]
    return np.stack([block[place] for place in places])


def _bounds(shape: Sequence[int], size: Sequence[int]) -> tuple[Start, Start]:
    """Smallest and largest start; both the centring one where the recording is shorter than the crop."""
    spare = np.asarray(shape, np.int64) - np.asarray(size, np.int64)
    centring = spare // 2
    return np.where(spare < 0, centring, 0), np.where(spare < 0, centring, spare)
