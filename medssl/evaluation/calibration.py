"""How sure the models are and how often they are right, in bins: the numbers behind the report's reliability plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from medssl.evaluation.results import TaskInfo

__all__ = ["BINS", "calibration", "reliability"]

BINS = 15  # as of the metric ECE


def reliability(confidence: NDArray[np.floating], right: NDArray[Any], bins: int = BINS) -> NDArray[np.float64]:
    """Sums over bins of equal width (low, high], the first closed on both sides.

    Args:
        confidence: (n,) probabilities.
        right: (n,) 0/1 or bool.
        bins: B.

    Returns:
        (3, B): number of answers, sum of their confidences, number of right ones. They add up over cells.

    >>> reliability(np.array([0.2, 0.9, 0.95]), np.array([0, 1, 1]), bins=2).tolist()
    [[1.0, 2.0], [0.2, 1.85], [0.0, 2.0]]
    """
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right).astype(np.float64)
    at = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    weights = (np.ones_like(confidence), confidence, right)
    return np.stack([np.bincount(at, weights=w, minlength=bins) for w in weights])


def calibration(
    predictions: Mapping[tuple[str, str, int], pd.DataFrame], info: TaskInfo
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """(arm, budget) → (3, B) as ``reliability``, summed over repeats; empty but for classification.

    One class: the probability of the answer. Several labels: every label's probability, whether it is given or not.
    """
    if info.task != "classification":
        return {}
    out: dict[tuple[str, str], NDArray[np.float64]] = {}
    for (arm, budget, _), answers in predictions.items():
        p = answers[[f"p/{c}" for c in info.classes]].to_numpy(np.float64)
        if info.multilabel:
            found = reliability(p.ravel(), answers[[f"y/{c}" for c in info.classes]].to_numpy().ravel())
        else:
            right = np.array(info.classes, dtype=object)[p.argmax(1)] == answers["y_true"].astype(str).to_numpy(object)
            found = reliability(p.max(1), right)
        out[arm, budget] = out.get((arm, budget), 0) + found
    return out
