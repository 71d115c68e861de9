"""A whole recording as one small array: what an encoder sees with ``--view whole``, and the pixels as a floor.

Averaging over equal parts (not picking points) keeps what is between the points of the small grid, and needs one slab
of the recording in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medssl.training.windows import Recordings

__all__ = ["PIXEL_GRID", "pixel_length", "pixels", "whole_recording"]

SLAB = 16 * 2**20  # values of a recording in memory at a time
PIXEL_GRID: dict[str, tuple[int, ...]] = {"volume": (4, 16, 16), "video": (4, 16, 16), "signal": (256,)}
"""Grid of ``pixels`` by kind; the same for volumes and video, so that they can be compared."""


def whole_recording(recordings: Recordings, row: int, size: Sequence[int], *, slab: int = SLAB) -> NDArray[np.float32]:
    """A recording at another size, from its first to its last sample along every axis.

    Along an axis that is longer than wanted a value is the mean over its part of the recording; parts are those of
    adaptive average pooling: from ⌊i·n/m⌋ to ⌈(i+1)·n/m⌉. A shorter axis is interpolated linearly.

    Args:
        recordings: how it is read.
        row: of the manifest.
        size: wanted, one number an axis.
        slab: values to read at once, as long as one part is not more.

    Returns:
        (C, *size) network input.
    """
    import torch
    from torch.nn import functional

    shape = recordings.shape(row)
    small = [min(n, s) for n, s in zip(shape, size, strict=True)]
    first, last = _parts(shape[0], small[0])
    at_once = max(1, slab // max(1, math.prod(shape[1:])))
    planes: list[NDArray[np.float64]] = []
    i = 0
    while i < len(first):
        stop = max(i + 1, int(np.searchsorted(last, first[i] + at_once, side="right")))
        begin, end = int(first[i]), int(last[stop - 1])
        stored = recordings.read(row, [begin, *(0 for _ in shape[1:])], [end - begin, *shape[1:]])
        x = recordings.network_input(row, stored)
        if len(shape) == 3:
            x = functional.adaptive_avg_pool2d(torch.from_numpy(x), (small[1], small[2])).numpy()
        total = np.concatenate([np.zeros_like(x[:, :1], dtype=np.float64), x.cumsum(1, dtype=np.float64)], axis=1)
        a, b = first[i:stop] - begin, last[i:stop] - begin
        planes.append((total[:, b] - total[:, a]) / (b - a).reshape(1, -1, *(1,) * (x.ndim - 2)))
        i = stop
    out = torch.from_numpy(np.concatenate(planes, axis=1)).float()
    if tuple(small) != tuple(size):
        mode = "trilinear" if len(shape) == 3 else "linear"
        out = functional.interpolate(out[None], size=tuple(size), mode=mode, align_corners=False)[0]
    found: NDArray[np.float32] = out.numpy()
    return found


def _parts(length: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and past-last sample of each of ``count`` parts."""
    i = np.arange(count)
    return i * length // count, -(-(i + 1) * length // count)


def pixels(recordings: Recordings, row: int) -> NDArray[np.float32]:
    """The recording itself as an embedding: what retrieval reaches without any network.

    The whole recording is averaged onto ``PIXEL_GRID`` and standardised, so that a cosine is a correlation. Channels of
    images are averaged; those of signals stand one after another, each standardised by itself. What is constant is 0.

    Returns:
        (``pixel_length``,) values.
    """
    kind = recordings.cohort.info.kind
    x = whole_recording(recordings, row, PIXEL_GRID[kind]).astype(np.float64)
    flat = x.reshape(len(x), -1) if kind == "signal" else x.mean(0).reshape(1, -1)
    flat = flat - flat.mean(1, keepdims=True)
    spread = flat.std(1, keepdims=True)
    standard: NDArray[np.float32] = (flat / np.where(spread > 1e-9, spread, np.inf)).ravel().astype(np.float32)
    return standard


def pixel_length(kind: str, channels: int) -> int:
    """Length of what ``pixels`` returns."""
    return math.prod(PIXEL_GRID[kind]) * (channels if kind == "signal" else 1)
