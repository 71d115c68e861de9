"""What every view family promises, checked on each by discovery."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toys import COMPOSED, VIEWS, collate

from medssl.configurable import build, discover, spec
from medssl.views.base import Views

EVERY = VIEWS | COMPOSED
families = pytest.mark.parametrize("name", sorted(EVERY))
changing = pytest.mark.parametrize("name", sorted(VIEWS))  # their own
INTENSITIES = {
    "VolumeViews": ("blur", "coarse", "noise", "brightness", "contrast", "gamma"),
    "ResizedVolumeViews": ("blur", "coarse", "noise", "brightness", "contrast", "gamma"),
    "SignalViews": ("band_stop", "scale", "gain", "polarity", "wander", "jitter", "mask", "drop_channel"),
    "ClipViews": ("gain", "tgc", "gamma", "speckle"),
}
"""Probabilities of what changes values but no places."""


def sample(name: str, *seed: int) -> dict[str, Any]:
    make, read = EVERY[name]
    return make().draw(read(0), np.random.default_rng(list(seed)))  # type: ignore[arg-type]


def batch(name: str, size: int = 3) -> dict[str, Any]:
    make, read = EVERY[name]
    return collate([make().draw(read(i), np.random.default_rng(i)) for i in range(size)], seed=0)  # type: ignore[arg-type]


def test_every_family_has_a_case() -> None:
    assert set(discover("medssl.views", Views)) == set(EVERY)  # type: ignore[type-abstract]


@families
def test_draw_reads_stored_integers_of_the_declared_size(name: str) -> None:
    make, read = EVERY[name]
    views, x = make(), sample(name, 0)["x"]
    assert x.dtype == read(0).data.dtype and np.issubdtype(x.dtype, np.integer)
    assert x.shape[0] == views.count and x.shape[2:] == views.size


@families
def test_views_of_a_batch(name: str) -> None:
    views = EVERY[name][0]()
    x = views(batch(name), torch.Generator().manual_seed(0))
    assert x.shape[:2] == (views.count, 3) and tuple(x.shape[3:]) == views.size
    assert x.dtype == torch.float32 and torch.isfinite(x).all()


@families
def test_same_seed_same_views_and_other_seed_other_views(name: str) -> None:
    views, drawn = EVERY[name][0](), batch(name)
    first, again, other = (views(drawn, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    np.testing.assert_array_equal(sample(name, 4, 9)["x"], sample(name, 4, 9)["x"])
    assert (sample(name, 4, 9)["x"] != sample(name, 4, 10)["x"]).any()


@families
def test_aligned_views_are_the_views_and_the_same_places_without_intensities(name: str) -> None:
    views, drawn = EVERY[name][0](), batch(name)
    augmented, clean = views.aligned(drawn, torch.Generator().manual_seed(1))
    assert torch.equal(augmented, views(drawn, torch.Generator().manual_seed(1)))
    assert clean.shape == augmented.shape and clean.dtype == torch.float32 and not torch.equal(clean, augmented)
    assert torch.equal(views.aligned(drawn, torch.Generator().manual_seed(1))[1], clean)
    assert not torch.equal(views.aligned(drawn, torch.Generator().manual_seed(2))[1], clean)


@changing
def test_without_changes_of_intensity_both_aligned_views_are_equal(name: str) -> None:
    make, _ = EVERY[name]
    views: Any = make()
    views.augmentation = replace(views.augmentation, **dict.fromkeys(INTENSITIES[name], 0.0))
    augmented, clean = views.aligned(batch(name), torch.Generator().manual_seed(1))
    assert torch.equal(augmented, clean)
    assert not torch.equal(clean, views.aligned(batch(name), torch.Generator().manual_seed(2))[1])


@changing
def test_recorded_parameters_replay_the_views(name: str) -> None:
    views: Any = EVERY[name][0]()
    x = torch.randn(6, 2, *views.size)
    parameters = views.draw_parameters(tuple(x.shape), torch.Generator().manual_seed(3))
    record = pickle.loads(pickle.dumps(parameters))
    assert torch.equal(views.apply(x, parameters), views.apply(x, record))
    assert torch.equal(views.augment(x, torch.Generator().manual_seed(3)), views.apply(x, record))


@families
def test_input_is_left_alone_and_half_precision_is_kept(name: str) -> None:
    views = EVERY[name][0]()
    x = torch.randn(4, 1, *views.size)
    copy = x.clone()
    views.augment(x, torch.Generator().manual_seed(0))
    assert torch.equal(x, copy)
    half = views.augment(x.bfloat16(), torch.Generator().manual_seed(0))
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()


@families
def test_specification_and_pickle_round_trip(name: str) -> None:
    views = EVERY[name][0]()
    assert spec(build(spec(views), Views)) == spec(views)  # type: ignore[type-abstract]
    assert spec(pickle.loads(pickle.dumps(views))) == spec(views)
