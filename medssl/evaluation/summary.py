"""From the results table of a study to ``summary.json``: estimates, intervals, paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.efficiency import curve_area, gap_closed, labels_needed
from medssl.evaluation.estimands import AUROC, Counts, Estimand, Mean, compare
from medssl.evaluation.metrics import info_of
from medssl.evaluation.metrics.catalogue import HEADLINE
from medssl.evaluation.results import POOLED, TaskInfo, counts_of
from medssl.evaluation.statistics import benjamini_hochberg, detectable_effect, holm

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Layout", "summarise"]

_COUNTED = ("macro_f1", "balanced_accuracy", "accuracy")
_SECONDARY = {
    "segmentation": ("nsd", "hd95_mm"),
    "classification": ("balanced_accuracy", "auroc"),
    "regression": (),
    "retrieval": ("recall_at_1",),
}
RARE = 5  # test patients below which a class is pointed out
Predictions = Mapping[tuple[str, str, int], "pd.DataFrame"]


@dataclass(frozen=True)
class Layout:
    """How a study is laid out.

    Attributes:
        info: what is predicted.
        arms: names in order; the simple baseline (``"floor"``) last where there is one.
        baselines: arm → the arm it is compared with; those that are compared with none are left out.
        budgets: as asked → number of training patients (mean over repeats), in growing order.
        repeats: label draws.
        floor: name of the simple baseline's arm; None if there is none.
    """

    info: TaskInfo
    arms: tuple[str, ...]
    baselines: Mapping[str, str]
    budgets: Mapping[str, float]
    repeats: int
    floor: str | None = None

    @property
    def headline(self) -> str:
        """The metric claims rest on."""
        return HEADLINE[self.info.task]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Arms that are compared with a baseline."""
        return tuple(a for a in self.arms if a in self.baselines)


def summarise(table: pd.DataFrame, predictions: Predictions, layout: Layout) -> dict[str, Any]:
    """Everything the report shows, as plain data.

    Args:
        table: the results table (``medssl.evaluation.results.COLUMNS``).
        predictions: (arm, budget, repeat) → per-item predictions of the finished cells; empty for segmentation.
        layout: of the study.

    Returns:
        ``results`` (one entry an arm, budget, metric and class), ``comparisons`` (headline metric against the baseline,
        Holm-adjusted over arms × budgets), ``secondary`` (other metrics, Benjamini-Hochberg-adjusted, for exploration),
        ``efficiency`` (labels that the baseline would need for the same result, share of the gap to all labels),
        ``areas`` under the curves, ``planning`` (smallest effect this many test patients can show) and ``caveats``
        (sentences about the data).
    """
    patients = sorted(p for p in table["patient"].unique() if p != POOLED)
    cells = dict(iter(table.groupby(["encoder", "budget", "repeat"], sort=False)))
    book = _Book(cells, predictions, layout, patients)
    comparisons = _comparisons(book, (layout.headline,))
    for entry, adjusted in zip(comparisons, holm([c["p"] for c in comparisons]), strict=True):
        entry["p_holm"] = adjusted
    secondary = _comparisons(book, _SECONDARY[layout.info.task])
    for entry, adjusted in zip(secondary, benjamini_hochberg([c["p"] for c in secondary]), strict=True):
        entry["p_bh"] = adjusted
    return {
        "metric": layout.headline,
        "results": list(_results(book)),
        "comparisons": comparisons,
        "secondary": secondary,
        "efficiency": list(_efficiency(book)),
        "areas": list(_areas(book)),
        "caveats": _rare_classes(book),
        "planning": {"n_test_patients": len(patients), "detectable_effect_sd": detectable_effect(len(patients))},
    }


