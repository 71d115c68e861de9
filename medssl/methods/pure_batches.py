"""Orders of an epoch in which every batch comes from one cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UNKNOWN", "composite_codes", "merged", "pure_order"]

UNKNOWN = -1

Integers = NDArray[np.int64]


def composite_codes(digits: Integers, bases: Sequence[int]) -> Integers:
    """One code for the clusters of all stages: ``Σ_s c_s Π_{r>s} k_r``, which is ``Σ_s c_s k^(t-s)`` for equal k.

    Args:
        digits: (N, T) cluster in each stage, below its base; ``UNKNOWN`` where there is none.
        bases: number of clusters k of each stage.

    Returns:
        (N,); ``UNKNOWN`` where any stage's cluster is.

    >>> composite_codes(np.array([[0, 2], [1, 0], [1, UNKNOWN]]), (10, 3)).tolist()
    [2, 3, -1]
    """
    weights = np.append(np.cumprod(np.asarray(bases, np.int64)[:0:-1])[::-1], 1)
    codes: Integers = (digits * weights).sum(1)
    return np.where((digits == UNKNOWN).any(1), UNKNOWN, codes)


def merged(digits: Integers, distances: Sequence[NDArray[Any]], least: int) -> Integers:
    """Clusters of at least ``least`` members each: the smallest joins its nearest until all are large enough.

    Nearest is the cluster closest in the first stage, among equals in the second, and so on, and then the smaller one:
    siblings, which share the clusters of all stages but the last, come first. A joined cluster stands where the one
    that took the other in stood.

    Args:
        digits: (N, T) as for ``composite_codes``.
        distances: of each stage, (k, k) between its clusters.
        least: members; with fewer in all, one cluster remains.

    Returns:
        (N,) cluster of each, 0, 1, ….
    """
    codes = composite_codes(digits, [len(d) for d in distances])
    members = {int(c): np.flatnonzero(codes == c) for c in np.unique(codes)}
    places = {c: digits[rows[0]] for c, rows in members.items()}

    def far(a: int, b: int) -> tuple[float, ...]:
        if UNKNOWN in (a, b):
            return (np.inf,) * len(distances)
        return tuple(float(d[i, j]) for d, i, j in zip(distances, places[a], places[b], strict=True))

    while len(members) > 1:
        smallest = min(members, key=lambda c: (len(members[c]), c))
        if len(members[smallest]) >= least:
            break
        rows = members.pop(smallest)
        nearest = min(members, key=lambda c: (far(smallest, c), len(members[c]), c))
        members[nearest] = np.concatenate([members[nearest], rows])
    clusters = np.empty(len(digits), np.int64)
    for number, rows in enumerate(members.values()):
        clusters[rows] = number
    return clusters


def pure_order(clusters: Integers, batch: int, rng: np.random.Generator) -> Integers:
    """Members of one epoch: every ``batch`` in a row are of one cluster, the clusters in random order.

    What does not fill a batch is left out, another part in every epoch, so that all epochs are of one length.

    Args:
        clusters: (N,) of each member.
        batch: members of a batch, of all devices together.
        rng: the same on all devices.
    """
    batches = [np.empty((0, batch), np.int64)]
    for cluster in np.unique(clusters):
        rows = rng.permutation(np.flatnonzero(clusters == cluster))
        batches.append(rows[: len(rows) // batch * batch].reshape(-1, batch))
    shuffled: Integers = rng.permutation(np.concatenate(batches))
    return shuffled.ravel()
