"""Dice of masks in clips, pooled over the pixels of all frames, as EchoNet-Dynamic reports it.

Ouyang et al., Nature 580:252, 2020. It differs from the mean over frames: pooled, a large ventricle weighs more than a
small one, so a study should state both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameCounts", "frame_counts", "pooled"]


class FrameCounts(NamedTuple):
    """Pixels of every frame; those of clips of different sizes can be joined.

    Attributes:
        overlap: (T,) in both masks.
        sizes: (T,) in the prediction and in the reference, added up.
    """

    overlap: NDArray[np.int64]
    sizes: NDArray[np.int64]


def pooled(counts: FrameCounts) -> float:
    """Dice over all pixels of the counted frames together; 1 where both masks are empty throughout.

    >>> pooled(FrameCounts(np.array([80, 0]), np.array([160, 2])))
    0.9876543209876543
    """
    return float(2 * counts.overlap.sum() / counts.sizes.sum()) if counts.sizes.sum() else 1.0


def frame_counts(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> FrameCounts:
    """Pixels in both masks, and in each added up, of every frame.

    Args:
        prediction, reference: (T, Y, X).

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    axes = tuple(range(1, prediction.ndim))
    first, second = prediction.astype(bool), reference.astype(bool)
    overlap = np.count_nonzero(first & second, axis=axes)
    sizes = np.count_nonzero(first, axis=axes) + np.count_nonzero(second, axis=axes)
    return FrameCounts(np.asarray(overlap, dtype=np.int64), np.asarray(sizes, dtype=np.int64))
