"""The normalised cross-correlation over lags, compared with one written as a loop."""

from __future__ import annotations

import numpy as np
import pytest
from toy_audit import noise

from medssl.audit.signal_signatures import COMMON, LARGEST, cross_correlation, robust


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Highest magnitude over lags that leave half of either energy in common."""
    n = a.shape[1]
    best = 0.0
    for lag in range(-n + 1, n):
        x, y = a[:, max(0, -lag) : n - max(0, lag)], b[:, max(0, lag) : n - max(0, -lag)]
        if (x**2).sum() >= COMMON * (a**2).sum() and (y**2).sum() >= COMMON * (b**2).sum():
            best = max(best, abs((x * y).sum()) / np.sqrt((x**2).sum() * (y**2).sum()))
    return best


def test_it_equals_the_loop() -> None:
    a = np.stack([noise(i, 60) for i in range(4)])
    b = np.stack([noise(9, 60), a[1], np.roll(a[2], 5, axis=1), -2 * a[3]])
    expected = [by_hand(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(cross_correlation(a, b), expected, atol=1e-9)


@pytest.mark.parametrize("shift", [0, 1, 37, 400])
def test_a_shift_costs_nothing(shift: int) -> None:
    x = noise(1, 1500)
    found = cross_correlation(x[None, :, : 1500 - shift], x[None, :, shift:])
    assert found[0] == pytest.approx(1, abs=1e-6)


def test_two_people_are_two() -> None:
    assert cross_correlation(noise(1)[None], noise(2)[None])[0] < 0.3


def test_silence_correlates_with_nothing() -> None:
    assert cross_correlation(np.zeros((1, 2, 50)), noise(1, 50)[None])[0] == 0


def test_one_artefact_does_not_hide_a_copy() -> None:
    x, spiked = noise(1), noise(1)
    spiked[:, 5] = 1e4
    assert cross_correlation(robust(x)[None], robust(spiked)[None])[0] > 0.98
    assert np.abs(robust(spiked)).max() < LARGEST + 1
    assert not robust(np.ones((2, 50))).any()
