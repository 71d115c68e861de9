"""Label values merged into classes, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.adapters.recording import Read, Recording
from medssl.cohort.merging import merge_labels, merge_mask

CLASSES = {1: (205,), 2: (420, 421), 3: (500, 7)}


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_values_are_merged_as_a_loop_would(kind: type) -> None:
    rng = np.random.default_rng(0)
    values = np.array([0, 205, 420, 421, 500, 7, 900, 6] + ([-1] if kind is not np.uint16 else []))
    array = rng.choice(values, (4, 5, 6)).astype(kind)
    expected = np.zeros(array.shape, np.uint8)
    for index, value in np.ndenumerate(array):
        for new, olds in CLASSES.items():
            if value in olds:
                expected[index] = new
    merged = merge_mask(array, CLASSES, others="background")
    np.testing.assert_array_equal(merged, expected)
    assert merged.dtype == np.uint8
    with pytest.raises(ValueError, match=r"no class: (-1, )?6, 900"):
        merge_mask(array, CLASSES, others="refuse")


def test_the_share_of_odd_values_is_of_the_labelled_voxels() -> None:
    array = np.array([[[0, 0, 205, 205, 205, 8]]])
    with pytest.raises(ValueError, match=r"8 \(25\.00% of the labels\)"):
        merge_mask(array, CLASSES, others="refuse")


def test_a_recording_that_cannot_be_merged_is_rejected_and_others_stay() -> None:
    image = np.zeros((2, 2, 2))
    good = Recording(image, "zyx", labels={"heart": np.full((2, 2, 2), 205), "age": 3.0}, source="good")
    odd = Recording(image, "zyx", labels={"heart": np.full((2, 2, 2), 9)}, source="odd")
    plain = Recording(image, "zyx", source="plain")
    read = merge_labels(Read([good, odd, plain], []), "heart", CLASSES, others="refuse")
    assert [r.source for r in read.recordings] == ["good", "plain"]
    assert read.recordings[0].labels["age"] == 3.0
    assert (read.recordings[0].labels["heart"] == 1).all()
    ((source, reason),) = read.rejected
    assert source == "odd" and reason.startswith("mask 'heart' has values that are no class: 9")
