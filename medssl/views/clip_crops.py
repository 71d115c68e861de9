"""Which part of its frames a clip shows, the same in all of them: boxes (y, x, height, width)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

__all__ = ["Crop", "crop_box", "crop_offsets", "crop_sizes", "resized_frames"]

Crop = Literal["whole", "multi_scale", "resized"]
Box = NDArray[np.int64]

SCALES = (1.0, 0.875, 0.75, 0.66)
"""Of the shorter edge of a frame, of multi-scale crops."""

NEAR = 3
"""Pixels: an edge that differs by less from the wanted one is taken as that, so that nothing is resized."""


def crop_box(
    frame: Sequence[int], size: Sequence[int], how: Crop, scale: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box of a frame.

    ``whole``: the largest with the wanted ratio of edges, in the middle. ``multi_scale``: edges of 1, 0.875, 0.75 or
    0.66 of the shorter edge of the frame, height and width at most one scale apart, at one of 13 places (VideoMAE,
    NeurIPS 2022; DISCOVR, NeurIPS 2025). ``resized``: a random share of the largest box of that ratio, anywhere.

    Args:
        frame: (height, width) of the video.
        size: (height, width) that the box will be resized to.
        how: see above.
        scale: smallest and largest share of the area, for ``resized``.
        rng: not drawn from for ``whole``.

    Returns:
        (4,) y, x, height, width.
    """
    if how == "multi_scale":
        heights, widths = (crop_sizes(frame, wanted) for wanted in size)
        pairs = [(i, j) for i in range(len(SCALES)) for j in range(len(SCALES)) if abs(i - j) <= 1]
        i, j = pairs[rng.integers(len(pairs))]
        height, width = min(heights[i], frame[0]), min(widths[j], frame[1])
        x, y = crop_offsets(frame, (height, width))[rng.integers(13)]
        return np.array([y, x, height, width], np.int64)
    ratio = min(f / s for f, s in zip(frame, size, strict=True))
    if how == "whole":
        height, width = (max(1, round(s * ratio)) for s in size)
        return np.array([(frame[0] - height) // 2, (frame[1] - width) // 2, height, width], np.int64)
    edge = ratio * float(np.sqrt(rng.uniform(*scale)))
    height, width = (min(f, max(1, round(s * edge))) for f, s in zip(frame, size, strict=True))
    return np.array([rng.integers(frame[0] - height + 1), rng.integers(frame[1] - width + 1), height, width], np.int64)


def crop_sizes(frame: Sequence[int], wanted: int) -> list[int]:
    """Edges of multi-scale crops, one a scale.

    >>> crop_sizes((128, 160), 112)
    [128, 112, 96, 84]
    """
    edges = [int(min(frame) * scale) for scale in SCALES]
    return [wanted if abs(edge - wanted) < NEAR else edge for edge in edges]


def crop_offsets(frame: Sequence[int], crop: Sequence[int]) -> list[tuple[int, int]]:
    """The 13 places (x, y) of multi-scale crops: corners, middle, middles of edges, and quarter points.

    Args:
        frame: (height, width).
        crop: (height, width), no larger.
    """
    down, right = ((f - c) // 4 for f, c in zip(frame, crop, strict=True))
    steps = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
    return [(i * right, j * down) for i, j in steps]


def resized_frames(frames: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """Every frame bilinearly at another size, smoothed where it shrinks; in the stored integer type.

    Args:
        frames: (C, T, height, width) integers.
        size: (height, width).
    """
    old, new = frames.shape[2:], tuple(size)
    if old == new:
        return frames
    x = torch.from_numpy(np.ascontiguousarray(frames)).float()
    shrinks = any(n < o for o, n in zip(old, new, strict=True))  # smoothing changes nothing else, and takes its time
    resized = functional.interpolate(x, size=new, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized.round_().numpy().astype(frames.dtype)