class _Book:
    """Finds the estimand of any arm, budget and metric; each is built once."""

    def __init__(
        self, cells: Mapping[Any, pd.DataFrame], predictions: Predictions, layout: Layout, patients: Sequence[str]
    ) -> None:
        self.cells, self.predictions, self.layout, self.patients = cells, predictions, layout, list(patients)
        self._counts: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._aurocs: dict[tuple[str, str], AUROC | None] = {}

    def rows(self, arm: str, budget: str) -> list[pd.DataFrame]:
        """The rows of each repeat."""
        return [self.cells[arm, budget, r] for r in range(self.layout.repeats) if (arm, budget, r) in self.cells]

    def estimand(self, arm: str, budget: str, metric: str, name: str = "") -> Estimand | None:
        """None where the metric cannot be resampled by patients (calibration, AUPRC, ...)."""
        if not self.rows(arm, budget):
            return None
        if self.layout.info.task != "classification":
            return self._mean(arm, budget, metric, name)
        if metric == "auroc":
            return self._auroc(arm, budget) if not name else None
        if metric in _COUNTED and not name:
            if metric == "accuracy" and self.layout.info.multilabel:
                return self._mean(arm, budget, metric, name)
            return Counts(self._counts_of(arm, budget), metric)
        if metric in ("f1", "recall") and name:
            return Counts(self._counts_of(arm, budget), metric, self.layout.info.classes.index(name))
        return None

    def _mean(self, arm: str, budget: str, metric: str, name: str) -> Mean | None:
        values = []
        for rows in self.rows(arm, budget):
            own = rows[(rows["metric"] == metric) & (rows["class"] == name) & (rows["patient"] != POOLED)]
            values.append(own.set_index("patient")["value"].reindex(self.patients).to_numpy(np.float64))
        table = np.stack(values)
        return Mean(table) if np.isfinite(table).any() else None

    def _counts_of(self, arm: str, budget: str) -> NDArray[np.float64]:
        if (arm, budget) not in self._counts:
            parts = [counts_of(rows, self.patients, self.layout.info.classes) for rows in self.rows(arm, budget)]
            self._counts[arm, budget] = np.stack(parts)
        return self._counts[arm, budget]

    def _auroc(self, arm: str, budget: str) -> AUROC | None:
        if (arm, budget) not in self._aurocs:
            self._aurocs[arm, budget] = self._make_auroc(arm, budget)
        return self._aurocs[arm, budget]

    def _make_auroc(self, arm: str, budget: str) -> AUROC | None:
        info = self.layout.info
        found = [self.predictions.get((arm, budget, r)) for r in range(self.layout.repeats)]
        any_one = next((f for f in found if f is not None), None)
        if any_one is None:
            return None
        order = {p: i for i, p in enumerate(self.patients)}
        owners = np.array([order[str(p)] for p in any_one["patient"]])
        classes = info.classes[1:] if len(info.classes) == 2 and not info.multilabel else info.classes
        truth = [_positive(any_one, c, info.multilabel) for c in classes]
        # a failed repeat ranks every case wrongly: it counts as the worst value, AUROC 0
        wrong = np.stack([~t for t in truth], axis=1).astype(np.float64)
        scores = [wrong if f is None else f[[f"p/{c}" for c in classes]].to_numpy(np.float64) for f in found]
        return AUROC.of(scores, truth, owners)


def _rare_classes(book: _Book) -> list[str]:
    """Classes that rest on very few test patients, where no interval can be trusted."""
    info = book.layout.info
    if info.task != "classification" or info.multilabel:
        return []
    arm, budget = next(iter((a, b) for a, b, _ in book.cells))
    tp, _, fn = book._counts_of(arm, budget)[0]
    having = ((tp + fn) > 0).sum(0)
    return [
        f"class {name} occurs in {n} of the {len(book.patients)} test patients, so its numbers, and averages over "
        f"classes, rest on {'that one' if n == 1 else 'those few'}"
        for name, n in zip(info.classes, having, strict=True)
        if n < RARE
    ]


def _positive(predictions: pd.DataFrame, name: str, multilabel: bool) -> NDArray[np.bool_]:
    if multilabel:
        return predictions[f"y/{name}"].to_numpy(np.float64) > 0.5
    return np.asarray(predictions["y_true"].astype(str) == name)


def _results(book: _Book) -> Iterator[dict[str, Any]]:
    layout = book.layout
    for arm in layout.arms:
        for budget, n_training in layout.budgets.items():
            repeats = book.rows(arm, budget)
            if not repeats:
                continue
            keys = dict.fromkeys(
                (m, c) for rows in repeats for m, c in zip(rows["metric"], rows["class"], strict=True)
                if m not in ("n", "tp", "fp", "fn", "prevalence", "error")
            )  # fmt: skip
            failed = sum(bool(rows["failed"].all()) for rows in repeats)
            for metric, name in keys:
                entry = _estimate(book, arm, budget, metric, name)
                if entry is not None:
                    yield {
                        "encoder": arm, "budget": budget, "n_training_patients": n_training, "metric": metric,
                        "class": name, **entry, "n_repeats": len(repeats), "n_failed": failed,
                    }  # fmt: skip


