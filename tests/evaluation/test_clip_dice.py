"""Dice of clips, pooled over their frames."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.evaluation.clip_dice import frame_counts, pooled


def test_a_small_mask_weighs_less_when_pooled():
    reference = np.zeros((2, 10, 10), bool)
    reference[0, :8, :10] = reference[1, :1, :2] = True
    prediction = reference.copy()
    prediction[1] = False
    found = frame_counts(prediction, reference)
    assert found.overlap.tolist() == [80, 0] and found.sizes.tolist() == [160, 2]
    assert pooled(found) == pytest.approx(160 / 162)


def test_two_empty_masks_agree():
    empty = np.zeros((3, 4, 4), bool)
    assert pooled(frame_counts(empty, empty)) == 1.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        frame_counts(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3), bool))
