"""Intervals and tests on cases one can enumerate, and their promises by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import t as student

from medssl.evaluation import statistics as st


def test_windows_of_one_patient_count_once() -> None:
    means = st.cluster_means(np.array([1.0, 1, 1, 4]), ["a", "a", "a", "b"])
    np.testing.assert_array_equal(means, [1, 4])


def test_the_kind_of_interval_depends_on_the_number_of_patients() -> None:
    values = np.random.default_rng(0).normal(size=40)
    few, some, many = (st.patient_interval(values[:n]) for n in (4, 12, 40))
    assert few.method == "none" and math.isnan(few.low) and few.mean == pytest.approx(values[:4].mean())
    assert some.method == "Student t"
    expected = student.interval(0.95, 11, values[:12].mean(), values[:12].std(ddof=1) / math.sqrt(12))
    assert (some.low, some.high) == pytest.approx(expected)
    assert many.method == "percentile bootstrap" and many.low < many.mean < many.high
    assert st.patient_interval(values) == many, "equal input and seed give equal bounds"


def test_bootstrap_weights_are_resamples_with_replacement() -> None:
    weights = st.bootstrap_weights(7, 500, seed=1)
    assert (weights.sum(1) == 7).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.2)


def test_a_mean_by_weights_equals_the_mean_bootstrap() -> None:
    values = np.random.default_rng(2).normal(size=30)
    by_weights = st.bootstrap_statistic(lambda w: w @ values / w.sum(1), 30, seed=5)
    direct = st.patient_interval(values, seed=5)
    assert (by_weights.low, by_weights.high) == pytest.approx((direct.low, direct.high))


def test_a_statistic_that_is_often_undefined_is_not_given_an_interval() -> None:
    def only_with_the_first(weights: np.ndarray) -> np.ndarray:
        return np.where(weights[:, 0] > 0, 1.0, np.nan)

    got = st.bootstrap_statistic(only_with_the_first, 30)
    assert got.method == "not estimable" and 0.3 < got.skipped < 0.45


def test_two_way_bootstrap_is_wider_when_draws_disagree() -> None:
    rng = np.random.default_rng(3)
    patients = rng.normal(size=40)
    agree = np.tile(patients, (6, 1))
    disagree = agree + rng.normal(size=(6, 1))
    narrow, wide = st.two_way_bootstrap(agree), st.two_way_bootstrap(disagree)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert narrow.method == "two-way bootstrap"
    assert st.two_way_bootstrap(agree[:3]) == st.patient_interval(agree[:3].mean(0))


@pytest.mark.parametrize("n", [1, 4, 9])
def test_sign_flip_equals_enumeration(n: int) -> None:
    d = np.random.default_rng(n).normal(0.5, 1, n)
    sums = [abs(np.dot(s, d)) for s in itertools.product([-1, 1], repeat=n)]
    assert st.sign_flip(d) == pytest.approx(np.mean([s >= abs(d.sum()) - 1e-9 for s in sums]))


def test_sign_flip_of_many_patients_is_close_to_the_t_test() -> None:
    d = np.random.default_rng(4).normal(0.3, 1, 60)
    statistic = d.mean() / d.std(ddof=1) * math.sqrt(60)
    assert st.sign_flip(d, flips=20_000) == pytest.approx(2 * student.sf(abs(statistic), 59), abs=0.01)


def test_no_difference_has_p_one() -> None:
    assert st.sign_flip(np.zeros(12)) == 1
    assert math.isnan(st.wilcoxon(np.zeros(12)))
    assert math.isnan(st.sign_flip(np.array([])))


def test_five_patients_can_never_be_significant_by_ranks() -> None:
    assert st.wilcoxon(np.arange(1.0, 6)) == pytest.approx(0.0625)


def test_an_undefined_p_stays_undefined_and_counts_in_the_family() -> None:
    adjusted = st.holm([0.01, math.nan, 0.2])
    assert adjusted[0] == pytest.approx(0.03) and math.isnan(adjusted[1])
    assert st.holm([]) == []


def test_paired_bootstrap_p_is_never_zero() -> None:
    assert st.paired_bootstrap(np.ones(999)) == pytest.approx(2 / 1000)
    assert st.paired_bootstrap(np.array([-1.0, 1, -1, 1])) == 1


def test_detectable_effects_match_the_planning_table() -> None:
    for n, effect in {10: 1.0, 20: 0.66, 50: 0.40, 100: 0.28, 300: 0.16}.items():
        assert st.detectable_effect(n) == pytest.approx(effect, abs=0.01)
    assert st.detectable_effect(1) == math.inf


def test_effect_size_is_in_standard_deviations() -> None:
    assert st.effect_size(np.array([1.0, 3.0])) == pytest.approx(2 / math.sqrt(2))
    assert math.isnan(st.effect_size(np.ones(5)))


def test_copies_of_a_case_add_nothing() -> None:
    icc, effective = st.intraclass_correlation(np.repeat([1.0, 2, 5], 10), np.repeat(["a", "b", "c"], 10))
    assert icc == pytest.approx(1) and effective == pytest.approx(3)
    independent = np.random.default_rng(5).normal(size=400)
    icc, effective = st.intraclass_correlation(independent, np.repeat(np.arange(40), 10))
    assert icc < 0.1 and effective > 200


@pytest.mark.slow
@pytest.mark.parametrize("patients", [8, 30])
def test_intervals_cover_and_tests_keep_their_level(patients: int) -> None:
    rng = np.random.default_rng(6)
    covered, rejected, trials = 0, 0, 2000
    for trial in range(trials):
        means = rng.normal(size=patients) + rng.normal(size=(50, patients)).mean(0)
        interval = st.patient_interval(means, seed=trial, resamples=600)
        covered += interval.low <= 0 <= interval.high
        rejected += st.sign_flip(means, flips=400, seed=trial) < 0.05
    assert 0.92 <= covered / trials <= 0.97
    assert rejected / trials <= 0.065
