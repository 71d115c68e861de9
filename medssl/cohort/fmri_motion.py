"""Head motion of an fMRI run: framewise displacement, and which volumes it spoils. Pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["HEAD_RADIUS_MM", "censored", "expanded", "framewise_displacement", "long_enough"]

HEAD_RADIUS_MM = 50.0


def framewise_displacement(motion: ArrayLike) -> NDArray[np.float64]:
    """Power et al., NeuroImage 59:2142, 2012: sum of absolute changes, rotations as arcs on a sphere of 50 mm.

    Args:
        motion: (T, 6) x, y, z in mm, then three rotations in radians.

    Returns:
        (T,) mm; 0 for the first volume.

    >>> framewise_displacement([[0, 0, 0, 0, 0, 0], [0.1, 0, 0, 0.01, 0, 0]]).round(9)
    array([0. , 0.6])
    """
    change = np.abs(np.diff(np.asarray(motion, dtype=np.float64), axis=0, prepend=np.asarray(motion)[:1]))
    return np.asarray(change[:, :3].sum(axis=1) + HEAD_RADIUS_MM * change[:, 3:].sum(axis=1))


def expanded(values: ArrayLike) -> NDArray[np.float64]:
    """(T, K) → (T, 4 K): the values, their backward differences (0 at first), and the squares of both.

    With six motion parameters these are the 24 regressors of Satterthwaite et al., NeuroImage 64:240, 2013.
    """
    x = np.asarray(values, dtype=np.float64)
    change = np.diff(x, axis=0, prepend=x[:1])
    return np.concatenate([x, change, x**2, change**2], axis=1)


def censored(
    displacement: NDArray[np.float64] | None,
    dvars: NDArray[np.float64] | None,
    *,
    max_fd_mm: float | None,
    max_dvars: float | None,
) -> NDArray[np.bool_]:
    """(T,) volumes beyond either limit; a measure that is not there (None) spoils none. At least one must be there."""
    there = displacement if displacement is not None else dvars
    assert there is not None
    bad = np.zeros(len(there), dtype=bool)
    if displacement is not None and max_fd_mm is not None:
        bad |= displacement > max_fd_mm
    if dvars is not None and max_dvars is not None:
        bad |= dvars > max_dvars
    return bad


def long_enough(kept: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """Volumes kept, less those in stretches of fewer than ``least`` between (or before, or after) censored ones.

    >>> long_enough(np.array([True, False, True, True, True]), 2).tolist()
    [False, False, True, True, True]
    """
    if kept.all() or least <= 1:
        return kept
    edges = np.flatnonzero(np.diff(np.r_[False, kept, False].astype(np.int8)))
    result = kept.copy()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start < least:
            result[start:stop] = False
    return result
