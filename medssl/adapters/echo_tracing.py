"""Tracings of the left ventricle as EchoNet-Dynamic stores them: a long axis and chords across it.

Mask and volume follow Ouyang et al., Nature 580:252, 2020 (code MIT); the volume is the method of discs in a single
plane (Lang et al., J Am Soc Echocardiogr 28:1, 2015).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["disc_volume", "ejection_fraction", "polygon_mask", "trace_mask"]


def polygon_mask(rows: ArrayLike, columns: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside a polygon or on its edge.

    Args:
        rows, columns: (P,) corners in order; the last is joined to the first. Whole or fractional.
        shape: (Y, X); what lies beyond is cut off.

    Returns:
        (Y, X), even-odd rule where the polygon crosses itself.
    """
    r, c = (np.asarray(v, dtype=np.float64) for v in (rows, columns))
    mask = np.zeros(shape, dtype=bool)
    if r.size == 0:
        return mask
    low = np.maximum([np.ceil(r.min()), np.ceil(c.min())], 0).astype(int)
    high = np.minimum([np.floor(r.max()), np.floor(c.max())], np.asarray(shape) - 1).astype(int)
    if (high < low).any():
        return mask
    y, x = np.ogrid[low[0] : high[0] + 1, low[1] : high[1] + 1]
    inside = np.zeros((y.size, x.size), dtype=bool)
    edge = np.zeros_like(inside)
    for r0, c0, r1, c1 in zip(r, c, np.roll(r, -1), np.roll(c, -1), strict=True):
        across = (x - c0) * (r1 - r0) - (y - r0) * (c1 - c0)  # 0 on the line, its sign tells the side
        if r0 != r1:
            spans = (r0 <= y) != (r1 <= y)
            inside ^= spans & ((across < 0) == (r1 > r0))
        on_rows = (y >= min(r0, r1)) & (y <= max(r0, r1))
        on_columns = (x >= min(c0, c1)) & (x <= max(c0, c1))
        edge |= (np.abs(across) < 1e-9) & on_rows & on_columns
    mask[low[0] : high[0] + 1, low[1] : high[1] + 1] = inside | edge
    return mask


def trace_mask(rows: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The traced cavity: the polygon through the ends of all chords, corners rounded to pixels.

    Args:
        rows: (1 + n, 4) X1, Y1, X2, Y2: the long axis, then n chords from apex to base.
        shape: (Y, X) of the frame.

    Raises:
        ValueError: less than two chords.
    """
    x1, y1, x2, y2 = _chords(rows).T
    # np.rint as the published loader, halves to even
    x, y = (np.rint(np.concatenate([a, b[::-1]])) for a, b in ((x1, x2), (y1, y2)))
    return polygon_mask(y, x, shape)


def disc_volume(rows: ArrayLike, spacing: float = 1.0) -> float:
    r"""Volume by discs from one plane, :math:`\frac{\pi}{4} \sum_i d_i^2 \, L / n`.

    Args:
        rows: (1 + n, 4) X1, Y1, X2, Y2: the long axis (length L), then n chords (lengths d).
        spacing: of a pixel, e.g. in centimetres for millilitres; 1 gives pixels³.

    Raises:
        ValueError: less than two chords.
    """
    chords = _chords(rows)
    table = np.asarray(rows, dtype=np.float64)
    length = float(np.hypot(*(table[0, 2:] - table[0, :2])))
    diameters = np.hypot(chords[:, 2] - chords[:, 0], chords[:, 3] - chords[:, 1])
    return float(np.pi / 4 * np.square(diameters).sum() * length / len(chords)) * spacing**3


def ejection_fraction(first_volume: float, second_volume: float) -> float:
    """Ejection fraction in per cent, the larger volume taken as end-diastolic.

    Raises:
        ValueError: neither volume is above 0.

    >>> ejection_fraction(60.0, 120.0)
    50.0
    """
    edv, esv = max(first_volume, second_volume), min(first_volume, second_volume)
    if not edv > 0:
        raise ValueError(f"volumes {first_volume:g} and {second_volume:g}: one must be above 0")
    return (edv - esv) / edv * 100


def _chords(rows: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 4 or len(table) < 3:
        raise ValueError(f"a tracing is a long axis and two chords or more, (3 or more, 4); its shape is {table.shape}")
    return table[1:]
