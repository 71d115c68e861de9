"""Which frames of a video a clip shows, where a short video repeats its last frame instead of being padded."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["repeated_frames", "start_count"]


def start_count(frames: int, length: int, step: float) -> int:
    """Frames at which a clip may start: the first ``F - T s + 1`` of a video, at least one (DISCOVR, NeurIPS 2025).

    Args:
        frames: F of the video, 1 or more.
        length: T of the clip.
        step: s, frames of the video from one frame of the clip to the next.

    >>> start_count(250, 64, 3), start_count(30, 16, 2)
    (59, 1)
    """
    return max(1, math.floor(frames - length * step + 1e-9) + 1)


def repeated_frames(frames: int, length: int, step: float, start: int) -> NDArray[np.int64]:
    """Frames of a clip, each ``step`` after the last; where the video ends, its last reachable frame again (DISCOVR).

    A frame f is followed by f + s as long as f + s < F - 1: as published, the very last frame is not stepped on. Steps
    that are no whole numbers, as of videos brought to a common rate, give the frame nearest to each time.

    Args:
        frames: F of the video, 1 or more.
        length: T of the clip.
        step: s, frames of the video from one frame of the clip to the next.
        start: first frame, below F.

    Returns:
        (T,) rising, from 0 to F - 1.

    >>> repeated_frames(10, 6, 4, 0).tolist(), repeated_frames(60, 4, 1.6, 5).tolist()
    ([0, 4, 8, 8, 8, 8], [5, 7, 8, 10])
    """
    reachable = max(0, math.floor((frames - 2 - start) / step + 1e-9))
    steps = np.minimum(np.arange(length), reachable)
    return start + np.floor(steps * step + 0.5 + 1e-9).astype(np.int64)
