"""The simple baseline sees rhythm and waveform, and answers in the same form as a model."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.evaluation.floor import floor_predict, interval_features


def test_an_early_beat_has_a_short_interval_before_and_a_long_one_after() -> None:
    onsets = np.array([0.0, 1, 2, 2.6, 4, 5, 6])
    before, after, to_mean, to_local = interval_features(onsets, onsets).T
    assert before[3] == pytest.approx(0.6) and after[3] == pytest.approx(1.4)
    assert to_mean[3] == pytest.approx(0.6) and to_local[3] == pytest.approx(0.6)
    assert before[0] == 1 and after[-1] == 1, "at the ends the only neighbour stands for both"


def test_a_lonely_event_has_no_rhythm() -> None:
    np.testing.assert_array_equal(interval_features(np.array([3.0]), np.array([3.0])), np.zeros((1, 4)))


@pytest.mark.parametrize("moments", [True, False])
def test_classes_unseen_in_training_get_no_probability(moments: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80)
    x = rng.normal(size=(80, 4)) + 3 * y[:, None]
    options = {"task": "classification", "moments": moments, "classes": 3, "seed": 0}
    p = floor_predict(x, y, np.arange(80) // 4, x, **options)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p[:, 2] == 0).all() and (p.argmax(1) == y).mean() > 0.95
    np.testing.assert_array_equal(p, floor_predict(x, y, np.arange(80) // 4, x, **options))


def test_regression_answers_the_median() -> None:
    got = floor_predict(
        np.zeros((3, 1)), np.array([1.0, 2, 30]), np.arange(3), np.zeros((2, 1)),
        task="regression", moments=False, classes=0, seed=0,
    )  # fmt: skip
    np.testing.assert_array_equal(got, [2, 2])
