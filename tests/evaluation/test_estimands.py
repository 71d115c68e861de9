"""Weighted statistics against computing the metric on a real resample of items."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from medssl.evaluation.estimands import AUROC, Counts, Mean, compare
from medssl.evaluation.metrics import confusion_counts

PATIENTS, CLASSES, REPEATS = 8, 3, 2


@pytest.fixture
def items() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient, true class and probabilities (R, n, K) of unequal numbers of items."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(PATIENTS), rng.integers(5, 20, PATIENTS))
    y = rng.integers(0, CLASSES, len(patients))
    p = rng.dirichlet(np.ones(CLASSES), (REPEATS, len(y))).round(2)  # rounding makes ties
    return patients, y, p + 0.3 * np.eye(CLASSES)[y]


def counts(items: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    patients, y, p = items
    out = np.zeros((REPEATS, 3, PATIENTS, CLASSES))
    for r, i in itertools.product(range(REPEATS), range(PATIENTS)):
        own = patients == i
        c = confusion_counts(p[r][own].argmax(1), y[own], CLASSES)
        hit = np.diag(c)
        out[r, :, i] = hit, c.sum(0) - hit, c.sum(1) - hit
    return out


def resample(patients: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.concatenate([np.tile(np.flatnonzero(patients == i), w) for i, w in enumerate(weights)])


WEIGHTS = np.array([[1] * PATIENTS, [0, 2, 1, 3, 0, 1, 1, 0], [4, 0, 0, 2, 0, 0, 1, 1]])


@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy", "accuracy"])
def test_counts(items: tuple[np.ndarray, np.ndarray, np.ndarray], metric: str) -> None:
    patients, y, p = items
    got = Counts(counts(items), metric).per_repeat(WEIGHTS)
    for b, r in itertools.product(range(len(WEIGHTS)), range(REPEATS)):
        rows = resample(patients, WEIGHTS[b])
        true, guess = y[rows], p[r][rows].argmax(1)
        score = {"macro_f1": lambda t, g: sk.f1_score(t, g, average="macro"),
                 "balanced_accuracy": sk.balanced_accuracy_score, "accuracy": sk.accuracy_score}[metric]  # fmt: skip
        assert got[r, b] == pytest.approx(score(true, guess))


def test_one_class(items: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, y, p = items
    got = Counts(counts(items), "f1", index=2).repeats()
    assert got[1] == pytest.approx(sk.f1_score(y, p[1].argmax(1), average=None)[2])


def test_auroc(items: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    patients, y, p = items
    estimand = AUROC.of(list(p), [y == k for k in range(CLASSES)], patients)
    got = estimand.per_repeat(WEIGHTS)
    for b, r in itertools.product(range(len(WEIGHTS)), range(REPEATS)):
        rows = resample(patients, WEIGHTS[b])
        assert got[r, b] == pytest.approx(
            np.mean([sk.roc_auc_score(y[rows] == k, p[r][rows, k]) for k in range(CLASSES)])
        )


def test_auroc_without_negatives_is_undefined() -> None:
    only = AUROC.of([np.ones((4, 1))], [np.ones(4, dtype=bool)], np.arange(4))
    assert math.isnan(only(np.ones((1, 4), dtype=int))[0])


def test_mean_leaves_out_patients_without_a_value() -> None:
    got = Mean(np.array([[1.0, np.nan, 3.0]])).per_repeat(np.array([[1, 1, 1], [1, 5, 0], [0, 1, 0]]))
    np.testing.assert_allclose(got, [[2, 1, np.nan]])


def test_equal_arms_do_not_differ(items: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    arm = Counts(counts(items), "macro_f1")
    got = compare(arm, arm)
    assert (got.difference, got.low, got.high, got.p) == (0, 0, 0, 1)


def test_the_swap_test_is_a_sign_flip_when_the_metric_is_a_mean() -> None:
    rng = np.random.default_rng(1)
    a, b = np.zeros((2, 1, 3, 10, 1))
    for arm, rate in ((a, 0.8), (b, 0.4)):
        arm[0, 0, :, 0] = rng.binomial(20, rate, 10)
        arm[0, 2, :, 0] = 20 - arm[0, 0, :, 0]
    got = compare(Counts(a, "accuracy"), Counts(b, "accuracy"))
    same = compare(Mean(a[:, 0, :, 0] / 20), Mean(b[:, 0, :, 0] / 20))
    assert got.p == pytest.approx(same.p) and got.difference == pytest.approx(same.difference)
    assert got.test.startswith("permutation") and same.test.startswith("sign-flip")


def test_repeats_of_a_patient_are_averaged_before_the_test() -> None:
    rng = np.random.default_rng(2)
    effect = rng.normal(0.2, 1, 12)
    once = compare(Mean(effect[None]), Mean(np.zeros((1, 12))))
    copied = compare(Mean(np.tile(effect, (4, 1))), Mean(np.zeros((4, 12))))
    assert copied == once


def test_a_clear_auroc_difference_is_found(items: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    patients, y, p = items
    masks = [y == k for k in range(CLASSES)]
    noise = np.random.default_rng(3).random(p.shape)
    got = compare(AUROC.of(list(p), masks, patients), AUROC.of(list(noise), masks, patients))
    assert got.difference > 0.2 and got.low > 0 and got.p < 0.01
