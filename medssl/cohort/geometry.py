"""Where voxels lie: canonical orientation, spacing and grids, all as exact affine algebra on views of the array.

Arrays are (z, y, x) after :func:`canonical`: index 0 grows to Superior, 1 to Anterior, 2 to Right. Column ``i`` of an
affine is the step in RAS+ millimetres along spatial axis ``i`` of the array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["canonical", "default_affine", "regridded", "same_grid", "shifted", "spacing_of"]

Affine = NDArray[np.float64]

_WORLD = (2, 1, 0)  # array axis 0, 1, 2 follows world axis S, A, R


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size in millimetres along each spatial axis: the lengths of the affine's columns.

    >>> spacing_of(np.diag([2.0, 1.0, 0.5, 1.0]))
    (2.0, 1.0, 0.5)
    """
    z, y, x = (float(v) for v in np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0))
    return z, y, x


def default_affine(spacing_mm: Sequence[float]) -> Affine:
    """Affine of a (z, y, x) grid that already points to S, A, R, its first voxel in the origin."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, world in enumerate(_WORLD):
        affine[world, axis] = spacing_mm[axis]
    return affine


def canonical(data: NDArray[Any], affine: Affine) -> tuple[NDArray[Any], Affine]:
    """Turn the last three axes to the nearest (S, A, R) by transposing and flipping: a view, nothing is resampled.

    Args:
        data: (..., n0, n1, n2); leading axes are left alone.
        affine: (4, 4), columns in the order of the last three axes.

    Returns:
        The view and its affine: every voxel keeps its place in the world.

    Raises:
        ValueError: the affine is not finite or two axes are parallel, so that no orientation can be told.
    """
    from nibabel.orientations import io_orientation

    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError("the affine is singular or not finite")
    orientation = io_orientation(affine)
    worlds = [int(w) for w in orientation[:, 0]]
    order = [worlds.index(world) for world in _WORLD]
    lead = data.ndim - 3
    turned = data.transpose(*range(lead), *(lead + o for o in order))
    result = np.array(affine, dtype=np.float64)
    result[:3, :3] = affine[:3, order]
    for axis, source in enumerate(order):
        if orientation[source, 1] < 0:
            turned = np.flip(turned, lead + axis)
            result[:3, 3] += result[:3, axis] * (turned.shape[lead + axis] - 1)
            result[:3, axis] *= -1.0
    return turned, result + 0.0  # + 0.0 turns negative zeros into zeros


def shifted(affine: Affine, start: Sequence[float]) -> Affine:
    """Affine of the sub-grid that begins at voxel ``start`` (may be fractional)."""
    result = np.array(affine, dtype=np.float64)
    result[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=np.float64)
    return result


def regridded(affine: Affine, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[tuple[int, ...], Affine]:
    """Grid of exactly ``spacing_mm`` that shares its centre with the old one.

    The extent is kept to within half a voxel (numbers of voxels are whole); where it divides evenly, the outer faces
    of both grids coincide, which is the half-voxel shift that resampling on voxel centres gets wrong.

    Returns:
        The new shape and affine.
    """
    old = np.asarray(spacing_of(affine))
    ratio = np.asarray(spacing_mm, dtype=np.float64) / old
    count = np.asarray(shape)
    new = np.maximum(1, np.floor(count / ratio + 0.5).astype(int))  # not np.round: halves must not go to even
    start = (count - 1) / 2 - (new - 1) / 2 * ratio
    result = shifted(affine, start)
    result[:3, :3] = affine[:3, :3] * ratio
    return tuple(int(n) for n in new), result


def same_grid(first: Affine, second: Affine, shape: Sequence[int], *, tolerance: float = 0.1) -> bool:
    """Whether two affines put every voxel of ``shape`` in the same place, to ``tolerance`` of the smallest voxel.

    Compared at the corners, where an error of rotation or spacing is largest. Files written by two programs differ in
    the last digits, so equality of the matrices would refuse good pairs.
    """
    ends = np.asarray(shape, dtype=np.float64) - 1
    corners = np.stack(np.meshgrid(*[(0.0, e) for e in ends], indexing="ij"), axis=-1).reshape(-1, 3)
    gap = corners @ (first[:3, :3] - second[:3, :3]).T + (first[:3, 3] - second[:3, 3])
    return bool(np.linalg.norm(gap, axis=1).max() <= tolerance * min(spacing_of(first)))
