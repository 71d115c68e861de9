"""Orders of an epoch in which batches hold several recordings of a patient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["patient_order"]

Integers = NDArray[np.int64]


def patient_order(patients: Integers, batch: int, together: int, rng: np.random.Generator) -> Integers:
    """Order of one epoch that brings recordings of a patient into the same batch.

    Each patient's recordings are cut into sets of ``together``, which are dealt evenly to the batches; what is left
    fills them. Recordings that do not fill a batch are left out, others in every epoch, so that all epochs are of one
    length and their batches begin where the epoch does.

    Args:
        patients: (N,) integers, whose each recording is.
        batch: recordings of a batch, of all devices together; with more than N there is one batch of all.
        together: recordings of a set.
        rng: the same on all devices.

    Returns:
        (N // batch · batch,) rows, or (N,).
    """
    n = len(patients)
    batch = min(batch, n)
    together = min(together, batch)
    batches = n // batch
    rows = rng.permutation(n)
    rows = rows[np.argsort(patients[rows], kind="stable")]
    _, first, many = np.unique(patients[rows], return_index=True, return_counts=True)
    place = np.arange(n) - np.repeat(first, many)
    begins = place % together == 0
    sets = np.cumsum(begins) - 1
    sizes = np.bincount(sets)
    turn = np.full(len(sizes), -1)
    whole = rng.permutation(np.flatnonzero(sizes > 1))
    turn[whole] = np.arange(len(whole))
    fits = (turn >= 0) & (turn // batches < batch // together)
    slot = np.where(fits, turn % batches, -1)[sets]
    placed = slot >= 0
    singles = rng.permutation(rows[~placed])
    free = np.repeat(np.arange(batches), batch - np.bincount(slot[placed], minlength=batches))
    chosen = np.concatenate([rows[placed], singles[: len(free)]])
    slots = np.concatenate([slot[placed], free])
    order: Integers = chosen[np.argsort(slots, kind="stable")]
    return order
