"""Echo video against stored reference values (published rules, evaluated with NumPy, scikit-image and pydicom)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from medssl.views.clip_sampling import clip_length, clip_starts, padded_frames

Golden = Callable[[str], Mapping[str, np.ndarray]]
Vectors = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Vectors:
    """All arrays of the file."""
    return golden("echo_video")


def test_clip_arithmetic(vectors: Vectors) -> None:
    cases = vectors["clip_cases_F_length_period_max_len_paddedF_nstarts"].tolist()
    assert len(cases) > 3
    for frames, length, period, most, effective, padded, n_starts in cases:
        got = clip_length(frames, None if length < 0 else length, period, most=most or None)
        assert got == effective
        assert padded_frames(frames, got, period) == padded
        assert len(clip_starts(frames, got, period)) == n_starts
