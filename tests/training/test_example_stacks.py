"""Example stacks are small, centred on the reference, and the same for every prediction."""

from __future__ import annotations

import numpy as np

from medssl.training.example_stacks import LEAST_SIDE, SIDE, SLICES, example_stack


def volume(shape: tuple[int, int, int], box: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    reference = np.zeros(shape, dtype=np.uint8)
    reference[box] = 3
    return np.random.default_rng(0).random(shape), reference


def test_a_large_structure_is_thinned_to_the_bounds() -> None:
    image, reference = volume((90, 300, 280), (slice(5, 85), slice(10, 280), slice(20, 260)))
    kept = example_stack(image, reference, reference)
    assert len(kept["image"]) == len(kept["slices"]) == SLICES and int(kept["depth"]) == 90
    assert kept["slices"][0] == 4 and kept["slices"][-1] == 85
    assert max(kept["image"].shape[1:]) <= SIDE and int(kept["step"]) == 4
    np.testing.assert_array_equal(kept["reference"], kept["prediction"])


def test_a_small_structure_keeps_its_surroundings() -> None:
    image, reference = volume((30, 100, 100), (slice(10, 13), slice(50, 54), slice(95, 99)))
    kept = example_stack(image, reference, reference)
    assert kept["slices"].tolist() == [9, 10, 11, 12, 13]
    assert kept["image"].shape[1] >= LEAST_SIDE and kept["image"].shape[2] < LEAST_SIDE, "the volume ends there"
    assert int(kept["step"]) == 1 and (kept["reference"] == 3).sum() == 48


def test_without_a_reference_everything_is_kept() -> None:
    image, reference = volume((6, 20, 30), (slice(0), slice(0), slice(0)))
    assert example_stack(image, reference, reference)["image"].shape == (6, 20, 30)


def test_the_crop_does_not_depend_on_the_prediction() -> None:
    image, reference = volume((30, 60, 60), (slice(8, 20), slice(10, 50), slice(12, 40)))
    one, other = (example_stack(image, reference, p) for p in (reference, np.ones_like(reference)))
    for name in ("image", "reference", "slices", "depth", "step"):
        np.testing.assert_array_equal(one[name], other[name])


def test_grey_values_use_the_whole_range() -> None:
    image, reference = volume((8, 50, 50), (slice(2, 6), slice(5, 45), slice(5, 45)))
    image[3, 20, 20] = 1e6
    grey = example_stack(image, reference, reference)["image"]
    assert grey.min() == 0 and grey.max() == 255 and grey.std() > 50, "one bright voxel does not darken the rest"
