"""Resampling: exact where it can be, never inventive where it must not be."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import ndimage

from medssl.cohort.resampling import rate_ratio, resample_labels, resample_signal, resample_volume


def reference(data: np.ndarray, shape: tuple[int, ...], ratio: tuple[float, ...]) -> np.ndarray:
    """The same interpolation written as a map over coordinates."""
    axes = [
        np.clip((n - 1) / 2 + (np.arange(m) - (m - 1) / 2) * r, 0, n - 1)
        for n, m, r in zip(data.shape, shape, ratio, strict=True)
    ]
    return ndimage.map_coordinates(data.astype(np.float64), np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")


@pytest.mark.parametrize(
    ("shape", "ratio"), [((14, 5, 9), (0.5, 2.0, 1.0)), ((3, 20, 4), (2.33, 0.5, 2.25)), ((7, 10, 9), (1.0, 1.0, 1.0))]
)
def test_linear_resampling_equals_its_definition(shape, ratio):
    data = np.random.default_rng(0).normal(size=(7, 10, 9)).astype(np.float32)
    ours = resample_volume(data, shape, ratio, antialias=False)
    np.testing.assert_allclose(ours, reference(data, shape, ratio), atol=1e-5)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_a_ramp_stays_a_ramp_of_the_same_physical_slope(interpolation):
    z = np.broadcast_to(np.arange(40.0, dtype=np.float32)[:, None, None], (40, 6, 6))
    fine = resample_volume(z, (80, 6, 6), (0.5, 1.0, 1.0), interpolation=interpolation)
    inner = fine[10:-10, 3, 3]
    np.testing.assert_allclose(np.diff(inner), 0.5, atol=1e-3)
    np.testing.assert_allclose(inner[0], 10 * 0.5 - 0.25, atol=1e-3)  # half a fine voxel before half a coarse one


def test_losing_resolution_is_smoothed_unless_refused():
    stripes = np.zeros((64, 4, 4), dtype=np.float32)
    stripes[::2] = 1.0  # at the old limit; at a quarter of the resolution it is grey
    smooth = resample_volume(stripes, (16, 4, 4), (4.0, 1.0, 1.0))
    np.testing.assert_allclose(smooth[2:-2], 0.5, atol=0.02)
    uneven = resample_volume(stripes, (20, 4, 4), (3.0, 1.0, 1.0), antialias=False)
    assert uneven.std() > 0.3


@pytest.mark.parametrize("interpolation", ["nearest", "onehot_linear"])
@pytest.mark.parametrize("ratio", [(0.5, 0.7, 1.0), (2.0, 1.5, 1.0), (1.0, 1.0, 1.0)])
def test_labels_never_get_a_value_that_was_not_there(interpolation, ratio):
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[3:9, 3:9, 3:9], labels[9:15, 4:15, 4:15] = 7, 200
    shape = tuple(round(20 / r) for r in ratio)
    out = resample_labels(labels, shape, ratio, interpolation=interpolation)
    assert out.shape == shape
    assert set(np.unique(out)) <= {0, 7, 200}
    for value in (7, 200):
        volume = (out == value).sum() * np.prod(ratio)
        assert volume == pytest.approx((labels == value).sum(), rel=0.2)


def test_onehot_labels_equal_the_argmax_over_all_labels():
    rng = np.random.default_rng(1)
    labels = np.where(
        ndimage.gaussian_filter(rng.normal(size=(15, 16, 17)), 2) > 0.05, rng.integers(1, 4, (15, 16, 17)), 0
    )
    labels = ndimage.median_filter(labels, 3).astype(np.uint8)
    shape, ratio = (23, 11, 17), (15 / 23, 16 / 11, 1.0)
    scores = np.stack([reference(labels == value, shape, ratio) for value in range(4)])
    clear = np.sort(scores, axis=0)[-1] - np.sort(scores, axis=0)[-2] > 1e-4  # ties aside
    ours = resample_labels(labels, shape, ratio)
    np.testing.assert_array_equal(ours[clear], scores.argmax(axis=0)[clear])
    assert clear.mean() > 0.9


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [(360.0, 250.0, Fraction(25, 36)), (173.61, 128.0, Fraction(12800, 17361)), (500.0, 500.0, Fraction(1))],
)
def test_rates_have_an_exact_ratio(old, new, expected):
    assert rate_ratio(old, new) == expected


def test_an_odd_rate_keeps_time_to_the_sample():
    ratio = rate_ratio(511.98765, 100.0)
    assert float(ratio) == pytest.approx(100 / 511.98765, rel=1e-8)


@pytest.mark.parametrize(("old", "new"), [(360.0, 250.0), (173.61, 128.0), (100.0, 250.0)])
def test_a_sine_keeps_phase_and_height(old, new):
    t = np.arange(int(20 * old)) / old
    data = np.stack([np.sin(2 * np.pi * 7 * t) + 100, np.cos(2 * np.pi * 3 * t)])
    out = resample_signal(data, rate_ratio(old, new))
    time = np.arange(out.shape[1]) / new
    inside = (time > 1) & (time < 19)
    np.testing.assert_allclose(out[0, inside], (np.sin(2 * np.pi * 7 * time) + 100)[inside], atol=0.01)
    np.testing.assert_allclose(out[1, inside], np.cos(2 * np.pi * 3 * time)[inside], atol=0.01)
    assert abs(out[0, :5] - 100).max() < 2  # an offset does not ring at the ends


def test_what_the_new_rate_cannot_hold_is_filtered_away():
    t = np.arange(5000) / 500
    out = resample_signal(np.sin(2 * np.pi * 200 * t)[None], rate_ratio(500, 100))
    assert np.abs(out[:, 100:-100]).max() < 0.02
