"""How many labels an encoder saves, on curves one can read off."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medssl.evaluation.efficiency import curve_area, gap_closed, labels_needed
from medssl.evaluation.estimands import Counts, Mean

BUDGETS = (2.0, 8.0, 32.0)
PATIENTS = np.random.default_rng(0).normal(0, 0.1, 30)


def arm(value: float) -> Mean:
    """Thirty patients around a mean; their differences between arms are alike."""
    return Mean((value + PATIENTS - PATIENTS.mean())[None])


def curve(*values: float) -> dict[float, Mean]:
    return {b: arm(v) for b, v in zip(BUDGETS, values, strict=True)}


@pytest.mark.parametrize(
    ("value", "expected"), [(0.6, 4.0), (0.7, 8.0), (0.75, 16.0), (0.5, 2.0), (0.4, 2.0), (0.81, math.inf)]
)
def test_the_baseline_is_read_off_in_the_logarithm_of_the_budget(value: float, expected: float) -> None:
    got = labels_needed(arm(value), curve(0.5, 0.7, 0.8), higher_is_better=True)
    assert got is not None and got.needed == pytest.approx(expected)
    assert (got.smallest, got.largest) == (2, 32)
    # every patient gains alike, so every resample says the same
    assert got.low == pytest.approx(expected) and got.high == pytest.approx(expected)


def test_errors_are_read_the_other_way_round() -> None:
    got = labels_needed(arm(9.0), curve(10.0, 8.0, 7.0), higher_is_better=False)
    assert got is not None and got.needed == pytest.approx(4)


def test_a_dent_in_the_curve_is_smoothed() -> None:
    got = labels_needed(arm(0.649), curve(0.7, 0.6, 0.8), higher_is_better=True)
    assert got is not None and got.needed == 2  # the first two budgets together are 0.65


def test_patients_who_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    own = Mean((0.65 + rng.normal(0, 0.1, 30))[None])
    got = labels_needed(own, curve(0.5, 0.7, 0.8), higher_is_better=True)
    assert got is not None and got.low < got.needed < got.high


def test_one_budget_says_nothing() -> None:
    assert labels_needed(arm(0.6), {2.0: arm(0.5)}, higher_is_better=True) is None


def test_the_share_of_the_gap() -> None:
    got = gap_closed(arm(0.55), arm(0.5), arm(0.7), higher_is_better=True)
    assert (got.share, got.low, got.high) == pytest.approx((0.25, 0.25, 0.25))
    assert gap_closed(arm(9.5), arm(10.0), arm(8.0), higher_is_better=False).share == pytest.approx(0.25)


def test_without_a_gap_there_is_no_share_of_it() -> None:
    assert math.isnan(gap_closed(arm(0.8), arm(0.7), arm(0.7), higher_is_better=True).share)
    noise = np.random.default_rng(2).normal(0, 0.1, 30)
    doubtful = Mean((0.505 + noise - noise.mean())[None])
    got = gap_closed(arm(0.6), arm(0.5), doubtful, higher_is_better=True)
    assert math.isfinite(got.share) and math.isnan(got.low), "a gap that may be none gives no interval"


def test_the_area_is_the_mean_along_the_logarithmic_curve() -> None:
    area = curve_area(curve(0.5, 0.7, 0.8))
    assert isinstance(area, Mean) and area.repeats()[0] == pytest.approx((0.6 + 0.75) / 2)


def test_the_area_of_pooled_metrics_is_that_of_their_values() -> None:
    rng = np.random.default_rng(3)
    parts = {b: Counts(rng.integers(1, 9, (2, 3, 12, 2)).astype(float), "macro_f1") for b in BUDGETS}
    first, middle, last = (parts[b].repeats() for b in BUDGETS)
    np.testing.assert_allclose(curve_area(parts).repeats(), (first + 2 * middle + last) / 4)
