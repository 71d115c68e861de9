"""Masks against hand-made cases: empty masks, anisotropic voxels, and what must be refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medssl.evaluation.metrics.segmentation import segmentation_metrics, tolerance_mm

SPACING = (3.0, 1.0, 1.0)
DIAGONAL = math.hypot(8 * 3, 10, 12)
EMPTY = np.zeros((8, 10, 12), dtype=np.uint8)
CUBE = EMPTY.copy()
CUBE[2:5, 3:7, 3:7] = 1


def scores(prediction: np.ndarray, reference: np.ndarray, **options: float) -> dict[str, float]:
    rows = segmentation_metrics(prediction, reference, spacing_mm=SPACING, labels={1: "organ"}, **options)
    return {row.key: row.value for row in rows}


@pytest.mark.parametrize(
    ("prediction", "reference", "dice", "nsd", "distance"),
    [(EMPTY, EMPTY, 1, 1, 0), (CUBE, EMPTY, 0, 0, DIAGONAL), (EMPTY, CUBE, 0, 0, DIAGONAL), (CUBE, CUBE, 1, 1, 0)],
    ids=["both empty", "only predicted", "only in the reference", "equal"],
)
def test_empty_masks_are_scored_so_that_silence_never_wins(
    prediction: np.ndarray, reference: np.ndarray, dice: float, nsd: float, distance: float
) -> None:
    got = scores(prediction, reference)
    assert (got["dice/1"], got["nsd/1"]) == (dice, nsd)
    assert got["hd95_mm/1"] == pytest.approx(distance)
    assert got["masd_mm/1"] == pytest.approx(distance)


def test_a_shift_by_one_slice_costs_the_slice_thickness() -> None:
    moved = np.roll(CUBE, 1, axis=0)
    got = scores(moved, CUBE, nsd_tolerance_mm=2.9)
    assert got["hd95_mm/1"] == pytest.approx(3.0)
    assert got["dice/1"] == pytest.approx(2 / 3)
    assert got["nsd/1"] < scores(moved, CUBE, nsd_tolerance_mm=3.0)["nsd/1"] == 1


def test_volume_errors_have_signs_and_units() -> None:
    half = CUBE.copy()
    half[:, 5:] = 0
    got = scores(half, CUBE)
    assert got["volume_error/1"] == pytest.approx(-0.5)
    assert got["volume_error_ml/1"] == pytest.approx(-24 * 3 / 1000)
    assert math.isnan(scores(CUBE, EMPTY)["volume_error/1"])


def test_the_result_does_not_depend_on_how_much_air_surrounds_the_organ() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = (rng.random((2, 8, 10, 12)) > 0.6).astype(np.uint8)
    pad = [(0, 0), (4, 9), (7, 2)]
    inside, padded = scores(prediction, reference), scores(np.pad(prediction, pad), np.pad(reference, pad))
    assert inside == pytest.approx(padded)


def test_against_a_loop_over_all_pairs_of_boundary_voxels() -> None:
    rng = np.random.default_rng(1)
    prediction, reference = (rng.random((2, 5, 6, 7)) > 0.5).astype(np.uint8)

    def boundary(mask: np.ndarray) -> list[np.ndarray]:
        padded = np.pad(mask, 1)
        cross = [np.eye(3, dtype=int)[a] * s for a in range(3) for s in (-1, 1)]
        found = [i for i in np.argwhere(mask) if not all(padded[tuple(i + 1 + step)] for step in cross)]
        return [i * np.array(SPACING) for i in found]

    p, r = boundary(prediction), boundary(reference)
    forth = [min(np.linalg.norm(a - b) for b in r) for a in p]
    back = [min(np.linalg.norm(a - b) for b in p) for a in r]
    got = scores(prediction, reference)
    assert got["hd95_mm/1"] == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
    assert got["masd_mm/1"] == pytest.approx((np.mean(forth) + np.mean(back)) / 2)


def test_means_run_over_classes_and_remember_empty_ones() -> None:
    two = CUBE.copy()
    two[6:, 8:, 8:] = 2
    rows = {r.key: r for r in segmentation_metrics(CUBE, two, spacing_mm=SPACING, labels={1: "organ", 2: "lesion"})}
    assert rows["dice"].value == pytest.approx(0.5)
    assert rows["dice"].empty_prediction and not rows["dice"].empty_reference
    assert rows["dice/2"].name == "lesion"


def test_probabilities_and_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="argmax"):
        scores(CUBE * 0.7, CUBE)
    with pytest.raises(ValueError, match="one grid"):
        scores(CUBE[:, :5], CUBE)
    with pytest.raises(ValueError, match="voxel sizes"):
        segmentation_metrics(CUBE, CUBE, spacing_mm=(1.0, 1.0), labels={1: "organ"})


def test_the_default_tolerance_is_one_in_plane_voxel_but_at_least_a_millimetre() -> None:
    assert tolerance_mm((0.5, 0.5, 0.5)) == 1.0
    assert tolerance_mm((1.4, 6.0, 1.3)) == 1.4
