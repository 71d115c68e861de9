"""Can a label be told from metadata alone? Then a model may learn the scanner and not the disease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.audit.facts import Facts
from medssl.audit.findings import Finding
from medssl.audit.prediction import (
    FEWEST,
    Folds,
    Problem,
    balanced_accuracy,
    folds_of,
    interval_of,
    out_of_fold,
    permutation_p,
    score_of,
)
from medssl.evaluation.intervals import Interval

__all__ = ["Shortcut", "association", "copies_of_label", "look_for_shortcuts", "manageable", "shortcut_finding"]

TOO_GOOD = {"AUROC": 0.7, "R²": 0.12}  # an R² of 0.12 is about as strong a dependence as an AUROC of 0.7
ASSOCIATED = 0.3
MOST_ITEMS = 2000
TOP = 5


@dataclass(frozen=True)
class Shortcut:
    """How well a table of facts predicts a label.

    Attributes:
        interval: AUROC or R² with its interval over patients.
        p: of the permutation test; NaN where none was asked for.
        balanced: balanced accuracy; None where classes are not exclusive.
        columns: (name, score of that column alone), best first.
        problem: what was predicted.
    """

    interval: Interval
    p: float
    balanced: Interval | None
    columns: Sequence[tuple[str, float]]
    problem: Problem

    @property
    def telling(self) -> bool:
        """Too good, surely above chance, and not by luck."""
        i = self.interval
        return bool(i.mean > TOO_GOOD[self.problem.metric] and i.low > self.problem.chance and not self.p > 0.05)

    def __str__(self) -> str:
        i, more = self.interval, ""
        if np.isfinite(i.low):
            more += f", 95 % interval {i.low:.2f} to {i.high:.2f}"
        if np.isfinite(self.p):
            more += f", permutation p {self.p:.2g}"
        if self.balanced is not None:
            more += f"; balanced accuracy {self.balanced.mean:.2f}, chance {1 / len(self.problem.classes):.2f}"
        return (
            f"{self.problem.metric} {i.mean:.2f} ({more.lstrip(', ')})"
            if more
            else f"{self.problem.metric} {i.mean:.2f}"
        )

    def to_plain(self) -> dict[str, Any]:
        """For the JSON file."""
        i, b = self.interval, self.balanced
        return {
            "metric": self.problem.metric, "score": i.mean, "low": i.low, "high": i.high, "interval": i.method,
            "p": self.p, "n_patients": i.n, "n_items": len(self.problem.y), "classes": list(self.problem.classes),
            "balanced_accuracy": None if b is None else {"mean": b.mean, "low": b.low, "high": b.high},
            "columns": [{"name": name, "score": score} for name, score in self.columns],
        }  # fmt: skip


def manageable(problem: Problem, seed: int) -> tuple[NDArray[np.int64], tuple[str, ...], str]:
    """Items to work with: classes that enough patients have, and at most 2,000 items, as even over patients as can be.

    Returns:
        Indices of the items, names of the classes that remain, and in words what was left out.
    """
    rows, classes, said = np.arange(len(problem.y)), problem.classes, []
    if problem.kind == "classes":
        have = [len(np.unique(problem.patients[own])) for own in problem.columns()]
        keep = [k for k, n in enumerate(have) if n >= FEWEST]
        if 2 <= len(keep) < len(classes):
            said.append("without " + ", ".join(classes[k] for k in range(len(classes)) if k not in keep) + " (rare)")
            rows, classes = np.flatnonzero(np.isin(problem.y, keep)), tuple(classes[k] for k in keep)
    if len(rows) > MOST_ITEMS:
        said.append(f"{MOST_ITEMS} of {len(rows)} items")
        rows = rows[_even(problem.patients[rows], np.random.default_rng([seed, 2]))]
    return rows, classes, ", ".join(said)


def _even(patients: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The first item of every patient in random order, then the second of each, and so on, until there are enough."""
    shuffled = rng.permutation(len(patients))
    order = shuffled[np.argsort(patients[shuffled], kind="stable")]
    sorted_ = patients[order]
    starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]])
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[np.lexsort((rng.random(len(order)), turn))[:MOST_ITEMS]])


