"""Trials of a recording and windows of a trial."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.views.trials import grid_starts, trial_spans, trial_statistics, window_starts


@pytest.mark.parametrize("length", [10, 19, 20, 27, 30, 100])
def test_trials_lie_side_by_side_about_the_middle(length: int) -> None:
    spans = trial_spans(length, 10)
    if length < 20:
        assert spans.tolist() == [[0, length]]
        return
    assert len(spans) == length // 10 and ((spans[:, 1] - spans[:, 0]) == 10).all()
    assert (spans[1:, 0] == spans[:-1, 1]).all()
    before, after = spans[0, 0], length - spans[-1, 1]
    assert 0 <= after - before <= 1
    assert trial_spans(length, None).tolist() == [[0, length]]


def test_windows_keep_their_distance_and_reach_every_place() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([window_starts(40, 10, 3, gap=5, rng=rng) for _ in range(500)])
    assert (np.diff(drawn, axis=1) >= 5).all() and drawn.min() == 0 and drawn.max() == 30
    assert set(drawn.ravel()) == set(range(31))
    grid = np.stack([window_starts(40, 10, 3, gap=5, rng=rng, step=5) for _ in range(200)])
    assert set(grid.ravel()) == set(grid_starts(40, 10, 5)) and (np.diff(grid, axis=1) >= 5).all()


def test_windows_without_room_are_spread_evenly() -> None:
    rng = np.random.default_rng(0)
    assert window_starts(20, 10, 3, gap=8, rng=rng).tolist() == [0, 5, 10]
    assert window_starts(10, 10, 2, gap=1, rng=rng).tolist() == [0, 0]
    assert window_starts(6, 10, 2, gap=1, rng=rng).tolist() == [-2, -2]


def test_constant_channels_are_divided_by_one() -> None:
    mean, sd = trial_statistics(np.array([[1.0, 3.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0]], np.float32))
    assert mean.tolist() == [2, 2] and sd.tolist() == [1, 1] and sd.dtype == np.float32
