"""Do two encoders see the same? And does RankMe rank encoders as their results do?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.evaluation.metrics import info_of
from medssl.evaluation.neighbours import neighbours
from medssl.evaluation.representation import linear_cka, relative_representation
from medssl.evaluation.sampling import spread

__all__ = ["agreement", "rank_agreement"]

Array = NDArray[np.float64]
MOST_ANCHORS = 256
NEIGHBOURS = 10
FEWEST_ARMS = 3


def agreement(
    features: Mapping[str, NDArray[np.floating]], patients: NDArray[Any], sites: NDArray[Any]
) -> dict[str, Any] | None:
    """Compare the spaces of encoders on the same recordings, row by row.

    Relative representations (cosines to a quarter of the recordings as anchors, spread over the sites) can be compared
    between spaces of any width. All spaces are centred at the mean of their anchors first: features after a ReLU lie in
    one corner, where every cosine is near 1. A floor says what recordings that do not belong together would give: the
    mean over all pairs of different rows.

    Args:
        features: arm → (n, D); D may differ.
        patients: (n,) whose the rows are; neighbours of the same patient are left out.
        sites: (n,) where they come from.

    Returns:
        ``n_recordings``, ``n_anchors``, ``k`` of the neighbour lists, ``pairs`` (``encoders``, ``relative``: mean
        cosine of the relative vectors of the same recording, ``jaccard`` of its lists of nearest recordings, each with
        ``_floor``, and ``cka``), and ``cka`` as a matrix with ``debiased`` (where n < 4·D). None where there are fewer
        than two encoders or too few recordings.
    """
    n = len(patients)
    m = min(MOST_ANCHORS, n // 4)
    k = min(NEIGHBOURS, n - int(np.unique(patients, return_counts=True)[1].max())) if n else 0
    if len(features) < 2 or m < 2 or k < 1:
        return None
    anchors = spread(sites, m)
    rest = np.setdiff1d(np.arange(n), anchors)
    centred = {arm: np.asarray(x, np.float64) - x[anchors].mean(0) for arm, x in features.items()}
    relative = {arm: _relative(x, anchors, rest) for arm, x in centred.items()}
    lists = {arm: _lists(x, patients, k) for arm, x in centred.items()}
    debiased = n < 4 * max(x.shape[1] for x in features.values())
    arms = list(features)
    cka = np.array([[_cka(features[a], features[b], debiased) for b in arms] for a in arms])
    pairs = []
    for (i, a), (j, b) in itertools.combinations(enumerate(arms), 2):
        similarity, similarity_floor = _same_and_other(relative[a] @ relative[b].T)
        shared = lists[a] @ lists[b].T
        jaccard, jaccard_floor = _same_and_other(shared / (2 * k - shared))
        pairs.append({
            "encoders": [a, b], "relative": similarity, "relative_floor": similarity_floor, "jaccard": jaccard,
            "jaccard_floor": jaccard_floor, "cka": float(cka[i, j]),
        })  # fmt: skip
    return {
        "n_recordings": n, "n_anchors": m, "k": k, "pairs": pairs,
        "cka": {"encoders": arms, "matrix": cka.tolist(), "debiased": debiased},
    }  # fmt: skip


def _relative(x: Array, anchors: NDArray[np.intp], rest: NDArray[np.intp]) -> Array:
    """Relative vectors at length 1: (n - m, m)."""
    r = relative_representation(torch.from_numpy(x[rest]), torch.from_numpy(x[anchors])).numpy()
    unit: Array = r / np.maximum(np.linalg.norm(r, axis=1, keepdims=True), 1e-12)
    return unit


def _lists(x: Array, patients: NDArray[Any], k: int) -> Array:
    """(n, n) 0/1: the k nearest rows of other patients."""
    found = neighbours(x, x, k=k, bank_patients=patients, query_patients=patients)
    member = np.zeros((len(x), len(x)))
    np.put_along_axis(member, found.rows, 1.0, axis=1)
    return member


def _same_and_other(similarity: Array) -> tuple[float, float]:
    """Means of the diagonal and of everything else, which is the mean over all permutations without a fixed row."""
    n = len(similarity)
    same = float(np.trace(similarity)) / n
    return same, (float(similarity.sum()) - n * same) / (n * (n - 1))


def _cka(x: NDArray[np.floating], y: NDArray[np.floating], debiased: bool) -> float:
    return linear_cka(torch.from_numpy(np.asarray(x)), torch.from_numpy(np.asarray(y)), debiased=debiased)


def rank_agreement(
    measures: Mapping[str, Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    *,
    metric: str,
    budgets: Sequence[str],
    about: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Kendall's τ between RankMe and the headline metric over the pre-trained encoders, at every budget.

    Args:
        measures: arm → its ``rankme`` and ``dimension``; arms without are left out.
        results: of ``summary.json``.
        metric: headline; where lower is better its sign is turned, so that τ = 1 means that RankMe ranks them right.
        budgets: as asked.
        about: arm → ``encoder`` and ``provenance``, as ``encoders`` in ``summary.json``; only pre-trained arms here.

    Returns:
        budget → ``tau``, ``p`` (None with fewer than three arms, or where all are equal), ``n_arms``, and
        ``comparable``: same method, architecture and dimension, without which RankMe's order means little.
    """
    from scipy.stats import kendalltau

    ranks = {a: float(m["rankme"]) for a, m in measures.items() if a in about and m.get("rankme") is not None}
    sign = 1 if info_of(metric).higher_is_better else -1
    out: dict[str, dict[str, Any]] = {}
    for budget in budgets:
        reached = {
            str(r["encoder"]): sign * float(r["mean"]) for r in results
            if (r["budget"], r["metric"], r["class"]) == (budget, metric, "") and _known(r["mean"])
        }  # fmt: skip
        arms = [a for a in ranks if a in reached and _known(ranks[a])]
        tau = p = math.nan
        if len(arms) >= FEWEST_ARMS:
            found = kendalltau([ranks[a] for a in arms], [reached[a] for a in arms])
            tau, p = float(found.statistic), float(found.pvalue)
        out[budget] = {
            "tau": tau if _known(tau) else None, "p": p if _known(tau) else None, "n_arms": len(arms),
            "comparable": len({_kind(about[a], measures[a]) for a in arms}) <= 1,
        }  # fmt: skip
    return out


def _kind(about: Mapping[str, Any], measures: Mapping[str, Any]) -> tuple[str, ...]:
    method = (about.get("provenance") or {}).get("method") or {}
    objective = (method.get("init_args") or {}).get("objective") or {}
    encoder = about.get("encoder") or {}
    return (*(str(part.get("class_path")) for part in (method, objective, encoder)), str(measures.get("dimension")))


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
