"""Statistics as functions of patient weights, so that one bootstrap serves means, F1 and AUROC alike.

A resample of patients is a vector of how often each was drawn. Means, confusion counts and the number of concordant
pairs behind an AUROC are linear or bilinear in that vector, so 2,000 resamples are a few matrix products and no case is
scored twice. Every estimand averages over the repeats of a study (same patients, other label draws and seeds).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.intervals import FEWEST_DRAWS, Interval, crossed_interval, jackknife_interval
from medssl.evaluation.statistics import EXACT_LIMIT, effect_size, sign_flip, wilcoxon

__all__ = ["AUROC", "Counts", "Difference", "Estimand", "Mean", "compare"]

Array = NDArray[np.float64]


class Estimand(ABC):
    """One metric of one arm over P patients and R repeats."""

    n_patients: int

    @abstractmethod
    def per_repeat(self, weights: NDArray[np.integer]) -> Array:
        """Values (R, B) for patient weights (B, P); NaN where undefined."""

    def __call__(self, weights: NDArray[np.integer]) -> Array:
        """Mean over repeats: (B,)."""
        return np.asarray(self.per_repeat(weights).mean(0))

    def repeats(self) -> Array:
        """(R,) values with every patient once."""
        return self.per_repeat(np.ones((1, self.n_patients), dtype=np.int32))[:, 0]

    def interval(self, *, seed: int = 0) -> Interval:
        """Estimate with its 95 % interval over patients."""
        return jackknife_interval(self.per_repeat, self.n_patients, seed=seed)


class Mean(Estimand):
    """Mean over patients of a per-patient value.

    Args:
        values: (R, P); NaN where a patient has none.
    """

    def __init__(self, values: NDArray[np.floating]) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        self.n_patients = self.values.shape[1]

    def per_repeat(self, weights: NDArray[np.integer]) -> Array:
        known = np.isfinite(self.values)
        total = np.where(known, self.values, 0) @ weights.T
        count = known.astype(np.float64) @ weights.T
        return np.where(count > 0, total / np.where(count > 0, count, 1), math.nan)

    def per_patient(self) -> Array:
        """(P,) means over repeats."""
        return np.asarray(self.values.mean(0))

    def interval(self, *, seed: int = 0) -> Interval:
        """Over patients, and over draws too from 5 repeats on."""
        if not np.isfinite(self.values).all():
            return super().interval(seed=seed)
        return crossed_interval(self.values, seed=seed)


class Counts(Estimand):
    """Macro-F1, balanced accuracy or accuracy from counts that add up over patients.

    Macro averages run over the classes that have a case in the whole test set. A resample that lacks one of them is
    undefined (NaN): its average would be of something else.

    Args:
        counts: (R, 3, P, K) true positives, false positives, false negatives.
        metric: ``"macro_f1"``, ``"balanced_accuracy"``, ``"f1"``, ``"recall"`` or ``"accuracy"``.
        index: the class, for ``"f1"`` and ``"recall"``.
    """

    def __init__(self, counts: NDArray[np.floating], metric: str, index: int | None = None) -> None:
        self.counts = np.asarray(counts, dtype=np.float64)
        self.metric, self.index = metric, index
        self.n_patients = self.counts.shape[2]
        self.present = (self.counts[:, 0] + self.counts[:, 2]).sum((0, 1)) > 0

    def per_repeat(self, weights: NDArray[np.integer]) -> Array:
        summed = np.einsum("rcpk,bp->rcbk", self.counts, weights.astype(np.float64), optimize=True)
        return self.of_counts(summed)

    def of_counts(self, summed: Array) -> Array:
        """The metric of summed counts (R, 3, B, K): (R, B)."""
        tp, fp, fn = (summed[:, i] for i in range(3))
        if self.metric == "accuracy":  # exclusive classes: every case is one true positive or one false negative
            cases = (tp + fn).sum(-1)
            return np.where(cases > 0, tp.sum(-1) / np.where(cases > 0, cases, 1), math.nan)
        there = tp + fn > 0
        over = 2 * tp + fp + fn if self.metric in ("macro_f1", "f1") else tp + fn
        gain = 2 * tp if self.metric in ("macro_f1", "f1") else tp
        score = np.where(there, gain / np.where(there, over, 1), math.nan)
        if self.index is not None:
            return np.asarray(score[..., self.index])
        return (
            np.asarray(score[..., self.present].mean(-1)) if self.present.any() else np.full(score.shape[:-1], math.nan)
        )


class AUROC(Estimand):
    """One-vs-rest AUROC, averaged over the classes that have positives and negatives in the whole test set.

    A resample without positives or negatives of one of them is undefined (NaN).

    Args:
        pairs: (R, K, P, P) float32, concordant pairs of a positive case of the first and a negative case of the
            second patient, ties counted half; see ``AUROC.of``.
        positives: (K, P) positive cases of each patient.
        negatives: (K, P).
    """

    def __init__(self, pairs: NDArray[np.float32], positives: Array, negatives: Array) -> None:
        self.pairs, self.positives, self.negatives = pairs, positives, negatives
        self.n_patients = positives.shape[1]
        self.present = (positives.sum(1) > 0) & (negatives.sum(1) > 0)

    @classmethod
    def of(cls, scores: Sequence[Array], positive: Sequence[NDArray[np.bool_]], patients: NDArray[np.integer]) -> AUROC:
        """From R repeats on the same items.

        Args:
            scores: R arrays (n, K).
            positive: K masks (n,).
            patients: (n,) index of each item's patient, 0 to P − 1.
        """
        n_patients = int(patients.max()) + 1 if len(patients) else 0
        pairs = np.stack(
            [np.stack([_concordant(s[:, k], y, patients, n_patients) for k, y in enumerate(positive)]) for s in scores]
        )
        pos = np.stack([np.bincount(patients[y], minlength=n_patients) for y in positive]).astype(np.float64)
        neg = np.stack([np.bincount(patients[~y], minlength=n_patients) for y in positive]).astype(np.float64)
        return cls(pairs, pos, neg)

    def per_repeat(self, weights: NDArray[np.integer]) -> Array:
        w = weights.astype(np.float64)
        # one (P, P) matrix at a time: memory stays that of the weights however many repeats and classes there are
        hits = np.array([[((w @ pairs) * w).sum(1) for pairs in classes] for classes in self.pairs])
        total = (self.positives @ w.T) * (self.negatives @ w.T)
        share = np.where(total > 0, hits / np.where(total > 0, total, 1), math.nan)
        if not self.present.any():
            return np.full((len(self.pairs), len(w)), math.nan)
        return np.asarray(share[:, self.present].mean(1))


def _concordant(
    scores: Array, positive: NDArray[np.bool_], patients: NDArray[np.integer], n_patients: int
) -> NDArray[np.float32]:
    """(P, P) pairs in which a positive of the row's patient scores above a negative of the column's, ties half."""
    out = np.zeros((n_patients, n_patients), dtype=np.float32)
    owner = patients[positive]
    high = scores[positive]
    for q in range(n_patients):  # over patients, not cases: each turn is two binary searches for all positives
        low = np.sort(scores[~positive & (patients == q)])
        if len(low):
            below = (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")) / 2
            out[:, q] = np.bincount(owner, weights=below, minlength=n_patients)
    return out


@dataclass(frozen=True)
class Difference:
    """A paired comparison, first arm minus second.

    Attributes:
        difference: of the estimates.
        low, high: 95 % interval over patients.
        p: two-sided.
        test: how ``p`` was found.
        p_wilcoxon: signed-rank p of the patients' differences; NaN where patients have no value of their own.
        effect_size: mean over standard deviation of the patients' differences; NaN likewise.
        n_patients: pairs.
        interval: kind of interval.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str
    p_wilcoxon: float
    effect_size: float
    n_patients: int
    interval: str


