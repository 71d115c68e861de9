"""Which recordings stand for a cohort where not all of them can be looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["spread"]


def spread(patients: NDArray[Any], most: int, *, seed: int = 0) -> NDArray[np.intp]:
    """At most ``most`` items, as evenly over the patients as can be: a second item of one only once all have one.

    Args:
        patients: (n,) owner of each item.
        most: items wanted.
        seed: of the choice.

    Returns:
        Indices, ascending.

    >>> patients = np.array(["a", "a", "a", "b", "c"])
    >>> sorted(patients[spread(patients, 3)].tolist())
    ['a', 'b', 'c']
    """
    order = np.random.default_rng(seed).permutation(len(patients))
    owners = np.unique(patients, return_inverse=True)[1][order]
    grouped = np.argsort(owners, kind="stable")
    sizes = np.bincount(owners)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = np.empty(len(owners), dtype=np.int64)  # how many items of the same patient come before
    turn[grouped] = np.arange(len(owners)) - first
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])
