"""Where clips of a video can start, and which frames they show."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.views.clip_sampling import clip_frames, clip_length, clip_starts, padded_frames


def test_every_start_leaves_the_clip_inside_the_padded_video_and_the_next_one_would_not():
    for frames, length, period in [(200, 32, 2), (64, 32, 2), (63, 32, 2), (5, 16, 4), (1, 1, 1), (17, 16, 1)]:
        starts = clip_starts(frames, length, period)
        last = clip_frames(starts, length, period)[:, -1]
        assert starts[0] == 0 and np.all(np.diff(starts) == 1)
        assert last[-1] == padded_frames(frames, length, period) - 1


def test_only_a_video_that_is_too_short_shows_frames_that_do_not_exist():
    assert clip_frames(clip_starts(64, 32, 2), 32, 2).max() < 64
    assert clip_frames(clip_starts(40, 32, 2), 32, 2).max() >= 40


def test_without_a_length_a_clip_spans_the_video_up_to_a_limit():
    assert clip_length(201, None, 2) == 100
    assert clip_length(201, None, 2, most=64) == 64
    assert clip_length(1, None, 2) == 1


@pytest.mark.parametrize("bad", [(0, 16, 1), (10, 0, 1), (10, 16, 0)])
def test_counts_below_one_are_refused(bad):
    with pytest.raises(ValueError, match="1 or more"):
        clip_starts(*bad)