def renumbered(problem: Problem, rows: NDArray[np.int64], classes: tuple[str, ...]) -> Problem:
    """The problem of some items, with patients and classes numbered anew without gaps."""
    y = problem.y[rows]
    if problem.kind == "classes":
        place = {problem.classes.index(name): i for i, name in enumerate(classes)}
        y = np.array([place[int(k)] for k in y], dtype=np.int64)
    patients = np.unique(problem.patients[rows], return_inverse=True)[1].astype(np.int64)
    return replace(problem, y=y, patients=patients, classes=classes)


def look_for_shortcuts(problem: Problem, facts: Facts, *, permutations: int, seed: int) -> Shortcut | None:
    """Predict a label from facts of the same items; None where there is nothing to learn or nobody to test on.

    Args:
        problem: at least two classes, or numbers.
        facts: (n, D).
        permutations: of patients' facts; 0 for no test.
        seed: of folds, bootstrap and permutations.
    """
    folds = folds_of(problem, seed) if facts.x.shape[1] else None
    if folds is None:
        return None
    answers = out_of_fold(facts.x, facts.categorical, problem, folds)
    p = np.nan
    if permutations:
        p = permutation_p(
            facts.x, facts.categorical, problem, folds, score_of(problem, answers), times=permutations, seed=seed
        )
    interval = interval_of(problem, answers, seed=seed)
    interval = replace(interval, high=min(interval.high, 1.0))  # of Student's t, which knows no bounds
    return Shortcut(
        interval, p, balanced_accuracy(problem, answers, seed=seed), _single(problem, facts, folds), problem
    )


def _single(problem: Problem, facts: Facts, folds: Folds) -> list[tuple[str, float]]:
    """Score of every column alone, best first."""
    if len(facts.names) == 1:
        return []
    scores = [
        score_of(problem, out_of_fold(facts.x[:, [i]], facts.categorical[[i]], problem, folds))
        for i in range(len(facts.names))
    ]
    return sorted(zip(facts.names, scores, strict=True), key=lambda pair: -pair[1])


def shortcut_finding(found: Shortcut, target: str, what: str = "metadata") -> Finding | None:
    """A warning where the facts tell the label."""
    if not found.telling:
        return None
    best = [(n, s) for n, s in found.columns if s > found.problem.chance][:TOP]
    names = ", ".join(f"{name} {score:.2f}" for name, score in best) or "only together"
    return Finding(
        "warning", "shortcuts",
        f"{what} alone predict '{target}' of patients they have not seen: {found} (most telling alone: {names}): "
        "even them out (equal length, size, source) or test on others, and report this score as the floor to beat",
        [{"column": name, "score": score} for name, score in found.columns],
    )  # fmt: skip


def copies_of_label(problem: Problem, facts: Facts) -> list[str]:
    """Columns that are the label under another name: one value for each class, or correlated above 0.999."""
    if problem.kind == "labels":
        return []
    y = problem.y.astype(np.float64)
    found = []
    for name, x in zip(facts.names, facts.x.T, strict=True):
        known = np.isfinite(x)
        if known.mean() < 0.5 or len(np.unique(x[known])) < 2 or len(np.unique(y[known])) < 2:
            continue
        pairs = len(np.unique(np.stack([x[known], y[known]]), axis=1).T)
        same = problem.kind == "classes" and pairs == len(np.unique(x[known])) == len(np.unique(y[known]))
        if same or abs(float(np.corrcoef(x[known], y[known])[0, 1])) > 0.999:
            found.append(name)
    return found


def association(
    y: NDArray[np.int64], site: NDArray[np.int64], patients: NDArray[np.int64]
) -> tuple[float, float] | None:
    """Cramér's V of class and site over patients (each counts once, with its first item), and the χ² p.

    V is corrected for its bias in small samples (Bergsma 2013). None with fewer than two classes or sites.
    """
    from scipy.stats import chi2_contingency

    first = np.unique(patients, return_index=True)[1]
    _, a = np.unique(y[first], return_inverse=True)
    _, b = np.unique(site[first], return_inverse=True)
    rows, columns, n = a.max() + 1, b.max() + 1, len(first)
    if min(rows, columns) < 2 or n < 3:
        return None
    table = np.bincount(a * columns + b, minlength=rows * columns).reshape(rows, columns)
    chi2, p, *_ = chi2_contingency(table, correction=False)
    phi2 = max(0.0, chi2 / n - (rows - 1) * (columns - 1) / (n - 1))
    smaller = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return (float(np.sqrt(phi2 / smaller)) if smaller > 0 else 0.0), float(p)
