"""Regression metrics on cases one can check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.evaluation.metrics.regression import regression_metrics

TARGET = np.array([20.0, 40.0, 60.0, 80.0])


def test_a_constant_offset() -> None:
    got = regression_metrics(TARGET + 3, TARGET, training_mean=50)
    assert got["mae"] == got["rmse"] == got["bias"] == 3
    assert got["pearson"] == pytest.approx(1) and got["slope"] == pytest.approx(0)
    assert (got["loa_low"], got["loa_high"]) == (3, 3)


def test_always_answering_the_training_mean_explains_nothing() -> None:
    got = regression_metrics(np.full(4, 45.0), TARGET, training_mean=45)
    assert got["r2"] == pytest.approx(0)
    assert (got["pearson"], got["pearson_undefined"]) == (0, 1)
    assert got["slope"] == pytest.approx(-1)


def test_worse_than_the_training_mean_is_negative() -> None:
    assert regression_metrics(TARGET[::-1].copy(), TARGET, training_mean=50)["r2"] < 0


def test_diverged_and_empty_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="diverged"):
        regression_metrics(np.array([np.nan]), np.array([1.0]), training_mean=0)
    with pytest.raises(ValueError, match="non-empty"):
        regression_metrics(np.array([]), np.array([]), training_mean=0)
