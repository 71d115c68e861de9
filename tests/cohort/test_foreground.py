"""Where the body and its structures are."""

from __future__ import annotations

import numpy as np

from medssl.cohort.foreground import (
    body_threshold,
    bounding_box,
    frame_coordinates,
    label_coordinates,
    sample_coordinates,
)


def test_air_lies_below_the_threshold_and_dark_tissue_above():
    rng = np.random.default_rng(0)
    air, dark, bright = rng.normal(0.02, 0.01, 6000), rng.normal(0.35, 0.05, 2000), rng.normal(0.8, 0.1, 3000)
    threshold = body_threshold(np.concatenate([air, dark, bright]))
    assert (air < threshold).all()
    assert (dark > threshold).mean() > 0.99


def test_a_constant_has_no_body():
    assert body_threshold(np.full(10, 0.5)) == 0.5


def test_coordinates_are_bounded_inside_the_mask_spread_and_always_the_same():
    mask = np.zeros((40, 50, 60), dtype=bool)
    mask[5:35, 10:40, 20:50] = True
    first, again = sample_coordinates(mask), sample_coordinates(mask)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4096, 3)
    assert mask[tuple(first.T)].all()
    assert len(np.unique(first, axis=0)) == 4096
    np.testing.assert_allclose(first.mean(axis=0), [19.5, 24.5, 34.5], atol=0.5)


def test_a_picture_that_is_the_same_in_all_frames_gives_what_its_copies_would():
    picture = np.random.default_rng(0).random((30, 40)) > 0.4
    for mask, frames in ((picture, 50), (picture, 2), (np.zeros((5, 5), bool), 3)):
        copies = np.broadcast_to(mask, (frames, *mask.shape))
        np.testing.assert_array_equal(frame_coordinates(mask, frames), sample_coordinates(copies))


def test_frames_of_long_clips_have_their_number():
    found = frame_coordinates(np.ones((2, 3), bool), 40_000)
    assert found[:, 0].min() < 30 and found[:, 0].max() > 39_970
    labels = np.zeros((40_000, 2, 1), np.uint8)
    labels[39_999, 1, 0] = 1
    assert label_coordinates(labels)[1].tolist() == [[39_999, 1, 0]]


def test_every_label_has_its_own_coordinates():
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[0:18] = 3
    labels[19, 4, 5] = 250
    found = label_coordinates(labels)
    assert set(found) == {3, 250}
    assert (labels[tuple(found[3].T)] == 3).all()
    np.testing.assert_array_equal(found[250], [[19, 4, 5]])
    assert label_coordinates(np.zeros((4, 4, 4), dtype=np.uint8)) == {}


def test_the_box_is_tight_up_to_its_margin():
    mask = np.zeros((10, 12, 14), dtype=bool)
    mask[4:6, 1:5, 13] = True
    assert bounding_box(mask) == (slice(4, 6), slice(1, 5), slice(13, 14))
    assert bounding_box(mask, margin=2) == (slice(2, 8), slice(0, 7), slice(11, 14))
    assert bounding_box(np.zeros((3, 3), dtype=bool)) is None
