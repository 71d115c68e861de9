"""Measures of the first k of a ranking, with any rule of what is relevant, and what a random order reaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["expected_scores", "ranking_scores"]


def ranking_scores(
    relevant: NDArray[np.bool_], n_relevant: NDArray[np.integer], ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """How good each ranking is at its top (M3Ret, Liu et al. 2025: recall; Manning et al. 2008, chapter 8: the others).

    Args:
        relevant: (Q, d) whether what stands at each rank is relevant; ranks that are not taken are not.
        n_relevant: (Q,) relevant items in the whole gallery, without those that are excluded.
        ks: depths. The reciprocal rank looks as deep as ``relevant`` goes.

    Returns:
        Measure → (Q,), NaN where nothing is relevant: ``recall_at_k``, 1 where one of the first k is relevant (a hit
        rate); ``precision_at_k``, hits / k; ``map_at_k``, Σ precision at the rank of every hit / min(k, n_relevant);
        ``ndcg_at_k``, with gains 0 and 1; ``mrr``, 1 / rank of the first hit, 0 without one.
    """
    n = np.asarray(n_relevant, dtype=np.float64)
    depth = max(*ks, relevant.shape[1])
    hits = np.zeros((len(relevant), depth))
    hits[:, : relevant.shape[1]] = relevant
    ranks = np.arange(1, depth + 1)
    counted = hits.cumsum(1)
    precision = (hits * counted / ranks).cumsum(1)
    gain = (hits / np.log2(ranks + 1)).cumsum(1)
    ideal = (1 / np.log2(ranks + 1)).cumsum()
    first = np.where(counted[:, -1] > 0, hits.argmax(1) + 1.0, np.inf)
    out: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        best = np.maximum(np.minimum(k, n), 1)
        out[f"recall_at_{k}"] = (counted[:, k - 1] > 0).astype(np.float64)
        out[f"precision_at_{k}"] = counted[:, k - 1] / k
        out[f"map_at_{k}"] = precision[:, k - 1] / best
        out[f"ndcg_at_{k}"] = gain[:, k - 1] / ideal[best.astype(np.int64) - 1]
    out["mrr"] = 1 / first
    return {name: np.where(n > 0, values, np.nan) for name, values in out.items()}


def expected_scores(
    n_items: NDArray[np.integer], n_relevant: NDArray[np.integer], ks: Sequence[int], depth: int
) -> dict[str, NDArray[np.float64]]:
    """What ``ranking_scores`` of a random order are on average, exactly.

    The number of hits among k draws without replacement is hypergeometric. Item i is relevant with probability R/n, and
    so are i and an earlier one with R/n · (R−1)/(n−1), which gives the expected precision at a hit.

    Args:
        n_items: (Q,) items that could be ranked.
        n_relevant: (Q,) relevant ones among them.
        ks: depths.
        depth: ranks that the reciprocal rank looks at.

    Returns:
        As ``ranking_scores``.
    """
    pairs, place = np.unique(np.stack([n_items, n_relevant], axis=1), axis=0, return_inverse=True)
    n, r = (column[:, None].astype(np.float64) for column in pairs.T)
    ranks = np.arange(1, max(depth, *ks) + 1)
    inside = ranks <= n
    share = np.where(inside, r / np.maximum(n, 1), 0)
    # chance that the first i are all irrelevant: Π (n − r − j) / (n − j) over j < i
    miss = np.where(inside, np.clip(n - r - ranks + 1, 0, None) / np.maximum(n - ranks + 1, 1), 1).cumprod(1)
    precision = share * (1 + (ranks - 1) * np.clip(r - 1, 0, None) / np.maximum(n - 1, 1)) / ranks
    gain, ideal = (share / np.log2(ranks + 1)).cumsum(1), (1 / np.log2(ranks + 1)).cumsum()
    found: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        best = np.maximum(np.minimum(k, r[:, 0]), 1)
        found[f"recall_at_{k}"] = 1 - miss[:, k - 1]
        found[f"precision_at_{k}"] = share[:, :k].sum(1) / k
        found[f"map_at_{k}"] = precision[:, :k].sum(1) / best
        found[f"ndcg_at_{k}"] = gain[:, k - 1] / ideal[best.astype(np.int64) - 1]
    before = np.concatenate([np.ones((len(miss), 1)), miss[:, : depth - 1]], axis=1)
    found["mrr"] = ((before - miss[:, :depth]) / ranks[:depth]).sum(1)
    return {k: np.where(r[:, 0] > 0, v, np.nan)[place.ravel()] for k, v in found.items()}