def _estimate(book: _Book, arm: str, budget: str, metric: str, name: str) -> dict[str, Any] | None:
    """Mean, interval and spread over repeats of one metric."""
    estimand = book.estimand(arm, budget, metric, name)
    if estimand is not None:
        interval = estimand.interval()
        values = estimand.repeats()
        bounds = {"low": interval.low, "high": interval.high, "interval": interval.method}
        return {"mean": interval.mean, **bounds, "sd_repeats": _sd(values), "n_patients": len(book.patients)}
    pooled = [
        rows.loc[(rows["metric"] == metric) & (rows["class"] == name) & (rows["patient"] == POOLED), "value"]
        for rows in book.rows(arm, budget)
    ]
    values = np.array([float(v.mean()) for v in pooled if len(v)])  # of the folds, where there are several
    if not len(values):
        return None
    nothing = {"low": math.nan, "high": math.nan, "interval": "none"}
    return {"mean": float(values.mean()), **nothing, "sd_repeats": _sd(values), "n_patients": len(book.patients)}


def _sd(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _comparisons(book: _Book, metrics: Sequence[str]) -> list[dict[str, Any]]:
    layout = book.layout
    out = []
    for metric in metrics:
        sign = 1.0 if info_of(metric).higher_is_better else -1.0
        for arm in layout.contenders:
            for budget, n_training in layout.budgets.items():
                first, second = (book.estimand(a, budget, metric) for a in (arm, layout.baselines[arm]))
                if first is None or second is None:
                    continue
                found = compare(first, second)
                out.append({
                    "encoder": arm, "baseline": layout.baselines[arm], "budget": budget,
                    "n_training_patients": n_training, "metric": metric, **asdict(found),
                    "better": bool(sign * found.difference > 0),
                })  # fmt: skip
    return out


def _curve(book: _Book, arm: str) -> dict[float, Estimand]:
    """Budget in patients → the headline metric of an arm."""
    found = {n: book.estimand(arm, b, book.layout.headline) for b, n in book.layout.budgets.items()}
    return {n: estimand for n, estimand in found.items() if estimand is not None}


def _efficiency(book: _Book) -> Iterator[dict[str, Any]]:
    higher = info_of(book.layout.headline).higher_is_better
    for arm in book.layout.contenders:
        baseline = _curve(book, book.layout.baselines[arm])
        for budget, n in book.layout.budgets.items():
            own = book.estimand(arm, budget, book.layout.headline)
            needed = labels_needed(own, baseline, higher_is_better=higher) if own and n in baseline else None
            if own is None or needed is None:
                continue
            about = {"encoder": arm, "baseline": book.layout.baselines[arm], "budget": budget}
            most = max(baseline)
            gap = gap_closed(own, baseline[n], baseline[most], higher_is_better=higher) if n < most else None
            yield about | {
                "n_training_patients": n, **{name: _bounded(v) for name, v in asdict(needed).items()},
                "gap_closed": gap.share if gap else math.nan, "gap_low": gap.low if gap else math.nan,
                "gap_high": gap.high if gap else math.nan,
            }  # fmt: skip


def _bounded(value: float) -> float | str:
    """JSON has no infinity; beyond the largest budget is said in words."""
    return "beyond" if math.isinf(value) else value


def _areas(book: _Book) -> Iterator[dict[str, Any]]:
    for arm, baseline in book.layout.baselines.items():
        curves = [_curve(book, name) for name in (arm, baseline)]
        common = sorted(set(curves[0]) & set(curves[1]))
        if len(common) > 1:
            first, second = (curve_area({n: curve[n] for n in common}) for curve in curves)
            found = compare(first, second)
            yield {
                "encoder": arm, "baseline": baseline, "area": float(first.repeats().mean()),
                "difference": found.difference, "low": found.low, "high": found.high, "p": found.p,
            }  # fmt: skip
