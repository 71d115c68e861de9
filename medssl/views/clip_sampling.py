"""Which frames of a video a clip shows: the arithmetic alone, without reading anything.

The rule is that of EchoNet-Dynamic (Ouyang et al., Nature 580:252, 2020): ``length`` frames, ``period`` apart; a video
that is too short for one clip is taken as padded to ``length * period`` frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["clip_frames", "clip_length", "clip_starts", "padded_frames"]


def clip_length(frames: int, length: int | None, period: int, *, most: int | None = None) -> int:
    """Frames of a clip.

    Args:
        frames: of the video.
        length: frames wanted; None for as many as the video has, ``period`` apart.
        period: frames of the video from one frame of a clip to the next; 1 takes each.
        most: highest length; None for no limit.

    Raises:
        ValueError: a number below 1.

    >>> clip_length(1002, None, 2, most=250), clip_length(40, 32, 2)
    (250, 32)
    """
    if min(frames, period, 1 if length is None else length, 1 if most is None else most) < 1:
        raise ValueError(f"frames {frames}, length {length}, period {period} and most {most} must be 1 or more")
    found = max(frames // period, 1) if length is None else length
    return found if most is None else min(found, most)


def padded_frames(frames: int, length: int, period: int) -> int:
    """Frames of a video after padding: at least ``length * period``.

    >>> padded_frames(40, 32, 2), padded_frames(200, 32, 2)
    (64, 200)
    """
    return max(frames, length * period)


def clip_starts(frames: int, length: int, period: int) -> NDArray[np.int64]:
    """Every frame at which a clip can start: ``0 ... F' - (length - 1) * period - 1``, F' frames after padding.

    A clip of a padded video shows frames from ``frames`` on, which do not exist; how they are filled (grey, repeated,
    reflected) is the caller's business.

    Args:
        frames: of the video, before padding.
        length: of a clip.
        period: frames of the video from one frame of a clip to the next.

    Returns:
        (S,) rising, S of 1 or more.

    Raises:
        ValueError: a number below 1.

    >>> clip_starts(40, 32, 2).tolist(), len(clip_starts(200, 32, 2))
    ([0, 1], 138)
    """
    length = clip_length(frames, length, period)
    return np.arange(padded_frames(frames, length, period) - (length - 1) * period, dtype=np.int64)


def clip_frames(starts: ArrayLike, length: int, period: int) -> NDArray[np.int64]:
    """Frame numbers of clips: (...,) starts → (..., length).

    >>> clip_frames([0, 5], 3, 2).tolist()
    [[0, 2, 4], [5, 7, 9]]
    """
    return np.asarray(starts, dtype=np.int64)[..., None] + np.arange(length, dtype=np.int64) * period
