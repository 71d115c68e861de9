"""Crops, windows and bags of labelled items: what they show, and which items are drawn how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_cohorts import make_cohort

from medssl.cohort import Cohort
from medssl.training.labelled import LabelledBags, LabelledCrops, LabelledWindows
from medssl.training.targets import Target, resolve_target
from medssl.training.windows import ClipRule, Recordings


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients with one clip each."""
    return make_cohort(tmp_path_factory.mktemp("video"), "video", patients=2)


def recordings(target: Target, *, cache_gb: float) -> Recordings:
    masks = (target.name,) if target.source == "mask" else ()
    return Recordings(target.cohort, channels=None, rows=target.rows, masks=masks, cache_gb=cache_gb)


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


@pytest.mark.parametrize("kind", [LabelledWindows, LabelledBags])
def test_training_clips_keep_to_the_period(clips: Path, kind: type[LabelledWindows]) -> None:
    target = resolve_target(Cohort(clips), "regression", "rate")
    reader = recordings(target, cache_gb=1.0)
    more = {"windows": 2} if kind is LabelledBags else {}
    windows = kind(target, np.arange(2), reader, size=(5, 20, 20), balance=False, rule=ClipRule(period=4), **more)
    x = windows.draw(0, np.random.default_rng(0))["x"][0]
    whole = reader.whole(0)
    assert any(np.array_equal(x, whole[:, s : s + 17 : 4]) for s in range(8))
