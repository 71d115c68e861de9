"""Choosing frames for a rate, and their size."""

from __future__ import annotations

import numpy as np

from medssl.cohort.frames import Fit, fitted, nearest_frames, placed, resize_frames, resize_labels, resize_weights


def test_another_rate_takes_the_nearest_frames_and_never_blends():
    times = np.arange(50) / 50
    half, _ = nearest_frames(times, 25.0)
    np.testing.assert_array_equal(half, np.arange(0, 50, 2))
    double, _ = nearest_frames(times, 100.0)
    np.testing.assert_array_equal(double[:6], [0, 0, 1, 1, 2, 2])
    third, _ = nearest_frames(times, 30.0)
    assert np.abs(times[third] - np.arange(len(third)) / 30).max() <= 0.01 + 1e-9


def test_frames_at_uneven_times_come_out_even():
    times = np.array([0.0, 0.1, 0.2, 0.9, 1.0])
    taken, _ = nearest_frames(times, 10.0)
    np.testing.assert_array_equal(taken, [0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4])


def test_annotated_frames_are_among_those_taken():
    times = np.arange(100) / 50
    without, _ = nearest_frames(times, 10.0)
    assert 7 not in without
    taken, lost = nearest_frames(times, 10.0, wanted=[7, 33])
    assert {7, 33} <= set(taken) and not lost
    assert np.count_nonzero(taken != without) == 2
    taken, lost = nearest_frames(times, 10.0, wanted=[6, 7])
    assert 6 in taken and lost == [7]


def test_one_frame_is_one_frame():
    taken, _ = nearest_frames(np.zeros(1), 25.0)
    np.testing.assert_array_equal(taken, [0])


def test_a_picture_keeps_its_aspect_in_the_middle_of_the_canvas():
    assert fitted((600, 800), (112, 112)) == Fit((84, 112), (14, 0), (112, 112))
    assert fitted((100, 20), (112, 112)).size == (112, 22)
    assert fitted((100, 20), (112, 112), keep_aspect=False) == Fit((112, 112), (0, 0), (112, 112))
    picture = placed(np.full((2, 84, 112), 9, np.uint8), fitted((600, 800), (112, 112)))
    assert picture.shape == (2, 112, 112)
    assert (picture[:, 14:98] == 9).all() and not picture[:, :14].any() and not picture[:, 98:].any()


def test_resizing_keeps_constants_means_and_ramps():
    for old, new in [(100, 37), (37, 100), (64, 64), (7, 3)]:
        np.testing.assert_allclose(resize_weights(old, new).sum(axis=1), 1, rtol=1e-6)
    constant = np.full((3, 50, 70), 137, np.uint8)
    assert (resize_frames(constant, (20, 31)) == 137).all()
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (1, 8, 1))
    small = resize_frames(ramp, (8, 30))[0, 0].astype(float)
    np.testing.assert_allclose(np.diff(small)[2:-2], 8, atol=1)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 60), dtype=np.uint8)
    assert abs(resize_frames(noise, (20, 20)).mean() - noise.mean()) < 0.5
    assert resize_frames(noise, (60, 60)) is noise


def test_a_shrunk_picture_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 64, 32))
    assert np.ptp(resize_frames(stripes, (16, 16))[0, 4:-4, 4:-4].astype(int)) < 40


def test_labels_keep_their_values_and_frames_without_any_stay_empty():
    labels = np.zeros((3, 40, 40), np.uint8)
    labels[1, 10:30, 10:20], labels[1, 10:30, 20:30] = 3, 7
    small = resize_labels(labels, (20, 20))
    assert set(np.unique(small)) == {0, 3, 7}
    assert not small[[0, 2]].any()
    assert (small[1, 6:14, 6:9] == 3).all() and (small[1, 6:14, 11:14] == 7).all()
    assert resize_labels(labels, (80, 80)).any(axis=(1, 2)).tolist() == [False, True, False]
