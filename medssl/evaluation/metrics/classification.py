"""Classification metrics in float64 over a whole test set, never averaged over batches.

Conventions, since libraries differ: macro averages run over classes with at least one test case; AUROC and average
precision are one-vs-rest and NaN where a class is absent (never 0, never silently averaged in); they take probabilities
or any monotone score in float64, so saturated logits make no ties.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "auroc",
    "average_precision",
    "classification_metrics",
    "confusion_counts",
    "expected_calibration_error",
    "macro_from_confusion",
    "mean_logit",
    "multilabel_metrics",
]


def classification_metrics(
    probabilities: NDArray[np.floating], targets: NDArray[np.integer], classes: Sequence[str]
) -> dict[str, float]:
    """Everything the study reports for one set of exclusive-class predictions.

    Args:
        probabilities: (n, K), rows sum to 1.
        targets: (n,) class indices.
        classes: K names; with two, the second is the positive one.

    Returns:
        ``macro_f1, balanced_accuracy, accuracy, kappa, auroc, auprc, ece, brier``; per class ``f1/NAME, recall/NAME,
        prevalence/NAME``; ``auroc_undefined`` (classes for which AUROC could not be computed); the confusion matrix as
        ``n/TRUE/PREDICTED``.

    Raises:
        ValueError: shapes do not fit, or the rows are not probabilities.
    """
    p = _checked(probabilities, len(classes), exclusive=True)
    y = np.asarray(targets, dtype=np.int64)
    if y.shape != (len(p),) or (len(y) and (y.min() < 0 or y.max() >= len(classes))):
        raise ValueError(f"targets must be {len(p)} class indices below {len(classes)}")
    confusion = confusion_counts(p.argmax(1), y, len(classes))
    macro_f1, balanced, f1, recall = (np.asarray(v) for v in macro_from_confusion(confusion))
    ranked = range(1, 2) if len(classes) == 2 else range(len(classes))
    curves = [(auroc(p[:, k], y == k), average_precision(p[:, k], y == k)) for k in ranked]
    out = {
        "macro_f1": float(macro_f1),
        "balanced_accuracy": float(balanced),
        "accuracy": float(np.trace(confusion) / max(len(y), 1)),
        "kappa": _kappa(confusion),
        "auroc": _nanmean([a for a, _ in curves]),
        "auprc": _nanmean([b for _, b in curves]),
        "auroc_undefined": float(sum(math.isnan(a) for a, _ in curves)),
        "ece": expected_calibration_error(p.max(1), p.argmax(1) == y),
        "brier": _brier(p, y),
    }
    for k, name in enumerate(classes):
        out |= {f"f1/{name}": float(f1[k]), f"recall/{name}": float(recall[k])}
        out[f"prevalence/{name}"] = float((y == k).mean()) if len(y) else math.nan
    pairs = ((t, q) for t in range(len(classes)) for q in range(len(classes)))
    return out | {f"n/{classes[t]}/{classes[q]}": float(confusion[t, q]) for t, q in pairs}


def multilabel_metrics(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.floating],
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
) -> dict[str, float]:
    """Metrics of labels that can occur together.

    Args:
        probabilities: (n, K) in [0, 1], one sigmoid a label.
        targets: (n, K) of 0 and 1.
        classes: K names.
        threshold: above it a label is predicted; fixed on validation patients, never on test patients.

    Returns:
        ``macro_f1, auroc, auprc`` averaged over labels with at least one positive case, ``accuracy`` (all labels of a
        case right), ``brier``, ``auroc_undefined``, per label ``f1/NAME, recall/NAME, prevalence/NAME`` and the counts
        ``tp/NAME, fp/NAME, fn/NAME``.
    """
    p = _checked(probabilities, len(classes), exclusive=False)
    y = np.asarray(targets) > 0.5
    if y.shape != p.shape:
        raise ValueError(f"targets {y.shape} and probabilities {p.shape} differ in shape")
    q = p > threshold
    tp, fp, fn = (q & y).sum(0), (q & ~y).sum(0), (~q & y).sum(0)
    present = y.any(0)
    f1 = np.where(present, 2 * tp / np.maximum(2 * tp + fp + fn, 1), math.nan)
    recall = np.where(present, tp / np.maximum(tp + fn, 1), math.nan)
    curves = [(auroc(p[:, k], y[:, k]), average_precision(p[:, k], y[:, k])) for k in range(len(classes))]
    out = {
        "macro_f1": _nanmean(f1.tolist()),
        "balanced_accuracy": _nanmean(recall.tolist()),
        "accuracy": float((q == y).all(1).mean()) if len(y) else math.nan,
        "auroc": _nanmean([a for a, _ in curves]),
        "auprc": _nanmean([b for _, b in curves]),
        "auroc_undefined": float(sum(math.isnan(a) for a, _ in curves)),
        "brier": float(((p - y) ** 2).mean()) if len(y) else math.nan,
    }
    for k, name in enumerate(classes):
        out |= {f"f1/{name}": float(f1[k]), f"recall/{name}": float(recall[k])}
        out |= {f"prevalence/{name}": float(y[:, k].mean()) if len(y) else math.nan}
        out |= {f"tp/{name}": float(tp[k]), f"fp/{name}": float(fp[k]), f"fn/{name}": float(fn[k])}
    return out


def confusion_counts(predicted: NDArray[np.integer], targets: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(K, K) counts, rows true, columns predicted."""
    flat = np.asarray(targets, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def macro_from_confusion(
    confusion: NDArray[np.number],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Macro-F1 and balanced accuracy from confusion matrices, for many resamples at once.

    Args:
        confusion: (..., K, K) counts, rows true, columns predicted.

    Returns:
        macro-F1 (...), balanced accuracy (...), F1 (..., K) and recall (..., K). Averages run over classes with
        at least one true case, the others are NaN in the last two; all NaN where there is no case at all.
    """
    c = np.asarray(confusion, dtype=np.float64)
    hit = np.diagonal(c, axis1=-2, axis2=-1)
    true, predicted = c.sum(-1), c.sum(-2)
    present = true > 0
    n = present.sum(-1)
    f1 = np.where(present, 2 * hit / np.where(present, true + predicted, 1), 0)
    recall = np.where(present, hit / np.where(present, true, 1), 0)
    macro = [np.where(n > 0, v.sum(-1) / np.maximum(n, 1), math.nan) for v in (f1, recall)]
    return macro[0], macro[1], np.where(present, f1, math.nan), np.where(present, recall, math.nan)


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive scores above a negative, ties count half; NaN when one of them is missing.

    >>> auroc(np.array([20.0, 30.0, 40.0, 50.0]), np.array([False, True, False, True]))
    0.75
    """
    from scipy.stats import rankdata

    positive = np.asarray(positive, dtype=bool)
    n = int(positive.sum())
    if n in (0, len(positive)):
        return math.nan
    rank = rankdata(np.asarray(scores, dtype=np.float64))
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def average_precision(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the precision-recall steps; chance is the prevalence; NaN without a positive case."""
    from sklearn.metrics import average_precision_score

    positive = np.asarray(positive, dtype=bool)
    if not positive.any():
        return math.nan
    return float(average_precision_score(positive, np.asarray(scores, dtype=np.float64)))


def expected_calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.number] | NDArray[np.bool_], *, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (l, u], weighted with their share of cases.

    Args:
        confidence: (n,) probability of the predicted class.
        correct: (n,) 0/1 or bool.
        bins: number of bins; the first is closed on both sides.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct).astype(np.float64)
    if not len(confidence):
        return math.nan
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(edges, confidence, side="left")
    gap = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def mean_logit(
    probabilities: NDArray[np.floating], cases: Sequence[Hashable], *, exclusive: bool = True
) -> tuple[NDArray[np.float64], list[Hashable]]:
    """Windows of one case become one prediction: the softmax of their mean log-probabilities.

    Args:
        probabilities: (n, K) of windows.
        cases: n case ids.
        exclusive: rows sum to 1; if not, each class has a logit of its own and gets the sigmoid of its mean.

    Returns:
        (m, K) probabilities and the m case ids in order of first appearance.
    """
    order = list(dict.fromkeys(cases))
    position = {case: i for i, case in enumerate(order)}
    index = np.array([position[c] for c in cases], dtype=np.intp)
    given = np.asarray(probabilities, dtype=np.float64)
    log = np.log(np.maximum(given, 1e-12))
    if not exclusive:
        log -= np.log(np.maximum(1 - given, 1e-12))
    total = np.zeros((len(order), log.shape[1]))
    np.add.at(total, index, log)
    mean = total / np.bincount(index, minlength=len(order))[:, None]
    if not exclusive:
        return 1 / (1 + np.exp(-mean)), order
    p = np.exp(mean - mean.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), order


def _checked(probabilities: NDArray[np.floating], classes: int, *, exclusive: bool) -> NDArray[np.float64]:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != classes:
        raise ValueError(f"probabilities of shape {p.shape} do not fit {classes} classes")
    if not np.isfinite(p).all():
        raise ValueError("probabilities hold NaN or infinity; the model that made them has diverged")
    if len(p) and (p.min() < -1e-6 or p.max() > 1 + 1e-6 or (exclusive and np.abs(p.sum(1) - 1).max() > 1e-2)):
        raise ValueError("these are not probabilities (logits?); apply the head's softmax or sigmoid first")
    return p


def _kappa(confusion: NDArray[np.int64]) -> float:
    n = confusion.sum()
    if not n:
        return math.nan
    agree = np.trace(confusion) / n
    chance = float((confusion.sum(0) / n) @ (confusion.sum(1) / n))
    return float((agree - chance) / (1 - chance)) if chance < 1 else math.nan


def _brier(p: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Binary: squared error of the positive class, 0 to 1; more classes: summed over classes, 0 to 2."""
    if not len(y):
        return math.nan
    if p.shape[1] == 2:
        return float(((p[:, 1] - y) ** 2).mean())
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean())


def _nanmean(values: Sequence[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return sum(finite) / len(finite) if finite else math.nan
