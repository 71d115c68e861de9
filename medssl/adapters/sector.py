"""Where in a clip there is ultrasound, and what is burnt in: found from how pixels behave over time.

Tissue flickers, everything else stands still: the largest group of moving pixels is the sector. Its convex hull, cut to
a fan where the edges are those of one, is kept. Text over the sector stands still and is white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Moments",
    "convex_mask",
    "fan_mask",
    "find_sector",
    "motion",
    "still_text",
    "temporal_moments",
    "wedge_mask",
]

MOVING = 2.0  # standard deviation over time, grey levels
HARDLY_MOVING, DIM = 0.75, 8.0  # of tissue that compression has smoothed; less than that is background
DENSE = 0.75  # share of such pixels in a neighbourhood of tissue; strokes of text never fill one
STILL, WHITE = 3.0, 240.0  # of burnt-in marks: what moves below compression leaves a trace of itself in them
NEARLY_STILL, NEARLY_WHITE = 8.0, 200.0  # of their edges
DARKER = 220.0  # than this is what surrounds them
CLOSING = 7

_BLOCK = 32  # frames at a time: float copies stay small


@dataclass(frozen=True)
class Moments:
    """What every pixel does over time.

    Attributes:
        mean, std, most: (Y, X) float32; mean, standard deviation and maximum of its grey levels.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    most: NDArray[np.float32]


def temporal_moments(frames: NDArray[np.uint8]) -> Moments:
    """Mean, standard deviation and maximum over time.

    Args:
        frames: (T, Y, X).
    """
    total = np.zeros(frames.shape[1:], dtype=np.float64)
    squares = np.zeros_like(total)
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK].astype(np.float32)
        total += block.sum(axis=0)
        squares += np.square(block).sum(axis=0)
    mean = total / len(frames)
    std = np.sqrt(np.maximum(squares / len(frames) - mean**2, 0))
    return Moments(mean.astype(np.float32), std.astype(np.float32), frames.max(axis=0).astype(np.float32))


def motion(frames: NDArray[np.uint8], keep: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean absolute difference of every frame to the one before, in grey levels: (T - 1,).

    Args:
        frames: (T, Y, X).
        keep: (Y, X) pixels that count.
    """
    rows, columns = np.flatnonzero(keep.any(axis=1)), np.flatnonzero(keep.any(axis=0))
    if not rows.size:
        return np.zeros(max(len(frames) - 1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    weights, count = keep[box].ravel(), np.count_nonzero(keep)
    differences = np.empty(max(len(frames) - 1, 0))
    for t in range(len(differences)):
        first, second = frames[t][box].astype(np.int16), frames[t + 1][box]
        differences[t] = np.abs(first - second).ravel()[weights].sum() / count
    return differences


def find_sector(moments: Moments, *, closing: int = CLOSING) -> NDArray[np.bool_]:
    """The part of the picture that shows ultrasound.

    Moving pixels, and those that hardly move where nearly all around do, are joined over gaps of ``closing``. The
    largest group is taken, and its convex hull, cut to a fan where the hull's straight edges meet above it. Rows at
    the top and bottom that do not move are outside by construction.

    Args:
        moments: of a clip.
        closing: side of the structuring element in pixels.

    Returns:
        (Y, X); nowhere True where nothing moves.
    """
    from scipy import ndimage

    moving = moments.std > MOVING
    if not moving.any():
        return np.zeros(moving.shape, dtype=bool)
    # lone flicker of compression around text must not join it to the sector
    firm = ndimage.binary_opening(moving, np.ones((2, 2), dtype=bool)) if moving.mean() > 0.02 else moving
    faint = (moments.std > HARDLY_MOVING) & (moments.mean > DIM)
    dense = ndimage.uniform_filter(faint.astype(np.float32), 9, mode="nearest") > DENSE
    padded = np.pad((firm if firm.any() else moving) | (faint & dense), closing)
    closed = ndimage.binary_closing(padded, np.ones((closing, closing), dtype=bool))
    opened = ndimage.binary_opening(closed, np.ones((closing, closing), dtype=bool))
    labels, count = ndimage.label(opened if opened.any() else closed)
    if not count:
        return np.zeros(moving.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    group = (labels == int(sizes.argmax()))[closing:-closing, closing:-closing]
    hull = convex_mask(group)
    fan = fan_mask(hull)
    return hull if fan is None else hull & fan


def convex_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The convex hull of the True pixels, pixel centres inside or on its edge: (Y, X) → (Y, X)."""
    from scipy.spatial import ConvexHull, QhullError

    filled = mask.any(axis=1)
    rows = np.flatnonzero(filled)
    if rows.size < 2:
        return mask.copy()
    first = mask.argmax(axis=1)[rows]
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)[rows]
    points = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
    try:
        equations = ConvexHull(points).equations
    except QhullError:  # all in one line
        return mask.copy()
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    inside = np.ones(mask.shape, dtype=bool)
    for a, b, c in equations:
        inside &= a * y + b * x + c <= 1e-6
    return inside


