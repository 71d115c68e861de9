"""Frames of video: which ones to take for another rate, and their size. Pure arithmetic on arrays.

Without torch, whose antialiased resizing differs by a grey level in few pixels: preparing does not load it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Fit",
    "FrameGrid",
    "fitted",
    "nearest_frames",
    "placed",
    "resize_frames",
    "resize_labels",
    "resize_weights",
]

_BLOCK = 32  # frames at a time: float copies stay small


def nearest_frames(
    times: NDArray[np.float64], rate_hz: float, *, wanted: ArrayLike = ()
) -> tuple[NDArray[np.int64], list[int]]:
    """Frames for a regular rate: to every tick of the new clock the frame nearest in time. Nothing is blended, since
    the mean of two speckle patterns is the speckle of neither.

    Args:
        times: (T,) seconds, rising; the first tick is at the first frame.
        rate_hz: of the result.
        wanted: frames that must be among those taken, at the tick nearest to them (frames that somebody annotated).

    Returns:
        (N,) frame of every tick, and the wanted frames that could not be kept, because another wanted one had the same
        tick.

    >>> nearest_frames(np.arange(6) / 50, 25.0)[0].tolist()
    [0, 2, 4]
    """
    ticks = times[0] + np.arange(int(np.floor((times[-1] - times[0]) * rate_hz + 1e-6)) + 1) / rate_hz
    after = np.clip(np.searchsorted(times, ticks), 1, max(len(times) - 1, 1)) if len(times) > 1 else np.zeros(1, int)
    before = np.maximum(after - 1, 0)
    taken = np.where(ticks - times[before] <= times[after] - ticks + 1e-9, before, after).astype(np.int64)
    lost: list[int] = []
    held: dict[int, int] = {}
    for frame in sorted({int(f) for f in np.atleast_1d(np.asarray(wanted, dtype=np.int64))}):
        tick = int(np.abs(ticks - times[frame]).argmin())
        if held.setdefault(tick, frame) == frame:
            taken[tick] = frame
        else:
            lost.append(frame)
    return taken, lost


class Fit(NamedTuple):
    """How a picture comes to lie in another.

    Attributes:
        size: (Y, X) to which it is resized.
        offset: (Y, X) of its first pixel in the new picture.
        canvas: (Y, X) of the new picture.
    """

    size: tuple[int, int]
    offset: tuple[int, int]
    canvas: tuple[int, int]


class FrameGrid(NamedTuple):
    """Where the frames of a prepared clip come from, so that what is found in them can be carried back.

    Attributes:
        source: (T, Y, X) of the recording.
        kept: first frame of the recording that was kept, and the one after the last.
        shown: (N,) frame of the recording that each prepared frame shows.
        box: rows and columns of the recording that were kept.
        fit: how these lie in a prepared frame.
    """

    source: tuple[int, int, int]
    kept: tuple[int, int]
    shown: NDArray[np.int64]
    box: tuple[slice, slice]
    fit: Fit

    def prepared_frames(self) -> NDArray[np.int64]:
        """(T,) the prepared frame nearest to each frame of the recording; -1 for ends that were left out."""
        own = np.arange(*self.kept)
        order = np.argsort(self.shown, kind="stable")
        rising = self.shown[order]
        after = np.clip(np.searchsorted(rising, own), 1, len(rising) - 1) if len(rising) > 1 else np.zeros_like(own)
        before = np.maximum(after - 1, 0)
        nearest = np.where(own - rising[before] <= rising[after] - own, before, after)
        found = np.full(self.source[0], -1, dtype=np.int64)
        found[slice(*self.kept)] = order[nearest]
        return found

    def labels(self, scores: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Scores of K classes in a prepared frame (K, H, W) → classes in a frame of the recording (Y, X).

        Interpolated linearly, then the largest wins; what was cut away is class 0.
        """
        (height, width), (y, x) = self.fit.size, self.fit.offset
        rows, columns = (s.stop - s.start for s in self.box)
        inside = scores[:, y : y + height, x : x + width].astype(np.float32)
        found = resize_weights(height, rows) @ inside @ resize_weights(width, columns).T
        whole = np.zeros(self.source[1:], dtype=np.uint8)
        whole[self.box] = found.argmax(0)
        return whole


def fitted(shape: Sequence[int], canvas: Sequence[int], *, keep_aspect: bool = True) -> Fit:
    """The largest size of a picture in a canvas, in its middle.

    >>> fitted((600, 800), (112, 112))
    Fit(size=(84, 112), offset=(14, 0), canvas=(112, 112))
    """
    height, width = (int(n) for n in canvas)
    if not keep_aspect:
        return Fit((height, width), (0, 0), (height, width))
    scale = min(height / shape[0], width / shape[1])
    size = max(1, min(height, round(shape[0] * scale))), max(1, min(width, round(shape[1] * scale)))
    return Fit(size, ((height - size[0]) // 2, (width - size[1]) // 2), (height, width))


def placed(frames: NDArray[np.uint8], fit: Fit) -> NDArray[np.uint8]:
    """(..., *fit.size) → (..., *fit.canvas), zeros around."""
    if fit.size == fit.canvas:
        return frames
    canvas = np.zeros((*frames.shape[:-2], *fit.canvas), dtype=np.uint8)
    y, x = fit.offset
    canvas[..., y : y + fit.size[0], x : x + fit.size[1]] = frames
    return canvas


def resize_weights(old: int, new: int) -> NDArray[np.float32]:
    """Linear interpolation as a matrix (new, old), widened to the new pixel where the picture shrinks (antialiased).

    Pixel areas coincide: the first edge of both is the same, and the last. Rows add up to 1.

    >>> resize_weights(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    ratio = old / new
    centres = (np.arange(new) + 0.5) * ratio - 0.5
    distance = np.abs(np.arange(old)[None] - centres[:, None]) / max(ratio, 1.0)
    if ratio < 1:  # beyond the outermost centres the edge value is held
        distance = np.abs(np.arange(old)[None] - np.clip(centres, 0, old - 1)[:, None])
    weights = np.maximum(1 - distance, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def resize_frames(frames: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Resize every frame, antialiased linear.

    Args:
        frames: (T, Y, X).
        size: (Y', X').

    Returns:
        (T, Y', X'), rounded; the same array where nothing changes.
    """
    if tuple(frames.shape[1:]) == tuple(size):
        return frames
    down, across = resize_weights(frames.shape[1], size[0]), resize_weights(frames.shape[2], size[1]).T
    result = np.empty((len(frames), *size), dtype=np.uint8)
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK].astype(np.float32)
        result[start : start + _BLOCK] = np.clip(np.rint(down @ block @ across), 0, 255)
    return result


def resize_labels(labels: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """Resize label maps (T, Y, X): the label with the largest share of the new pixel wins; none is invented.

    Frames without any label cost nothing, since often only two of a clip are annotated.
    """
    result = np.zeros((len(labels), *size), dtype=np.uint8)
    annotated = np.flatnonzero(labels.any(axis=(1, 2)))
    if tuple(labels.shape[1:]) == tuple(size) or not annotated.size:
        return labels if tuple(labels.shape[1:]) == tuple(size) else result
    down, across = resize_weights(labels.shape[1], size[0]), resize_weights(labels.shape[2], size[1]).T
    for frame in annotated:
        values = np.unique(labels[frame])
        shares = np.stack([down @ (labels[frame] == v).astype(np.float32) @ across for v in values])
        result[frame] = values[shares.argmax(axis=0)]
    return result
