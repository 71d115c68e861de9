"""Where the body is: a threshold, and a few thousand coordinates from which crops can be drawn at no cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["body_threshold", "bounding_box", "frame_coordinates", "label_coordinates", "sample_coordinates"]

Coordinates = NDArray[np.signedinteger[Any]]

MAX_COORDINATES = 4096


def body_threshold(values: NDArray[np.floating[Any]]) -> float:
    """Half of Otsu's threshold: air stays below it, dark tissue does not.

    Otsu's threshold separates bright from dark tissue where there is little air; half of it lies below tissue in
    either case.

    Args:
        values: network input, roughly in [0, 1].
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    counts, edges = np.histogram(values, bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts).astype(np.float64)
    above = below[-1] - below
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    between = np.where(np.isfinite(between), between, 0.0)
    # Any threshold in an empty gap between two peaks is as good: take its middle, not its lower end.
    otsu = float(centres[between >= between.max() * (1 - 1e-6)].mean())
    return low + (otsu - low) / 2


def sample_coordinates(mask: NDArray[np.bool_], *, seed: int = 0) -> Coordinates:
    """At most 4096 coordinates (K, ndim) of True voxels, spread evenly in raster order; the same ones every time."""
    return _coordinates(np.flatnonzero(mask), mask.shape, seed)


def frame_coordinates(mask: NDArray[np.bool_], frames: int, *, seed: int = 0) -> Coordinates:
    """What ``sample_coordinates`` gives of a picture (Y, X) that is the same in all frames, without a copy a frame."""
    where = np.flatnonzero(mask)
    chosen = _chosen(frames * where.size, seed)
    flat = chosen // max(where.size, 1) * mask.size + where[chosen % max(where.size, 1)]
    return _unravelled(flat, (frames, *mask.shape))


def label_coordinates(labels: NDArray[np.uint8]) -> dict[int, Coordinates]:
    """At most 4096 coordinates of every label value but 0."""
    where = np.flatnonzero(labels)
    if where.size == 0:
        return {}
    values = labels.reshape(-1)[where]
    order = np.argsort(values, kind="stable")  # one sort instead of one scan of the volume a label
    present, first = np.unique(values[order], return_index=True)
    parts = np.split(where[order], first[1:])
    return {int(v): _coordinates(p, labels.shape, int(v)) for v, p in zip(present, parts, strict=True)}


def _coordinates(where: NDArray[np.intp], shape: Sequence[int], seed: int) -> Coordinates:
    if where.size > MAX_COORDINATES:
        where = where[_chosen(where.size, seed)]
    return _unravelled(where, tuple(shape))


def _unravelled(where: NDArray[np.intp], shape: tuple[int, ...]) -> Coordinates:
    long = max(shape) > np.iinfo(np.int16).max  # ten minutes of video have more frames than that
    return np.stack(np.unravel_index(where, shape), axis=-1).astype(np.int32 if long else np.int16)


def _chosen(count: int, seed: int) -> NDArray[np.intp]:
    """Which of ``count`` to take: all, or one from each of 4096 stretches: even like a grid, without a fixed stride."""
    if count <= MAX_COORDINATES:
        return np.arange(count)
    bounds = np.arange(MAX_COORDINATES + 1) * count // MAX_COORDINATES
    jitter = np.random.default_rng(seed).random(MAX_COORDINATES)
    return np.asarray(bounds[:-1] + (jitter * np.diff(bounds)).astype(np.intp))


def bounding_box(mask: NDArray[np.bool_], *, margin: int = 0) -> tuple[slice, ...] | None:
    """Smallest box around the True voxels, widened by ``margin`` inside the array; None when all are False."""
    box = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if line.size == 0:
            return None
        box.append(slice(max(0, int(line[0]) - margin), min(mask.shape[axis], int(line[-1]) + 1 + margin)))
    return tuple(box)
