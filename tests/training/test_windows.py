"""Where crops and windows lie, at the edges too, and which items are drawn how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_cohorts import make_cohort

from medssl.cohort import Cohort
from medssl.training.targets import Target, resolve_target
from medssl.training.windows import (
    ClipRule,
    LabelledBags,
    LabelledCrops,
    LabelledWindows,
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


def test_labelled_crops_show_classes_and_map_mask_values(volumes: Path) -> None:
    target = resolve_target(Cohort(volumes), "segmentation", "organs")
    crops = LabelledCrops(
        target, np.arange(len(target)), recordings(target, cache_gb=1.0), size=(6, 6, 6), foreground=1.0
    )
    rng = np.random.default_rng(0)
    seen = Counter(int(v) for _ in range(40) for v in np.unique(crops.draw(3, rng)["y"][0, 2:5, 2:5, 2:5]))
    assert set(seen) == {0, 1, 2}  # stored values 1 and 3 became classes 1 and 2
    assert min(seen[1], seen[2]) > 8


def test_balanced_windows_give_every_class_its_share(signals: Path) -> None:
    target = resolve_target(Cohort(signals), "classification", "beat")
    options = {"size": (64,)}
    items = np.arange(len(target))
    balanced = LabelledWindows(target, items, recordings(target, cache_gb=1.0), balance=True, **options)
    plain = LabelledWindows(target, items, recordings(target, cache_gb=1.0), balance=False, **options)
    share = np.mean(target.y[balanced.order(np.random.default_rng(0))])
    assert share == pytest.approx(0.5, abs=0.1)
    assert sorted(plain.order(np.random.default_rng(0))) == list(items)
    assert np.mean(target.y) < 0.3


def test_items_without_any_of_several_labels_are_drawn_too(signals: Path) -> None:
    """They are all there is to learn from that a recording may have none of the labels."""
    target = resolve_target(Cohort(signals), "classification", "findings")  # all have a, half of them b too
    target = replace(target, y=target.y * [0, 1])
    items = np.arange(len(target))
    without = (target.y == 0).all(1)
    assert 0 < without.sum() < len(items)
    windows = LabelledWindows(target, items, recordings(target, cache_gb=1.0), size=(100,), balance=True)
    drawn = np.concatenate([windows.order(np.random.default_rng(seed)) for seed in range(25)])
    assert 0.4 < np.mean(without[drawn]) < 0.6


def test_an_event_is_in_the_middle_of_its_window(signals: Path) -> None:
    target = resolve_target(Cohort(signals), "classification", "beat")
    reader = recordings(target, cache_gb=1.0)
    windows = LabelledWindows(target, np.arange(len(target)), reader, size=(40,), balance=False)
    sample = windows.draw(5, np.random.default_rng(0))
    x = reader.network_input(int(target.rows[5]), sample["x"][0])
    assert int(x[0].argmax()) == 20


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


@pytest.mark.parametrize("kind", [LabelledWindows, LabelledBags])
def test_training_clips_keep_to_the_period(clips: Path, kind: type[LabelledWindows]) -> None:
    target = resolve_target(Cohort(clips), "regression", "rate")
    reader = recordings(target, cache_gb=1.0)
    more = {"windows": 2} if kind is LabelledBags else {}
    windows = kind(target, np.arange(2), reader, size=(5, 20, 20), balance=False, rule=ClipRule(period=4), **more)
    x = windows.draw(0, np.random.default_rng(0))["x"][0]
    whole = reader.whole(0)
    assert any(np.array_equal(x, whole[:, s : s + 17 : 4]) for s in range(8))
