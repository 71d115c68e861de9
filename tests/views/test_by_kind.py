"""ViewsByKind: which family cuts what, batches of one sort, cohorts seen in proportion to a power of their size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import collate, info, video, volume

from medssl.errors import ConfigError
from medssl.views.by_kind import ViewsByKind
from medssl.views.clip import ClipViews
from medssl.views.multi_crop import MultiCrop
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


def made(**options: Any) -> ViewsByKind:
    families = {
        "images": ClipViews((1, 16, 16), count=1),
        "volumes": VolumeViews((8, 8, 8), count=1),
        "video": ClipViews((4, 16, 16), count=1),
    }
    return ViewsByKind(**(families | options))


def source(*cohorts: tuple[str, int, int]) -> Any:
    """Cohorts of (kind, recordings, frames or slices)."""
    import pandas as pd

    places = [(c, row) for c, (_, count, _) in enumerate(cohorts) for row in range(count)]
    shapes = [[frames, 20, 20] for _, count, frames in cohorts for _ in range(count)]
    readers = [SimpleNamespace(info=info(kind, 1)) for kind, _, _ in cohorts]
    return SimpleNamespace(cohorts=readers, places=places, manifest=pd.DataFrame({"shape": shapes}))


def planned(*cohorts: tuple[str, int, int], batch: int = 4, **options: Any) -> ViewsByKind:
    views = made(**options)
    views.plan(source(*cohorts), batch)
    return views


@pytest.mark.parametrize(
    ("reader", "size"), [(volume(0), (8, 8, 8)), (video(0), (4, 16, 16)), (video(0, (1, 20, 20)), (1, 16, 16))]
)
def test_a_recording_is_cut_by_the_family_of_its_kind(reader: Any, size: tuple[int, ...]) -> None:
    views = made()
    sample = views.draw(reader, np.random.default_rng(0))
    assert sample["x"].shape[2:] == size
    batch = collate([sample, sample], seed=0)
    assert views.family_of(batch).size == size
    assert views(batch, torch.Generator().manual_seed(0)).shape == (1, 2, 1, *size)


def test_without_views_of_images_a_still_is_a_video_of_one_frame() -> None:
    assert made(images=None).family_for("video", (1, 20, 20)).size == (4, 16, 16)


def test_every_batch_is_of_one_cohort_and_one_kind() -> None:
    cohorts = (("volume", 30, 8), ("volume", 11, 8), ("video", 3, 9), ("video", 7, 1))
    views = planned(*cohorts)
    order = views.order(51, np.random.default_rng(0)).reshape(-1, 4)
    assert len(order) == 51 // 4
    of = np.repeat(np.arange(4), [30, 11, 3, 7])
    assert (of[order] == of[order[:, :1]]).all() and set(of[order[:, 0]]) == {0, 1, 2, 3}


def test_a_cohort_that_fills_its_batches_gives_every_recording_before_any_again() -> None:
    order = planned(("volume", 8, 8), ("video", 8, 9), power=0).order(16, np.random.default_rng(1)).reshape(-1, 4)
    of_volumes = order[order[:, 0] < 8].ravel()
    assert np.unique(of_volumes[:8]).tolist() == sorted(of_volumes[:8].tolist())


@pytest.mark.parametrize(("power", "share"), [(1.0, 0.9), (0.5, 0.75), (0.0, 0.5)])
def test_cohorts_are_drawn_in_proportion_to_a_power_of_their_size(power: float, share: float) -> None:
    views = planned(("volume", 900, 8), ("video", 100, 9), batch=1, power=power)
    drawn = np.concatenate([views.order(1000, np.random.default_rng(seed)) for seed in range(5)])
    assert (drawn < 900).mean() == pytest.approx(share, abs=0.03)


def test_epochs_are_of_one_length_even_when_a_cohort_is_smaller_than_a_batch() -> None:
    views = planned(("volume", 2, 8), ("video", 3, 9), batch=8)
    lengths = {len(views.order(5, np.random.default_rng(seed))) for seed in range(5)}
    assert lengths == {8}


def test_crops_of_several_sizes_go_with_the_kinds() -> None:
    families = {
        "volumes": MultiCrop(VolumeViews((8, 8, 8)), VolumeViews((4, 4, 4), count=3)),
        "video": MultiCrop(ClipViews((4, 16, 16)), ClipViews((2, 8, 8), count=3)),
    }
    views = ViewsByKind(**families)
    assert views.sizes == ((8, 8, 8), (4, 4, 4), (4, 16, 16), (2, 8, 8))
    batch = collate([views.draw(video(i), np.random.default_rng(i)) for i in range(2)], seed=0)  # type: ignore[arg-type]
    large, small = views.crops(batch, torch.Generator().manual_seed(0))
    assert large.shape == (2, 2, 1, 4, 16, 16) and small.shape == (3, 2, 1, 2, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": None, "volumes": None, "video": None}, "needs a family"),
        ({"volumes": ClipViews((4, 16, 16), count=1)}, "volume views must cut volumes, but ClipViews cuts videos"),
        ({"video": ClipViews((4, 16, 16), count=2)}, "same count of views"),
        ({"power": 1.5}, "power from 0 to 1"),
    ],
)
def test_families_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**options)


def test_cohorts_without_a_family_are_refused() -> None:
    with pytest.raises(ConfigError, match="no views of signals"):
        made().check(info("signal", 1))
    with pytest.raises(ConfigError, match="no views for a video"):
        made(video=None).draw(video(0), np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one kind"):
        MultiCrop(ClipViews((4, 16, 16)), SignalViews((64,)))
