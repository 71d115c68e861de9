"""Which volumes look alike, whatever their size, intensity scale and mirroring.

A volume is averaged over a 16 x 16 x 16 grid, z-scored and turned into cosine coefficients. Mirroring an axis only
changes the sign of its odd coefficients. So the cosine of their magnitudes is never below that of the best of the eight
mirrorings: it finds candidates in one matrix product, and the signs then tell which of them are true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.progress import track

if TYPE_CHECKING:
    from medssl.cohort import Cohort

__all__ = ["COARSE", "FINE", "mirrored_cosines", "shrink", "signature", "signatures"]

COARSE, FINE = 16, 48  # grids of the search and of the second look


def signatures(cohort: Cohort, rows: NDArray[np.int64], edge: int) -> NDArray[np.float16]:
    """Signatures of manifest rows (n, edge³), one volume in memory at a time; zeros where all is one value."""
    found = np.zeros((len(rows), edge**3), dtype=np.float16)
    with track(len(rows), "comparing volumes", unit="recordings") as progress:
        for i, row in enumerate(rows):
            found[i] = signature(cohort.reader(int(row)).read_all(), edge)
            progress.advance()
    return found


def signature(image: NDArray[Any], edge: int = COARSE) -> NDArray[np.float32]:
    """Cosine coefficients of a volume.

    Args:
        image: (C, Z, Y, X). Channels are z-scored, then averaged.
        edge: points of the grid along each axis.

    Returns:
        (edge³,) of unit length; zeros for a volume with one value only.
    """
    from scipy.fft import dctn

    small = np.stack([shrink(channel, edge) for channel in image])
    size = np.abs(small).max((1, 2, 3), keepdims=True)
    small -= small.mean((1, 2, 3), keepdims=True)
    spread = small.std((1, 2, 3), keepdims=True)
    spread = np.where(spread > 1e-5 * size, spread, 0)  # what remains of one value is rounding
    mean = np.where(spread > 0, small / np.where(spread > 0, spread, 1), 0).mean(0)
    coefficients: NDArray[np.float32] = dctn(mean, norm="ortho").astype(np.float32).ravel()
    length = float(np.linalg.norm(coefficients))
    coefficients /= max(length, 1e-6)
    if length <= 1e-6:
        return np.zeros(edge**3, dtype=np.float32)
    return coefficients


def shrink(volume: NDArray[Any], edge: int) -> NDArray[np.float32]:
    """Mean over each cell of a grid (edge, edge, edge) laid over a volume (Z, Y, X); mirroring commutes with it."""
    small: NDArray[np.float32] = volume.astype(np.float32)
    for axis in range(3):
        weights = _overlap(small.shape[axis], edge)
        small = np.moveaxis(np.tensordot(weights, small, axes=(1, axis)), 0, axis)
    return np.asarray(small, dtype=np.float32)


def _overlap(n: int, edge: int) -> NDArray[np.float32]:
    """(edge, n) share of each of n voxels in each of ``edge`` cells of equal length; rows sum to 1."""
    step = n / edge
    starts = np.arange(edge)[:, None] * step
    voxels = np.arange(n)[None]
    shared = np.minimum(starts + step, voxels + 1) - np.maximum(starts, voxels)
    return np.asarray(np.clip(shared, 0, None) / step, dtype=np.float32)


def mirrored_cosines(first: NDArray[np.floating], second: NDArray[np.floating], edge: int) -> NDArray[np.float32]:
    """Highest cosine of each pair over the eight mirrorings of the second volume.

    Args:
        first, second: (P, edge³) signatures, pair by pair; ``edge`` is even.
        edge: of their grid.
    """
    half = edge // 2
    best = np.empty(len(first), dtype=np.float32)
    chunk = max(1, 2**22 // edge**3)
    signs = np.array([[1, 1], [1, -1]], dtype=np.float32)
    for start in range(0, len(first), chunk):
        part = slice(start, start + chunk)
        product = first[part].astype(np.float32) * second[part].astype(np.float32)
        parity = product.reshape(-1, half, 2, half, 2, half, 2).sum((1, 3, 5))  # even and odd coefficients of each axis
        best[part] = np.einsum("pabc,ia,jb,kc->pijk", parity, signs, signs, signs).reshape(len(product), 8).max(1)
    return best
