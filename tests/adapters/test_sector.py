"""The sector is found from what moves, and what is burnt in is found from what does not."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.adapters.sector import (
    convex_mask,
    fan_mask,
    find_sector,
    motion,
    still_text,
    temporal_moments,
    wedge_mask,
)
from medssl.synth.echo import SyntheticEcho, draw_echo_patient, simulate_echo

SIZES = [(112, 112), (160, 160), (240, 320)]


def phantom(seed: int, size: tuple[int, int] = (112, 112), frames: int = 30) -> SyntheticEcho:
    rng = np.random.default_rng(seed)
    return simulate_echo(rng, draw_echo_patient(rng), frames=frames, size=size)


@pytest.mark.parametrize(("seed", "size"), list(enumerate(SIZES)))
def test_the_sector_is_kept_and_everything_burnt_in_is_removed(seed: int, size: tuple[int, int]) -> None:
    echo = phantom(seed, size)
    moments = temporal_moments(echo.frames)
    sector = find_sector(moments)
    text, marks = still_text(moments, sector)
    assert np.count_nonzero(sector & echo.sector) >= 0.98 * np.count_nonzero(echo.sector)
    assert not (echo.frames.max(axis=0)[sector & ~text & echo.burnt]).any(), "not a pixel of text, ECG or scale is left"
    assert marks == 4, "the four digits over the sector"
    assert np.count_nonzero(text) < 0.03 * np.count_nonzero(echo.sector)


def test_tissue_that_is_white_is_no_text() -> None:
    """A saturated reflector fades out; a character ends sharply."""
    echo = phantom(1)
    y, x = np.mgrid[:112, :112]
    bump = 255 * np.exp(-(((y - 70) / 9.0) ** 2) - ((x - 45) / 9.0) ** 2)
    frames = np.maximum(echo.frames, np.minimum(bump * 1.4, 255).astype(np.uint8))
    moments = temporal_moments(frames)
    text, _ = still_text(moments, find_sector(moments))
    assert (moments.mean[70, 45], moments.std[70, 45]) == (255, 0)
    assert not text[70, 45]


def test_a_clip_in_which_nothing_moves_has_no_sector() -> None:
    still = np.repeat(phantom(0).frames[:1], 20, axis=0)
    moments = temporal_moments(still)
    assert not find_sector(moments).any()
    np.testing.assert_allclose(motion(still, np.ones((112, 112), bool)), 0)


def test_moments_are_those_of_every_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (70, 5, 6), dtype=np.uint8)
    moments = temporal_moments(frames)
    np.testing.assert_allclose(moments.mean, frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.std, frames.std(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(moments.most, frames.max(axis=0))


def test_motion_counts_only_the_pixels_asked_for() -> None:
    frames = np.zeros((3, 4, 4), dtype=np.uint8)
    frames[1, 0, 0], frames[2, 3, 3] = 10, 200
    keep = np.zeros((4, 4), bool)
    keep[:2, :2] = True
    np.testing.assert_allclose(motion(frames, keep), [10 / 4, 10 / 4])


def test_a_convex_hull_holds_every_pixel_and_fills_the_gaps() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2, 3] = mask[2, 15] = mask[17, 9] = True
    hull = convex_mask(mask)
    assert hull[mask].all()
    assert hull[8, 9] and not hull[17, 3]
    np.testing.assert_array_equal(convex_mask(hull), hull)
    assert convex_mask(np.eye(6, dtype=bool)).sum() == 6, "a line is its own hull"


def test_a_fan_is_told_from_a_rectangle() -> None:
    sector = phantom(0, (240, 320), frames=1).sector
    fan = fan_mask(convex_mask(sector))
    assert fan is not None
    assert np.count_nonzero(fan & sector) > 0.98 * np.count_nonzero(sector)
    rectangle = np.zeros((100, 100), bool)
    rectangle[10:90, 20:80] = True
    assert fan_mask(rectangle) is None


def test_the_fixed_wedge_is_cut_at_both_upper_corners() -> None:
    wedge = wedge_mask(112)
    assert not wedge[0, 0] and not wedge[0, 111]
    assert wedge[60, 56] and wedge[111, 56]
