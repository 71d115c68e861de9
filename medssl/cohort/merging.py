"""Label maps with many or odd values → a few classes numbered from 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Read, Recording, Rejected

__all__ = ["merge_labels", "merge_mask"]

_STRAY = 255


def merge_mask(
    labels: NDArray[Any], classes: Mapping[int, Iterable[int]], *, others: Literal["background", "refuse"]
) -> NDArray[np.uint8]:
    """Give groups of label values one value each; 0 stays background.

    Args:
        labels: whole numbers, any shape.
        classes: new value (1 to 254) → the values it stands for.
        others: what becomes of values in no group.

    Raises:
        ValueError: values in no group, where those are refused; the message names them and their share.

    >>> merge_mask(np.array([0, 205, 420, 205]), {1: [205], 2: [420]}, others="refuse").tolist()
    [0, 1, 2, 1]
    """
    known = {value: new for new, values in classes.items() for value in values}
    table = np.full(max(known) + 2, 0 if others == "background" else _STRAY, dtype=np.uint8)  # last: all that is beyond
    table[[0, *known]] = [0, *known.values()]
    # one slab at a time, as the indices take eight bytes a voxel
    merged = np.empty(labels.shape, dtype=np.uint8)
    for slab, out in zip(np.atleast_2d(labels), np.atleast_2d(merged), strict=True):
        inside = (slab >= 0) & (slab < len(table))
        out[...] = table[np.where(inside, slab, len(table) - 1)]
    stray = merged == _STRAY
    if others == "refuse" and stray.any():
        values = ", ".join(str(v) for v in np.unique(labels[stray])[:5])
        share = np.count_nonzero(stray) / np.count_nonzero(labels)
        raise ValueError(f"values that are no class: {values} ({share:.2%} of the labels)")
    return merged


def merge_labels(
    read: Read, mask: str, classes: Mapping[int, Iterable[int]], *, others: Literal["background", "refuse"]
) -> Read:
    """:func:`merge_mask` for a mask of every recording that has it; a recording that cannot be merged is rejected."""
    taken: list[Recording] = []
    rejected = list(read.rejected)
    for recording in read.recordings:
        if mask in recording.labels:
            try:
                merged = merge_mask(recording.labels[mask], classes, others=others)
            except ValueError as error:
                rejected.append(Rejected(recording.source, f"mask '{mask}' has {error}"))
                continue
            recording = recording.with_(labels={**recording.labels, mask: merged})
        taken.append(recording)
    return Read(taken, rejected)