def compare(first: Estimand, second: Estimand, *, seed: int = 0) -> Difference:
    """Paired difference of two arms over the same patients and repeats.

    With fewer than 5 label draws they are held fixed, and p is of a permutation test within patients where there is
    one. From 5 on their chance is part of p as it is of the interval: a permutation test of means over draws would call
    equal arms different in 8 % of studies.
    """
    if isinstance(first, Mean) and isinstance(second, Mean):
        return _compare_means(first, second, seed)
    interval = jackknife_interval(lambda w: first.per_repeat(w) - second.per_repeat(w), first.n_patients, seed=seed)
    p, test = interval.p, "jackknife t over patients"
    if isinstance(first, Counts) and isinstance(second, Counts):
        if len(first.counts) < FEWEST_DRAWS:
            p, test = _swap_test(first, second, seed), "permutation of arms within patients"
        else:
            test = "jackknife t over patients and label draws"
    return Difference(
        interval.mean, interval.low, interval.high, p, test, math.nan, math.nan, first.n_patients, interval.method
    )


def _compare_means(first: Mean, second: Mean, seed: int) -> Difference:
    d = first.per_patient() - second.per_patient()
    d = d[np.isfinite(d)]
    interval = Mean(first.values - second.values).interval(seed=seed)
    if interval.method == "crossed effects t":
        p, test = interval.p, "t with crossed effects of patients and label draws"
    else:
        p, test = sign_flip(d, seed=seed), "sign-flip permutation of patients"
    return Difference(
        interval.mean, interval.low, interval.high, p, test, wilcoxon(d), effect_size(d), len(d), interval.method
    )


def _swap_test(first: Counts, second: Counts, seed: int, *, flips: int = 10_000) -> float:
    """Permutation test that exchanges the two arms' counts within patients; exact for few patients."""
    n = first.n_patients
    if n <= min(EXACT_LIMIT, 13):
        swaps = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)
    else:
        swaps = np.random.default_rng(seed).integers(0, 2, (flips, n)).astype(np.float64)
        swaps[0] = 0  # the identity is one of them
    observed = abs(float(np.mean(first.repeats() - second.repeats())))
    if math.isnan(observed):
        return math.nan
    hits = 0
    for start in range(0, len(swaps), 2048):
        s = swaps[start : start + 2048]
        mixed = [np.einsum("rcpk,bp->rcbk", a, 1 - s, optimize=True) + np.einsum("rcpk,bp->rcbk", b, s, optimize=True)
                 for a, b in ((first.counts, second.counts), (second.counts, first.counts))]  # fmt: skip
        change = (first.of_counts(mixed[0]) - second.of_counts(mixed[1])).mean(0)
        hits += int((np.abs(change) >= observed - 1e-12).sum())
    return hits / len(swaps)