def fan_mask(hull: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The fan whose straight edges and arc fit a sector; None where it is none (linear probe, cropped picture).

    Its edges are fitted to the left and the right end of the rows above the widest one, and meet in the apex; its
    radius is that of the furthest pixels.

    Args:
        hull: (Y, X) the sector as found.

    Returns:
        (Y, X), when it covers the hull to 97 % and is covered by it to 90 %.
    """
    rows = np.flatnonzero(hull.any(axis=1))
    if rows.size < 16:
        return None
    first = hull.argmax(axis=1)[rows].astype(np.float64)
    last = (hull.shape[1] - 1 - hull[:, ::-1].argmax(axis=1)[rows]).astype(np.float64)
    widest = int((last - first).argmax())
    use = slice(widest // 10, max(int(widest * 0.9), widest // 10 + 2))
    if len(rows[use]) < 8:
        return None
    (left, left0), (right, right0) = (np.polyfit(rows[use], ends[use], 1) for ends in (first, last))
    if right - left < 0.2:  # edges that hardly part: no fan
        return None
    apex_y = (left0 - right0) / (right - left)
    apex_x = left * apex_y + left0
    if apex_y > rows[0] + 0.1 * rows.size:
        return None
    y, x = np.ogrid[: hull.shape[0], : hull.shape[1]]
    radius = np.hypot(y - apex_y, x - apex_x)
    reach = float(np.percentile(radius[hull], 99.9)) + 1.0
    between = (x >= left * y + left0 - 1.0) & (x <= right * y + right0 + 1.0) & (y >= apex_y)
    fan = np.asarray(between & (radius <= reach))
    both = np.count_nonzero(fan & hull)
    return fan if both >= 0.97 * np.count_nonzero(hull) and both >= 0.90 * np.count_nonzero(fan) else None


def still_text(moments: Moments, sector: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Boxes around white marks of the size of characters that stand still over the sector.

    Whole boxes, not glyphs: a black glyph on speckle can be read as well as a white one.

    Args:
        moments: of a clip.
        sector: (Y, X).

    Returns:
        (Y, X) what to blank, inside the sector; and how many marks were found.
    """
    from scipy import ndimage

    none = np.zeros(sector.shape, dtype=bool)
    white = (moments.std < STILL) & (moments.mean >= WHITE) & sector
    if not white.any():
        return none, 0
    edges = white | ((moments.std < NEARLY_STILL) & (moments.mean >= NEARLY_WHITE) & sector)
    height, width = sector.shape
    tall, wide = max(12, height // 12), max(12, width // 8)
    labels, count = ndimage.label(edges, np.ones((3, 3), dtype=int))
    certain = np.bincount(labels[white], minlength=count + 1) >= 2
    marks = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        small = box[0].stop - box[0].start <= tall and box[1].stop - box[1].start <= wide
        if certain[number] and small and _stands_out(labels, number, box, white, moments.mean):
            marks.append(box)
    margin = max(1, height // 112)
    for rows, columns in marks:
        none[
            max(rows.start - margin, 0) : rows.stop + margin, max(columns.start - margin, 0) : columns.stop + margin
        ] = True
    return none & sector, len(marks)


def _stands_out(
    labels: NDArray[np.integer[Any]],
    number: int,
    box: tuple[slice, ...],
    white: NDArray[np.bool_],
    mean: NDArray[np.float32],
) -> bool:
    """Whether a mark ends sharply, as characters do, and does not fade into bright tissue, as saturated tissue does."""
    from scipy import ndimage

    around = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
    mark = (labels[around] == number) & white[around]
    ring = ndimage.binary_dilation(mark, np.ones((3, 3), dtype=bool)) & ~mark
    return bool(np.median(mean[around][ring]) < DARKER)


def wedge_mask(size: int) -> NDArray[np.bool_]:
    """The fixed wedge to which EchoNet-Dynamic's converter cuts a square picture: (size, size), True is kept.

    Pixels with ``column + row > size // 2 + size // 10`` and ``column - row < size // 2 + size // 10``.

    >>> wedge_mask(20)[0, :2].tolist(), wedge_mask(20)[19, 9:11].tolist()
    ([False, False], [True, True])
    """
    rows, columns = np.ogrid[:size, :size]
    edge = size // 2 + size // 10
    return np.asarray((columns + rows > edge) & (columns - rows < edge))
