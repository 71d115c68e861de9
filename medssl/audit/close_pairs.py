"""All pairs of rows that are alike, from blocks of a matrix product: memory does not grow with the number of pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medssl.audit.sides import Placement

__all__ = ["close_pairs"]

_ROWS, _COLUMNS = 512, 4096
MOST = 100_000  # candidates that are looked at closer; the most alike are kept


def close_pairs(
    features: NDArray[np.floating], threshold: float, placement: Placement, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32], bool]:
    """Pairs of different patients, neither excluded, whose features have a dot product above a threshold.

    Args:
        features: (n, D), unit length.
        threshold: cosine.
        placement: of the whole manifest.
        rows: (n,) manifest row of each feature.

    Returns:
        (P, 2) indices into ``features``, the most alike first; (P,) cosines; whether there were too many to keep.
    """
    patient, usable = placement.patient[rows], ~placement.out[rows]
    pairs: list[NDArray[np.int64]] = []
    cosines: list[NDArray[np.float32]] = []
    full, kept = False, 0
    for i in range(0, len(features), _ROWS):
        left = features[i : i + _ROWS].astype(np.float32)
        for j in range(i, len(features), _COLUMNS):
            cosine = left @ features[j : j + _COLUMNS].astype(np.float32).T
            a, b = np.nonzero(cosine > threshold)
            keep = (a + i < b + j) & (patient[a + i] != patient[b + j]) & usable[a + i] & usable[b + j]
            pairs.append(np.stack([a[keep] + i, b[keep] + j], axis=1))
            cosines.append(cosine[a[keep], b[keep]])
            kept += len(pairs[-1])
            if kept > 2 * MOST:  # thin now and then, so that a cohort of look-alikes does not fill the memory
                pairs, cosines = _strongest(pairs, cosines)
                full, kept = True, MOST
    (found,), (values,) = _strongest(pairs, cosines)
    return found, values, full or kept > MOST


def _strongest(
    pairs: list[NDArray[np.int64]], cosines: list[NDArray[np.float32]]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32]]]:
    joined = np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)
    values = np.concatenate(cosines) if cosines else np.zeros(0, dtype=np.float32)
    order = np.argsort(-values, kind="stable")[:MOST]
    return [joined[order]], [values[order]]
