"""A test case as a short stack of small slices, enough for a page that slides through it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["example_stack"]

SLICES, SIDE = 24, 96
LEAST_SIDE = 40  # pixels: a small structure needs surroundings to be recognised
MARGIN = 0.15


def example_stack(
    image: NDArray[np.floating], reference: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """Crop to the reference with a margin, then leave out slices and pixels until it is small.

    What is kept follows from the reference alone, so every arm keeps the same voxels.

    Args:
        image: (Z, Y, X) network input of one channel.
        reference: (Z, Y, X) true classes.
        prediction: (Z, Y, X) predicted classes.

    Returns:
        ``image``, ``reference``, ``prediction`` (S, H, W) uint8 with S at most 24 and H, W at most 96; ``slices`` (S,),
        where they lie along z; ``depth``, Z; ``step``, of the pixels that were kept along y and x.
    """
    z, y, x = _box(reference)
    step = -(-max(y.stop - y.start, x.stop - x.start) // SIDE)
    slices = np.unique(np.linspace(z.start, z.stop - 1, min(SLICES, z.stop - z.start)).round().astype(np.int64))

    def cut(volume: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(volume[slices][:, y, x][:, ::step, ::step])

    return {
        "image": _grey(cut(image)), "reference": cut(reference), "prediction": cut(prediction), "slices": slices,
        "depth": np.array(len(reference)), "step": np.array(step),
    }  # fmt: skip


def _box(reference: NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """Around the foreground; everything where there is none."""
    out = []
    for axis, length in enumerate(reference.shape):
        others = tuple(a for a in range(reference.ndim) if a != axis)
        found = np.flatnonzero((reference > 0).any(axis=others))
        if not len(found):
            out.append(slice(0, length))
            continue
        first, last = int(found[0]), int(found[-1]) + 1
        margin = 1 if axis == 0 else max(3, round(MARGIN * (last - first)), -(-(LEAST_SIDE - last + first) // 2))
        out.append(slice(max(0, first - margin), min(length, last + margin)))
    z, y, x = out
    return z, y, x


def _grey(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Grey values, 0 to 255; the few brightest voxels do not darken the rest."""
    low, high = np.percentile(image, (0.5, 99.5))
    grey: NDArray[np.uint8] = (255 * np.clip((image - low) / max(float(high - low), 1e-9), 0, 1)).astype(np.uint8)
    return grey
