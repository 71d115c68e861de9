"""Cleaning of region series, by what must be true of it; figures of nilearn stand in ``tests/parity``."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.cohort.fmri_cleaning import (
    clean,
    cosine_regressors,
    degrees_of_freedom,
    detrend,
    interpolate_censored,
    least_volumes,
    regress_out,
    standardise,
    temporal_filter,
)
from medssl.errors import ConfigError

TR = 2.0
BAND = (0.01, 0.1)


def sine(hz: float, volumes: int = 300) -> np.ndarray:
    return np.sin(2 * np.pi * hz * TR * np.arange(volumes))


def noise(volumes: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(volumes, columns))


def test_the_filter_keeps_what_is_in_the_band_and_removes_the_rest():
    inside, above = sine(0.05), sine(0.2)
    found = temporal_filter(np.stack([inside, above], axis=1), TR, BAND)
    middle = slice(60, -60)
    assert np.std(found[middle, 0]) / np.std(inside[middle]) == pytest.approx(1, abs=0.02)
    assert np.std(found[middle, 1]) < 0.02 * np.std(above)


def test_a_drift_is_removed():
    drift = np.linspace(0, 100, 300)[:, None]
    assert np.abs(detrend(drift)).max() < 1e-9
    found = clean(drift + sine(0.05)[:, None], tr_s=TR)
    assert np.corrcoef(found[60:-60, 0], sine(0.05)[60:-60])[0, 1] > 0.999


@pytest.mark.parametrize(("tr_s", "band"), [(2.0, (0.01, 0.25)), (6.0, (0.01, 0.1)), (2.0, (None, 0.3))])
def test_a_band_beyond_half_the_rate_is_refused(tr_s, band):
    with pytest.raises(ConfigError, match="repetition time"):
        temporal_filter(noise(100, 2), tr_s, band)


@pytest.mark.parametrize("band", [(0.01, 0.1), (0.01, None), (None, 0.1)])
def test_too_few_volumes_are_refused_and_enough_are_not(band):
    least = least_volumes(band)
    assert temporal_filter(noise(least, 2), TR, band).shape == (least, 2)
    with pytest.raises(ConfigError, match=f"at least {least}"):
        temporal_filter(noise(least - 1, 2), TR, band)


def test_a_censored_volume_whose_mirror_is_censored_too_leaves_no_spike():
    """The fault of nilearn 0.14.1: it interpolates at T - 1 - c, so a spike at c stays and the filter smears it."""
    smooth = np.stack([sine(0.03), sine(0.05)], axis=1)
    spiked, kept = smooth.copy(), np.ones(300, dtype=bool)
    for volume in (40, 299 - 40):  # mirrors of each other
        spiked[volume] += 1000.0
        kept[volume] = False
    filled = interpolate_censored(spiked, kept)
    assert np.abs(filled - smooth).max() < 0.01
    found, wanted = clean(spiked, tr_s=TR, kept=kept), clean(smooth, tr_s=TR, kept=kept)
    assert np.abs(found - wanted).max() < 0.01


def test_interpolation_touches_censored_volumes_alone():
    series, kept = noise(50, 3), np.ones(50, dtype=bool)
    kept[[7, 8, 30]] = False
    filled = interpolate_censored(series, kept)
    np.testing.assert_array_equal(filled[kept], series[kept])
    assert (filled[~kept] != series[~kept]).all()


def test_outer_censored_volumes_are_cut_and_never_extrapolated():
    series, kept = noise(60, 2), np.ones(60, dtype=bool)
    kept[:3] = kept[-2:] = False
    np.testing.assert_allclose(clean(series, tr_s=TR, kept=kept), clean(series[3:-2], tr_s=TR))


def test_nothing_kept_is_refused():
    with pytest.raises(ConfigError, match="no volume is left"):
        clean(noise(60, 2), tr_s=TR, kept=np.zeros(60, dtype=bool))


def test_cosine_regressors_stay_whatever_the_confounds_look_like():
    """The other fault: nilearn drops all of them when a confound correlates above 0.9 with one."""
    wave = cosine_regressors(300, TR, 0.01)
    slow = wave[:, :1] + 0.01 * noise(300, 1)
    series = noise(300, 4) + 20 * wave[:, [1, 2, 3, 4]]
    found = clean(series, tr_s=TR, confounds=slow, filter="cosine", band_hz=(0.01, None), remove_trend=False)
    assert np.abs(standardise(wave).T @ found).max() < 1e-9


def test_cosine_regressors_are_orthonormal_and_as_many_as_the_frequency_says():
    wave = cosine_regressors(150, TR, 0.01)
    assert wave.shape == (150, int(2 * 150 * TR * 0.01))
    np.testing.assert_allclose(wave.T @ wave, np.eye(wave.shape[1]), atol=1e-12)
    assert cosine_regressors(20, TR, 0.001).shape == (20, 0)


def test_confounds_are_filtered_like_the_series():
    """A confound that is added to the series is gone afterwards, in every frequency of the band."""
    confounds, series = noise(200, 3, seed=1), noise(200, 5)
    mixed = series + confounds @ noise(3, 5, seed=2)
    found = clean(mixed, tr_s=TR, confounds=confounds)
    filtered = temporal_filter(detrend(confounds), TR, BAND)
    assert np.abs(standardise(filtered).T @ found).max() < 1e-8


def test_a_confound_twice_changes_nothing():
    confounds, series = noise(100, 3, seed=1), noise(100, 5)
    twice = np.concatenate([confounds, 7 * confounds[:, :1] + 3, np.ones((100, 1))], axis=1)
    np.testing.assert_allclose(regress_out(series, twice), regress_out(series, confounds), atol=1e-10)


def test_the_result_is_standardised_with_ddof_1_and_a_constant_becomes_zeros():
    series = np.concatenate([noise(100, 3), np.full((100, 1), 5.0)], axis=1)
    found = clean(series, tr_s=TR, filter="none")
    np.testing.assert_allclose(found[:, :3].std(axis=0, ddof=1), 1)
    assert not found[:, 3].any()


def test_neither_scale_nor_level_of_a_region_matters():
    series = noise(120, 4)
    np.testing.assert_allclose(clean(series * [1, 5, 0.1, -2] + 900, tr_s=TR), clean(series, tr_s=TR) * [1, 1, 1, -1])


def test_degrees_of_freedom_count_regressors_and_what_the_filter_removes():
    assert degrees_of_freedom(100, 10, TR, None) == 90
    assert degrees_of_freedom(100, 0, TR, (0.01, 0.1)) == pytest.approx(36)
    assert degrees_of_freedom(100, 0, TR, (0.01, None)) == pytest.approx(96)
