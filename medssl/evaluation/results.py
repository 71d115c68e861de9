"""From the files a finished cell leaves to the long table ``STUDY/results.parquet``.

One row is (encoder, budget, repeat, fold, patient, metric, class) with its value and the number of items behind it.
``patient`` is ``"*"`` for values pooled over all test patients, where a mean over patients has no meaning (macro-F1,
AUROC). Rows ``n`` with class ``TRUE/PREDICTED`` are confusion counts, rows ``tp``, ``fp``, ``fn`` the counts of one
label that can occur with others: pooled F1, recall and accuracy can be computed again from them for any resample of
patients. A failed cell has rows too, with the worst value, and ``failed`` true. ``level`` is what an item is: a window
(an event is one), a recording or a patient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.metrics import (
    classification_metrics,
    confusion_counts,
    info_of,
    multilabel_metrics,
    regression_metrics,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "POOLED", "Task", "TaskInfo", "counts_of", "failed_rows", "prediction_rows", "segmentation_rows"]

Task = Literal["segmentation", "classification", "regression", "retrieval"]
POOLED = "*"
MISSED = "?"  # predicted class of every case of a failed cell: wrong whatever the truth
COLUMNS = ("encoder", "budget", "repeat", "fold", "patient", "metric", "class", "value", "n_items", "failed", "level")
_KEPT = ("macro_f1", "balanced_accuracy", "accuracy", "kappa", "auroc", "auprc", "ece", "brier")


@dataclass(frozen=True)
class TaskInfo:
    """What is predicted.

    Attributes:
        task: segmentation, classification or regression; retrieval of items by class.
        target: name of the mask, label column or event kind.
        classes: names; for segmentation label values as text without background; empty for regression.
        multilabel: classes can occur together.
        training_mean: of the target over the training patients (regression); NaN where it is not known, and then R²
            is not either.
        names: label value → name (segmentation).
    """

    task: Task
    target: str
    classes: tuple[str, ...] = ()
    multilabel: bool = False
    training_mean: float = math.nan
    names: Mapping[str, str] | None = None


def segmentation_rows(per_case: pd.DataFrame) -> pd.DataFrame:
    """Mean over the cases of each patient.

    Args:
        per_case: ``patient, metric, label, value`` a row; ``label`` is ``""`` for the mean over classes.

    Returns:
        ``patient, metric, class, value, n_items``.
    """
    grouped = per_case.groupby(["patient", "metric", "label"], sort=True)["value"].agg(["mean", "size"]).reset_index()
    rows: pd.DataFrame = grouped.rename(columns={"label": "class", "mean": "value", "size": "n_items"})
    return rows


def prediction_rows(predictions: pd.DataFrame, info: TaskInfo) -> pd.DataFrame:
    """Rows of one classification or regression cell.

    Args:
        predictions: one row an item with ``patient``, ``y_true`` and ``p/CLASS`` columns (multilabel: ``y/CLASS``
            instead of ``y_true``; regression: ``y_true`` and ``y_pred``).
        info: the task.

    Returns:
        As ``segmentation_rows``, with pooled rows (``patient`` = ``"*"``).
    """
    import pandas as pd

    if info.task == "regression":
        rows = _regression_rows(predictions, info)
    elif info.multilabel:
        rows = _multilabel_rows(predictions, info)
    else:
        rows = _class_rows(predictions, info)
    return pd.DataFrame(rows, columns=["patient", "metric", "class", "value", "n_items"])


def failed_rows(pattern: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Rows of a failed cell: the worst that can be said of every patient.

    Args:
        pattern: rows of any finished cell; they give the patients, metrics and classes.
        others: rows of all finished cells. Where a metric has no worst value of its own (distances, errors) the worst
            one that any cell had on that patient stands in.
    """
    rows = pattern.copy()
    worst = others.groupby(["patient", "metric", "class"])["value"].agg(["min", "max"])
    values = []
    for patient, metric, name in zip(rows["patient"], rows["metric"], rows["class"], strict=True):
        known = info_of(metric)
        if known.worst is not None:
            values.append(known.worst)
        else:
            side = "min" if known.higher_is_better else "max"
            values.append(float(worst.loc[(patient, metric, name), side]))
    rows["value"] = values
    return _count_failures(rows, pattern)


def _count_failures(rows: pd.DataFrame, pattern: pd.DataFrame) -> pd.DataFrame:
    """Confusion counts of a failed cell: every case missed."""
    import pandas as pd

    positives = pattern[pattern["metric"].isin(["tp", "fn"])].groupby(["patient", "class"])["value"].sum()
    for metric in ("tp", "fp", "fn"):
        own = rows["metric"] == metric
        index = pd.MultiIndex.from_frame(rows.loc[own, ["patient", "class"]])
        rows.loc[own, "value"] = positives.reindex(index).to_numpy() if metric == "fn" else 0.0
    exclusive = pattern[pattern["metric"] == "n"]
    if not len(exclusive):
        return rows
    classes = dict.fromkeys(pattern.loc[pattern["metric"] == "prevalence", "class"], 0)
    truth = [f"{_true_and_predicted(pair, classes)[0]}/{MISSED}" for pair in exclusive["class"]]
    missed = (
        exclusive.assign(**{"class": truth})
        .groupby(["patient", "metric", "class"], as_index=False)
        .agg({"value": "sum"})
    )
    missed["n_items"] = missed["value"]
    return pd.concat([rows[rows["metric"] != "n"], missed.reindex(columns=rows.columns)], ignore_index=True)


