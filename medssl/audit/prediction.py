"""How well a table predicts a label on patients it has not seen: boosted trees, cross-validated by patient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.estimands import AUROC, Counts
from medssl.evaluation.intervals import Interval, jackknife_interval
from medssl.evaluation.metrics.classification import auroc

__all__ = ["Problem", "balanced_accuracy", "folds_of", "interval_of", "out_of_fold", "permutation_p", "score_of"]

Array = NDArray[np.float64]
Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]
FEWEST = 5  # patients below which nothing can be cross-validated
_ENOUGH = 10  # permutations as good as the truth after which no more are needed


@dataclass(frozen=True)
class Problem:
    """A label to be predicted.

    Attributes:
        kind: ``"classes"`` (exclusive), ``"labels"`` (several at once) or ``"number"``.
        y: (n,) class index, (n, K) 0/1, or (n,) number.
        patients: (n,) number of the patient, 0 to P - 1.
        classes: names; empty for a number.
    """

    kind: Literal["classes", "labels", "number"]
    y: NDArray[Any]
    patients: NDArray[np.int64]
    classes: tuple[str, ...] = ()

    @property
    def chance(self) -> float:
        """What a table that says nothing gets."""
        return 0.0 if self.kind == "number" else 0.5

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "R²" if self.kind == "number" else "AUROC"

    def columns(self) -> list[NDArray[np.bool_]]:
        """(n,) mask of each class's positives."""
        if self.kind == "labels":
            return [self.y[:, k] > 0 for k in range(len(self.classes))]
        return [self.y == k for k in range(len(self.classes))]


def folds_of(problem: Problem, seed: int) -> Folds | None:
    """Up to five folds of whole patients, exclusive classes balanced; None with too few patients."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    n_patients = len(np.unique(problem.patients))
    n = np.arange(len(problem.y))
    if problem.kind != "classes":
        if n_patients < FEWEST:
            return None
        return list(GroupKFold(5, shuffle=True, random_state=seed).split(n, groups=problem.patients))
    pairs = np.unique(np.stack([problem.y, problem.patients]), axis=1)
    splits = min(5, int(np.bincount(pairs[0])[np.unique(problem.y)].min()))
    if splits < 2:
        return None
    made = StratifiedGroupKFold(splits, shuffle=True, random_state=seed)
    return list(made.split(n, problem.y, groups=problem.patients))


def out_of_fold(x: Array, categorical: NDArray[np.bool_], problem: Problem, folds: Folds) -> Array:
    """Probabilities (n, K) or numbers (n,) of every row, from models of other patients."""
    if problem.kind == "labels":
        single = [
            Problem("classes", own.astype(np.int64), problem.patients, ("no", "yes")) for own in problem.columns()
        ]
        return np.stack([out_of_fold(x, categorical, p, folds)[:, 1] for p in single], axis=1)
    out = np.zeros(len(x) if problem.kind == "number" else (len(x), len(problem.classes)))
    for train, test in folds:
        out[test] = _answers(x[train], categorical, problem, problem.y[train], x[test])
    return out


def _answers(x: Array, categorical: NDArray[np.bool_], problem: Problem, y: NDArray[Any], asked: Array) -> Array:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    tree: dict[str, Any] = {
        "max_iter": 20, "learning_rate": 0.2, "max_leaf_nodes": 8, "l2_regularization": 1.0, "random_state": 0,
        "min_samples_leaf": int(np.clip(len(y) // 20, 2, 20)), "categorical_features": categorical,
        "early_stopping": False,
    }  # fmt: skip
    if problem.kind == "number":
        predicted: Array = HistGradientBoostingRegressor(**tree).fit(x, y).predict(asked)
        return predicted
    out = np.zeros((len(asked), len(problem.classes)))
    seen = np.unique(y)
    if len(seen) == 1:
        out[:, seen[0]] = 1
        return out
    out[:, seen] = HistGradientBoostingClassifier(class_weight="balanced", **tree).fit(x, y).predict_proba(asked)
    return out


def score_of(problem: Problem, answers: Array) -> float:
    """AUROC, one class against the rest and averaged, or R² against the mean."""
    if problem.kind == "number":
        total = float(np.square(problem.y - problem.y.mean()).sum())
        return 1 - float(np.square(problem.y - answers).sum()) / total if total > 0 else math.nan
    each = [auroc(answers[:, k], own) for k, own in enumerate(problem.columns()) if 0 < own.sum() < len(own)]
    return float(np.mean(each)) if each else math.nan


def interval_of(problem: Problem, answers: Array, *, seed: int = 0) -> Interval:
    """The score with its 95 % interval over patients."""
    n = int(problem.patients.max()) + 1
    if problem.kind != "number":
        return AUROC.of([answers], problem.columns(), problem.patients).interval(seed=seed)
    y = problem.y.astype(np.float64)
    sums = np.stack([
        np.bincount(problem.patients, weights=w, minlength=n) for w in (np.ones_like(y), y, y**2, (y - answers) ** 2)
    ])  # fmt: skip

    def r2(weights: NDArray[np.int32]) -> Array:
        count, first, second, error = sums @ weights.T.astype(np.float64)
        total = second - first**2 / count
        return np.where(total > 0, 1 - error / np.where(total > 0, total, 1), math.nan)

    return jackknife_interval(lambda weights: r2(weights)[None], n, seed=seed)


def balanced_accuracy(problem: Problem, answers: Array, *, seed: int = 0) -> Interval | None:
    """Mean recall of the classes with its interval; None where classes are not exclusive."""
    if problem.kind != "classes":
        return None
    n, k = int(problem.patients.max()) + 1, len(problem.classes)
    said = answers.argmax(1)
    hit, lost = problem.patients[said == problem.y], problem.patients[said != problem.y]
    counts = np.zeros((1, 3, n, k))
    np.add.at(counts[0, 0], (hit, problem.y[said == problem.y]), 1)
    np.add.at(counts[0, 1], (lost, said[said != problem.y]), 1)
    np.add.at(counts[0, 2], (lost, problem.y[said != problem.y]), 1)
    return Counts(counts, "balanced_accuracy").interval(seed=seed)


def permutation_p(
    x: Array, categorical: NDArray[np.bool_], problem: Problem, folds: Folds, observed: float, *, times: int, seed: int
) -> float:
    """Share of permutations that predict as well, the truth counted among them.

    Patients exchange their facts, each item getting those of some item of the same other patient: labels and facts keep
    how alike they are within a patient. It stops early when ten permutations were as good: the answer is then clear.
    """
    rng = np.random.default_rng([seed, 1])
    hits = 0
    for done in range(1, times + 1):
        answers = out_of_fold(x[_dealt(problem.patients, rng)], categorical, problem, folds)
        hits += score_of(problem, answers) >= observed
        if hits >= _ENOUGH:
            return hits / done
    return (1 + hits) / (1 + times)


def _dealt(patients: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.intp]:
    """For each item an item of the patient whose facts it gets."""
    counts = np.bincount(patients)
    owner = rng.permutation(len(counts))[patients]
    pick = (np.cumsum(counts) - counts)[owner] + (rng.random(len(patients)) * counts[owner]).astype(np.int64)
    return np.asarray(np.argsort(patients, kind="stable")[pick])
