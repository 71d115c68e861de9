"""Where windows lie, at the edges too, and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_cohorts import make_cohort

from medssl.cohort import Cohort
from medssl.training.targets import Target, resolve_target
from medssl.training.windows import (
    ClipRule,
    Recordings,
    cut,
    fixed_starts,
    random_start,
    start_around,
)


@pytest.mark.parametrize("start", [(0, 0), (-2, 1), (3, 4), (-9, 0), (9, 9)])
def test_a_cut_equals_a_read_from_a_padded_array(start: tuple[int, int]) -> None:
    array = np.arange(30).reshape(1, 5, 6)
    padded = np.pad(array, ((0, 0), (12, 12), (12, 12)), constant_values=-1)
    expected = padded[:, 12 + start[0] : 15 + start[0], 12 + start[1] : 16 + start[1]]
    assert np.array_equal(cut(array, start, (3, 4), -1), expected)


def test_starts_stay_inside_and_short_axes_are_centred() -> None:
    rng = np.random.default_rng(0)
    starts = [random_start((10, 4), (6, 8), rng) for _ in range(100)]
    assert {s[0] for s in starts} == set(range(5))
    assert {s[1] for s in starts} == {-2}
    assert start_around((0, 9), (10, 10), (4, 4)) == (0, 6)
    assert start_around((5, 1), (10, 3), (4, 4)) == (3, 0)


def test_fixed_windows_cover_a_recording_evenly() -> None:
    starts = fixed_starts((100, 30), (40, 30), 8)
    assert starts == [(0, 0), (30, 0), (60, 0)]
    assert len(fixed_starts((500, 500, 500), (50, 50, 50), 8)) <= 8


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients with one clip each."""
    return make_cohort(tmp_path_factory.mktemp("video"), "video", patients=2)


def recordings(target: Target, *, cache_gb: float, channels: tuple[int, ...] | None = None) -> Recordings:
    masks = (target.name,) if target.source == "mask" else ()
    return Recordings(target.cohort, channels=channels, rows=target.rows, masks=masks, cache_gb=cache_gb)


def test_memory_and_disk_give_the_same_crops(volumes: Path) -> None:
    target = resolve_target(Cohort(volumes), "segmentation", "organs")
    cached, direct = recordings(target, cache_gb=1.0), recordings(target, cache_gb=0.0)
    assert (cached.fits, direct.fits) == (True, False)
    for start in ((0, 0, 0), (-3, 10, 15)):
        for key in ("image", "mask:organs"):
            assert np.array_equal(cached.read(1, start, (8, 9, 10), key), direct.read(1, start, (8, 9, 10), key))


def test_channels_are_chosen_with_their_scales(signals: Path) -> None:
    target = resolve_target(Cohort(signals), "classification", "rhythm")
    both, second = recordings(target, cache_gb=1.0), recordings(target, cache_gb=1.0, channels=(1,))
    whole = both.network_input(2, both.whole(2))
    assert np.array_equal(second.network_input(2, second.whole(2)), whole[1:])


def test_clips_at_all_starts_are_those_of_echonet() -> None:
    rule = ClipRule(period=2, every=True)
    assert [s[0] for s in rule.starts((70, 8, 8), (32, 8, 8), 8)] == list(range(8))
    assert rule.starts((40, 8, 8), (32, 8, 8), 8) == [(0, 0, 0), (1, 0, 0)]  # of a video padded to 64 frames
    spread = ClipRule(period=2).starts((70, 8, 8), (4, 8, 8), 3)
    assert [s[0] for s in spread] == [0, 32, 63]


def test_a_clip_with_a_period_shows_every_so_many_frames_and_black_beyond_the_end(clips: Path) -> None:
    target = resolve_target(Cohort(clips), "regression", "rate")
    reader, size = recordings(target, cache_gb=1.0), (6, 20, 20)
    whole = reader.whole(0)
    found = ClipRule(period=3).read(reader, 0, (10, 0, 0), size)
    assert np.array_equal(found[:, :5], whole[:, 10:24:3]) and not found[:, 5].any()
