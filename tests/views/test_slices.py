"""Which slices of a volume are read, and views that differ in one transform each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import volume

from medssl.views.slices import (
    NEUTRAL,
    TRANSFORMS,
    draw_single_transforms,
    one_of_each_part,
    read_slices,
    spread_slices,
)
from medssl.views.volume_augment import VolumeAugmentation, apply_intensity, apply_spatial


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("depth", "count"), [(64, 64), (65, 64), (200, 64), (7, 3), (500, 1)])
def test_thick_volumes_give_evenly_spaced_slices(depth: int, count: int) -> None:
    starts = set()
    for seed in range(20):
        places, filled = spread_slices(depth, count, rng(seed))
        assert filled.all() and places.min() >= 0 and places.max() < depth
        steps = np.diff(places)
        assert len(steps) == 0 or (steps.min() >= depth // count and steps.max() <= -(-depth // count))
        starts.add(int(places[0]))
    assert len(starts) > 1 or depth < 2 * count, "both ends are seen"


@pytest.mark.parametrize(("depth", "count", "first"), [(5, 8, 1), (1, 4, 1), (1, 1, 0), (4, 8, 2)])
def test_thin_volumes_stand_whole_in_the_middle(depth: int, count: int, first: int) -> None:
    places, filled = spread_slices(depth, count, rng())
    assert filled.sum() == min(depth, count) and places[filled].tolist() == list(range(depth))
    assert int(filled.argmax()) == first


def test_one_slice_comes_of_each_part() -> None:
    for seed in range(20):
        places = one_of_each_part(30, 5, rng(seed))
        assert (places // 6).tolist() == [0, 1, 2, 3, 4]
    assert one_of_each_part(1, 3, rng()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("places", [[0, 3, 7], [-1, 0, 1], [5], [0, 39]])
def test_slices_are_those_of_the_volume(places: list[int]) -> None:
    reader = volume(0, (40, 6, 30))
    found = read_slices(reader, np.array(places), (8, 16), rng())  # type: ignore[arg-type]
    assert found.shape == (1, len(places), 8, 16)
    (_, y, x), _ = reader.reads[-1]
    for got, place in zip(found[0], places, strict=True):
        np.testing.assert_array_equal(got, reader.read([place, y, x], [1, 8, 16])[0, 0])
    assert y == -1, "a plane that is too small lies in the middle"


def test_slices_far_apart_are_read_each_for_itself() -> None:
    reader = volume(0, (80, 8, 8))
    near = read_slices(reader, np.array([0, 20]), (8, 8), rng())  # type: ignore[arg-type]
    assert [size[0] for _, size in reader.reads] == [21]
    reader.reads.clear()
    far = read_slices(reader, np.array([0, 60]), (8, 8), rng())  # type: ignore[arg-type]
    assert [size[0] for _, size in reader.reads] == [1, 1]
    np.testing.assert_array_equal(near[:, 0], far[:, 0])


def active(parameters: dict[str, torch.Tensor], row: int) -> set[int]:
    return {
        number
        for number, names in enumerate(TRANSFORMS)
        if any((parameters[name][row] != NEUTRAL[name]).any() for name in names)
    }


def test_two_views_have_one_transform_each_and_never_the_same() -> None:
    settings = VolumeAugmentation(flip=(1.0, 1.0, 1.0), affine=1.0, blur=1.0, coarse=1.0, noise=1.0, gamma=1.0,
                                  coarse_factor=(1.5, 2.0), brightness=0.0, contrast=0.0)  # fmt: skip
    parameters = draw_single_transforms((200, 1, 4, 8, 8), torch.Generator().manual_seed(0), settings)
    pairs = [(active(parameters, i), active(parameters, 200 + i)) for i in range(200)]
    assert all(len(a) == len(b) == 1 and a != b for a, b in pairs)
    assert {next(iter(a)) for a, _ in pairs} == set(range(len(TRANSFORMS)))
    assert (
        not parameters["turn"].any() and (parameters["brightness"] == 1).all() and (parameters["contrast"] == 1).all()
    )


def test_they_can_be_applied_and_differ_from_draw_to_draw() -> None:
    x, generator = torch.rand(3, 1, 4, 8, 8), torch.Generator().manual_seed(0)
    views = []
    for _ in range(2):
        parameters = draw_single_transforms(tuple(x.shape), generator)
        views.append(apply_intensity(apply_spatial(x.repeat(2, 1, 1, 1, 1), parameters), parameters))
    assert views[0].isfinite().all() and views[0].shape == (6, 1, 4, 8, 8)
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[0][:3], views[0][3:])
