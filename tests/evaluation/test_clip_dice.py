"""Dice of clips, pooled and frame by frame."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.evaluation.clip_dice import dice_per_frame, dice_pooled


def test_a_small_mask_weighs_less_when_pooled():
    reference = np.zeros((2, 10, 10), bool)
    reference[0, :8, :10] = reference[1, :1, :2] = True
    prediction = reference.copy()
    prediction[1] = False
    np.testing.assert_allclose(dice_per_frame(prediction, reference), [1, 0])
    assert dice_pooled(prediction, reference) == pytest.approx(160 / 162)


def test_two_empty_masks_agree():
    empty = np.zeros((3, 4, 4), bool)
    np.testing.assert_array_equal(dice_per_frame(empty, empty), [1, 1, 1])
    assert dice_pooled(empty, empty) == 1.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        dice_pooled(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 3), bool))