def _patients(predictions: pd.DataFrame) -> list[tuple[str, NDArray[np.intp]]]:
    groups = predictions.reset_index(drop=True).groupby("patient", sort=True).indices
    return [(str(patient), np.asarray(rows)) for patient, rows in groups.items()]


def _pooled(values: Mapping[str, float], n: int) -> list[tuple[str, str, str, float, int]]:
    rows = []
    for key, value in values.items():
        metric, _, name = key.partition("/")
        if metric in _KEPT or metric in ("f1", "recall", "prevalence"):
            rows.append((POOLED, metric, name, float(value), n))
    return rows


def _class_rows(predictions: pd.DataFrame, info: TaskInfo) -> list[Any]:
    p = predictions[[f"p/{c}" for c in info.classes]].to_numpy(np.float64)
    y = np.array([info.classes.index(str(v)) for v in predictions["y_true"]], dtype=np.int64)
    rows: list[Any] = _pooled(classification_metrics(p, y, info.classes), len(y))
    for patient, items in _patients(predictions):
        own = classification_metrics(p[items], y[items], info.classes)
        rows += [(patient, m, "", own[m], len(items)) for m in ("macro_f1", "accuracy")]
        counts = confusion_counts(p[items].argmax(1), y[items], len(info.classes))
        rows += [
            (patient, "n", f"{info.classes[t]}/{info.classes[q]}", float(counts[t, q]), int(counts[t, q]))
            for t, q in np.argwhere(counts)
        ]
    return rows


def _multilabel_rows(predictions: pd.DataFrame, info: TaskInfo) -> list[Any]:
    p = predictions[[f"p/{c}" for c in info.classes]].to_numpy(np.float64)
    y = predictions[[f"y/{c}" for c in info.classes]].to_numpy(np.float64)
    rows: list[Any] = _pooled(multilabel_metrics(p, y, info.classes), len(y))
    for patient, items in _patients(predictions):
        own = multilabel_metrics(p[items], y[items], info.classes)
        rows.append((patient, "accuracy", "", own["accuracy"], len(items)))
        rows += [(patient, m, c, own[f"{m}/{c}"], len(items)) for m in ("tp", "fp", "fn") for c in info.classes]
    return rows


def _regression_rows(predictions: pd.DataFrame, info: TaskInfo) -> list[Any]:
    p = predictions["y_pred"].to_numpy(np.float64)
    t = predictions["y_true"].to_numpy(np.float64)
    whole = regression_metrics(p, t, training_mean=info.training_mean)
    rows: list[Any] = [
        (POOLED, m, "", whole[m], len(t))
        for m in ("mae", "rmse", "r2", "pearson", "slope", "bias", "loa_low", "loa_high")
    ]
    for patient, items in _patients(predictions):
        error = p[items] - t[items]
        rows.append((patient, "mae", "", float(np.abs(error).mean()), len(items)))
        rows.append((patient, "error", "", float(error.mean()), len(items)))
    return rows


def counts_of(rows: pd.DataFrame, patients: Sequence[str], classes: Sequence[str]) -> NDArray[np.float64]:
    """True positives, false positives and false negatives of every patient and class from the rows of one cell.

    Args:
        rows: of one cell.
        patients: P ids, in the order wanted.
        classes: K names.

    Returns:
        (3, P, K): tp, fp, fn. They add up over patients, so a resample of patients is a weighted sum.
    """
    out = np.zeros((3, len(patients), len(classes)))
    at = {p: i for i, p in enumerate(patients)}
    column = {c: i for i, c in enumerate(classes)}
    counts = rows[rows["metric"].isin(["n", "tp", "fp", "fn"])]
    for patient, metric, name, value in zip(
        counts["patient"], counts["metric"], counts["class"], counts["value"], strict=True
    ):
        if patient not in at:
            continue
        i = at[patient]
        if metric != "n":
            out[("tp", "fp", "fn").index(metric), i, column[name]] += value
            continue
        true, predicted = _true_and_predicted(name, column)
        if true == predicted:
            out[0, i, column[true]] += value
            continue
        out[2, i, column[true]] += value
        if predicted in column:
            out[1, i, column[predicted]] += value
    return out


def _true_and_predicted(pair: str, classes: Mapping[str, int]) -> tuple[str, str]:
    """Both halves of ``TRUE/PREDICTED``; class names may hold a slash themselves."""
    for i, letter in enumerate(pair):
        if letter == "/" and pair[:i] in classes and (pair[i + 1 :] in classes or pair[i + 1 :] == MISSED):
            return pair[:i], pair[i + 1 :]
    raise ValueError(f"'{pair}' is no pair of the classes {', '.join(classes)}")
