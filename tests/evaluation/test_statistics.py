"""Tests on cases one can enumerate."""

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
