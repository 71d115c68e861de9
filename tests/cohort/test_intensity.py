"""Values ⇄ integers ⇄ network input."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.cohort.intensity import encode_ct, encode_lossless, encode_mr, lattice, without_nan


def physical(encoded) -> np.ndarray:
    return encoded.stored * encoded.scale + encoded.offset


def network(encoded) -> np.ndarray:
    return (encoded.stored * encoded.input_scale + encoded.input_offset).clip(*encoded.input_range)


def test_ct_keeps_hounsfield_units_and_maps_the_window():
    data = np.array([-3024.0, -1024.0, -175.0, 37.4, 250.0, 3071.0, 9000.0]).reshape(7, 1, 1)
    ct = encode_ct(data, (-175.0, 250.0))
    assert ct.stored.dtype == np.int16
    np.testing.assert_array_equal(ct.stored.ravel(), [-1024, -1024, -175, 37, 250, 3071, 3071])
    np.testing.assert_allclose(network(ct).ravel()[[0, 2, 4, 6]], [0, 0, 1, 1], atol=1e-12)
    assert ct.fill == -1024
    assert ct.clipped == pytest.approx(2 / 7)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1.7e4])
def test_mr_input_does_not_depend_on_the_scanners_scale(scale):
    data = np.random.default_rng(0).gamma(3.0, 100.0, (20, 20, 20))
    encoded = encode_mr((data * scale).astype(np.float32), (0.5, 99.5))
    low, high = np.percentile(data[data > data.min()], (0.5, 99.5))
    np.testing.assert_allclose(network(encoded), np.clip((data - low) / (high - low), 0, 1), atol=2e-4)
    np.testing.assert_allclose(physical(encoded) / scale, data, atol=(high - low) / 2**14)


def test_padding_and_one_bright_voxel_do_not_decide_the_range():
    rng = np.random.default_rng(0)
    data = np.zeros((40, 40, 40), dtype=np.float32)
    data[10:30, 10:30, 10:30] = rng.normal(500, 50, (20, 20, 20))
    data[20, 20, 20] = 1e6
    inside = network(encode_mr(data, (0.5, 99.5)))[10:30, 10:30, 10:30]
    assert 0.3 < np.median(inside) < 0.7


def test_eight_bit_data_are_stored_exactly_whatever_their_scale_factor():
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 16))
    data = (levels * np.float32(15.9645) + np.float32(3.25)).astype(np.float32)
    encoded = encode_mr(data, (0.5, 99.5))
    assert len(np.unique(encoded.stored)) == 256
    np.testing.assert_allclose(physical(encoded), data, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (np.arange(-5, 20) * 0.005, 0.005),
        (np.array([0, 3, 10, 17, 18, 40, 41, 20000]) * 0.0977 + 3, 0.0977),
        (np.array([-7, 2, 1, 1], dtype=np.int16), 1.0),
    ],
)
def test_the_grid_of_an_adc_is_found(values, step):
    found = lattice(values.astype(np.float32) if values.dtype.kind == "f" else values)
    assert found is not None
    assert found[0] == pytest.approx(step, rel=1e-3)


def test_noise_is_on_no_grid():
    assert lattice(np.random.default_rng(0).normal(size=5000)) is None
    assert lattice(np.full(10, 3.5)) is None


def test_values_as_they_are_survive():
    integers = np.random.default_rng(0).integers(-300, 20_000, (8, 8, 8)).astype(np.int32)
    encoded = encode_lossless(integers)
    np.testing.assert_array_equal(encoded.stored, integers)
    wide = np.array([0.0, 65_000.0, 12_345.0, 12_346.0]).reshape(4, 1, 1)
    np.testing.assert_array_equal(physical(encode_lossless(wide)), wide)
    smooth = np.random.default_rng(0).normal(size=(8, 8, 8))
    np.testing.assert_allclose(physical(encode_lossless(smooth)), smooth, atol=1e-4)
    assert encode_lossless(smooth).clipped == 0


def test_nan_and_infinity_become_the_smallest_finite_value():
    data = np.array([np.nan, 4.0, np.inf, -2.0, -np.inf]).reshape(5, 1, 1)
    clean, share = without_nan(data)
    np.testing.assert_array_equal(clean.ravel(), [-2, 4, -2, -2, -2])
    assert share == pytest.approx(0.6)
    assert without_nan(np.full((2, 2, 2), np.nan))[1] == 1.0
    integers = np.ones((2, 2, 2), dtype=np.int16)
    assert without_nan(integers)[0] is integers
