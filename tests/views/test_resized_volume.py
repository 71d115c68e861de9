"""ResizedVolumeViews: shares of a volume, at one size."""

from __future__ import annotations

import numpy as np
import pytest
from toys import volume

from medssl.errors import ConfigError
from medssl.views.resized_volume import ResizedVolumeViews


def test_crops_cover_shares_of_the_volume_whatever_its_size() -> None:
    views = ResizedVolumeViews((4, 16, 8), count=200, scale=(0.25, 0.5), depth=(0.5, 0.75))
    drawn = views.draw(volume(0, (40, 48, 30)), np.random.default_rng(0))  # type: ignore[arg-type]
    slices, height, width = drawn["extents"].T
    assert drawn["x"].shape == (200, 1, 4, 16, 8)
    # the largest crop twice as high as wide is 48 x 24
    assert 0.24 < (height * width).min() / (48 * 24) < 0.28 and 0.46 < (height * width).max() / (48 * 24) < 0.52
    assert np.abs(height / width - 2).max() < 0.1 and (slices.min(), slices.max()) == (20, 30)
    assert (drawn["starts"] >= 0).all() and (drawn["starts"] + drawn["extents"] <= (40, 48, 30)).all()


def test_the_whole_volume_where_all_is_asked_for() -> None:
    views = ResizedVolumeViews((8, 24, 24), count=1, scale=(1, 1), depth=(1, 1))
    reader = volume(0, (8, 24, 24))
    drawn = views.draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn["x"][0], reader.data)


def test_shares_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ConfigError, match="two rising numbers"):
        ResizedVolumeViews((4, 8, 8), scale=(0.5, 0.2))
