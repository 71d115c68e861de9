"""Intervals on cases one can check by hand, and their promised coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from medssl.evaluation import intervals as iv
from medssl.evaluation.estimands import AUROC, Counts, Mean, compare

Array = np.ndarray


def test_the_kind_of_interval_depends_on_the_number_of_patients() -> None:
    values = np.random.default_rng(0).normal(size=40)
    few, some, many = (iv.patient_interval(values[:n]) for n in (4, 8, 40))
    assert few.method == "none" and math.isnan(few.low) and few.mean == pytest.approx(values[:4].mean())
    expected = student.interval(0.95, 7, values[:8].mean(), values[:8].std(ddof=1) / math.sqrt(8))
    assert some.method == "Student t" and (some.low, some.high) == pytest.approx(expected)
    assert many.method == "studentized bootstrap" and many.low < many.mean < many.high
    assert iv.patient_interval(values) == many, "equal input and seed give equal bounds"


def test_patients_without_spread_have_no_width() -> None:
    same = iv.patient_interval(np.full(30, 0.7))
    assert same.low == pytest.approx(0.7) and same.high == pytest.approx(0.7)


def test_a_skewed_mean_has_a_longer_side() -> None:
    values = 1 - np.random.default_rng(1).exponential(0.1, 40)  # Dice: most near 1, a tail towards 0
    got = iv.patient_interval(values)
    assert got.mean - got.low > 1.2 * (got.high - got.mean)


def test_bootstrap_weights_are_resamples_with_replacement() -> None:
    weights = iv.bootstrap_weights(7, 500, seed=1)
    assert (weights.sum(1) == 7).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.2)


def test_draws_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    patients = rng.normal(size=40)
    agree = np.tile(patients, (6, 1))
    disagree = agree + rng.normal(size=(6, 1))
    narrow, wide = iv.crossed_interval(agree), iv.crossed_interval(disagree)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert narrow.method == "crossed effects t"
    assert iv.crossed_interval(agree[:3]) == iv.patient_interval(agree[:3].mean(0))


def test_draws_that_agree_leave_the_interval_over_patients() -> None:
    values = np.random.default_rng(4).normal(size=12)
    got = iv.crossed_interval(np.tile(values, (5, 1)))
    expected = student.interval(0.95, 11, values.mean(), values.std(ddof=1) / math.sqrt(12))
    assert (got.low, got.high) == pytest.approx(expected)


def test_the_jackknife_of_a_mean_is_student_t() -> None:
    values = np.random.default_rng(5).normal(size=15)
    got = iv.jackknife_interval(lambda w: (w @ values / w.sum(1))[None], 15)
    expected = student.interval(0.95, 14, values.mean(), values.std(ddof=1) / math.sqrt(15))
    assert (got.low, got.high) == pytest.approx(expected) and got.method == "jackknife t"


def test_label_draws_widen_the_jackknife() -> None:
    values = np.random.default_rng(6).normal(size=(5, 20)) + 3 * np.arange(5)[:, None]
    draws, fixed = (iv.jackknife_interval(lambda w, v=v: v @ w.T / w.sum(1), 20) for v in (values, values[:4]))
    assert draws.high - draws.low > 3 * (fixed.high - fixed.low)


@pytest.mark.parametrize("needs", [lambda w: w[:, 0] > 0, lambda w: w[:, :2].sum(1) > 0], ids=["one", "two"])
def test_a_statistic_that_hangs_on_one_or_two_patients_is_not_given_an_interval(needs: object) -> None:
    got = iv.jackknife_interval(lambda w: np.where(needs(w), 1.0, np.nan)[None], 30)  # type: ignore[operator]
    assert got.method == "not estimable" and math.isnan(got.low) and got.skipped > 0.05


def _dice(rng: np.random.Generator, draws: int, patients: int) -> Array:
    """Skewed values (D, P) with a chance of patients, of draws (one draw is held fixed) and of both."""
    own, chance = rng.beta(8, 2, patients), 0.03 if draws > 1 else 0.0
    return own + rng.normal(0, chance, (draws, 1)) + rng.normal(0, 0.06, (draws, patients))


def _beats(rng: np.random.Generator, draws: int, patients: int) -> Array:
    """Counts (D, 3, P, 2) of patients who differ in prevalence and in how well they are answered."""
    positive = rng.binomial(30, rng.beta(2, 4, patients))
    skill = rng.beta(6, 3, patients), rng.beta(12, 2, patients)
    found = rng.binomial(positive, skill[0], (draws, patients))
    right = rng.binomial(30 - positive, skill[1], (draws, patients))
    lost, false = positive - found, 30 - positive - right
    return np.stack([np.stack(x, -1) for x in ((right, found), (lost, false), (false, lost))], 1).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 5])
@pytest.mark.parametrize("patients", [10, 20, 50])
def test_intervals_of_means_cover_the_truth(draws: int, patients: int) -> None:
    """94 to 96 % (less the chance of 1,500 simulations, 1.1 %)."""
    rng = np.random.default_rng(7)
    hits = []
    for trial in range(1500):
        got = Mean(_dice(rng, draws, patients)).interval(seed=trial)
        hits.append(got.low <= 0.8 <= got.high)
    assert 0.93 <= np.mean(hits) <= 0.97, np.mean(hits)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy"])
@pytest.mark.parametrize("patients", [20, 50])
def test_intervals_of_pooled_metrics_cover_the_truth(metric: str, patients: int) -> None:
    rng = np.random.default_rng(8)
    truth = float(Counts(_beats(rng, 1, 200_000), metric).repeats()[0])
    hits = []
    for _ in range(1000):
        got = Counts(_beats(rng, 1, patients), metric).interval()
        hits.append(got.low <= truth <= got.high)
    assert 0.925 <= np.mean(hits) <= 0.975, np.mean(hits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean", "counts", "auroc"])
@pytest.mark.parametrize("draws", [1, 5])
def test_arms_that_are_equally_good_are_told_apart_in_one_study_of_twenty(kind: str, draws: int) -> None:
    """False positives of the paired tests: at most 5 % (and the chance of 1,200 simulations, 1.3 %)."""
    rng = np.random.default_rng(9)
    false = []
    for trial in range(1200):
        if kind == "mean":
            both = Mean(_dice(rng, draws, 20)), Mean(_dice(rng, draws, 20))
        elif kind == "counts":
            first, second = _beats(rng, draws, 20), _beats(rng, draws, 20)
            swap = rng.integers(0, 2, (1, 1, 20, 1)).astype(bool)  # which arm gets which answers is chance
            both = Counts(np.where(swap, first, second), "macro_f1"), Counts(np.where(swap, second, first), "macro_f1")
        else:
            owners, y = np.repeat(np.arange(20), 10), rng.random(200) < 0.4
            common = rng.normal(size=20)[owners] + y
            scores = [[common[:, None] + rng.normal(size=(200, 1)) for _ in range(draws)] for _ in range(2)]
            both = AUROC.of(scores[0], [y], owners), AUROC.of(scores[1], [y], owners)
        false.append(compare(*both, seed=trial).p < 0.05)
    assert np.mean(false) <= 0.063, np.mean(false)
