"""Where crops and windows are read."""

from __future__ import annotations

import numpy as np
import pytest
from toys import volume

from medssl.errors import CohortError
from medssl.views.placement import (
    background_input,
    centred_start,
    covered,
    foreground_box,
    nearby_start,
    read_crops,
    uniform_start,
    window_start,
)


def overlap(a: np.ndarray, b: np.ndarray, size: tuple[int, ...]) -> float:
    return float(np.prod([max(0, s - abs(int(x) - int(y))) / s for x, y, s in zip(a, b, size, strict=True)]))


def test_uniform_starts_reach_every_place_and_centre_what_is_too_small() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([uniform_start((10, 4), (8, 8), rng) for _ in range(200)])
    assert set(starts[:, 0]) == {0, 1, 2}
    assert set(starts[:, 1]) == {-2}


def test_centred_crop_holds_its_centre() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        centre = rng.integers(0, (30, 20, 9))
        start = centred_start((30, 20, 9), (8, 8, 12), centre, rng)
        assert ((start <= centre) & (centre - start < [8, 8, 12])).all()
        assert (start[:2] >= 0).all() and (start[:2] + 8 <= [30, 20]).all()


@pytest.mark.parametrize("least", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(100, 100, 100), (40, 33, 20)])
def test_nearby_crops_share_at_least_what_is_asked(least: float, shape: tuple[int, int, int]) -> None:
    rng, size = np.random.default_rng(0), (32, 16, 20)
    shared = []
    for _ in range(300):
        anchor = uniform_start(shape, size, rng)
        other = nearby_start(shape, size, anchor, least, rng)
        assert (other >= 0).all() and (other + size <= shape).all()
        shared.append(overlap(anchor, other, size))
    assert min(shared) >= least
    if least < 1:
        assert min(shared) < least + 0.25, "the whole range is used"


def test_window_is_centred_over_a_body_that_fits_and_wanders_over_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    box = (np.array([10, 5]), np.array([20, 95]))
    starts = np.array([window_start((60, 100), (30, 40), box, rng) for _ in range(400)])
    assert set(starts[:, 0]) == {0}, "centred on 15, but kept inside the recording"
    assert starts[:, 1].min() == 5 and starts[:, 1].max() == 55
    assert window_start((20, 20), (30, 40), (np.array([0, 0]), np.array([20, 20])), rng).tolist() == [-5, -10]


def test_box_of_the_body() -> None:
    reader = volume(0, (8, 9, 10))
    reader.points = np.array([[1, 2, 3], [4, 2, 8]])
    first, stop = foreground_box(reader)  # type: ignore[arg-type]
    assert first.tolist() == [1, 2, 3] and stop.tolist() == [5, 3, 9]
    reader.points = None
    first, stop = foreground_box(reader)  # type: ignore[arg-type]
    assert first.tolist() == [0, 0, 0] and stop.tolist() == [8, 9, 10]


def test_overlapping_crops_are_read_at_once_and_distant_ones_one_by_one() -> None:
    reader = volume(0, (8, 64, 64))
    for starts, reads in (([[0, 0, 0], [0, 2, 3]], 1), ([[0, 0, 0], [0, 50, 50]], 2), ([[0, -4, 60]], 1)):
        reader.reads.clear()
        crops = read_crops(reader, [np.array(s) for s in starts], (8, 8, 8))  # type: ignore[arg-type]
        assert len(reader.reads) == reads
        for crop, start in zip(crops, starts, strict=True):
            np.testing.assert_array_equal(crop, reader.read(start, (8, 8, 8)))


def test_background_is_the_clamped_fill() -> None:
    reader = volume(0)
    reader.fill = -500
    assert background_input(reader, reader.input_fields()).tolist() == [0.0]  # type: ignore[arg-type]
    reader.fill = 250
    assert background_input(reader, reader.input_fields()).tolist() == [0.25]  # type: ignore[arg-type]


def test_extent_of_a_crop_in_voxels_and_in_millimetres() -> None:
    reader = volume(0)
    reader.spacing_mm = (5.0, 0.5, 0.9)
    assert covered(reader, (8, 16, 16), None) == (8, 16, 16)  # type: ignore[arg-type]
    assert covered(reader, (8, 16, 16), (2.0, 8.0, 9.0)) == (1, 16, 10)  # type: ignore[arg-type]
    reader.spacing_mm = None
    with pytest.raises(CohortError, match="no voxel size"):
        covered(reader, (8, 16, 16), (2.0, 8.0, 9.0))  # type: ignore[arg-type]
