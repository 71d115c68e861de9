"""The numbers behind the report's pictures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy_studies import AGE, BEATS, MASKS, make_plan, run

from medssl.evaluation.calibration import BINS, calibration, reliability
from medssl.evaluation.cells import Cell
from medssl.evaluation.cohort_card import cohort_card
from medssl.evaluation.feature_maps import flattened, map_labels
from medssl.evaluation.metrics import expected_calibration_error
from medssl.evaluation.results import TaskInfo
from medssl.evaluation.study import run_study
from medssl.training.example_stacks import example_stack


def test_bins_give_the_calibration_error_of_the_metric() -> None:
    rng = np.random.default_rng(0)
    confidence = np.r_[rng.random(500), 0.0, 1.0, 1 / BINS, 2 / BINS]
    right = rng.random(len(confidence)) < confidence**2
    n, sure, correct = reliability(confidence, right)
    assert n.sum() == len(confidence) and correct.sum() == right.sum()
    assert np.abs(sure - correct).sum() / n.sum() == pytest.approx(expected_calibration_error(confidence, right))


def test_calibration_adds_up_over_repeats() -> None:
    frame = pd.DataFrame({"y_true": ["N", "V"], "p/N": [0.9, 0.6], "p/S": [0.05, 0.1], "p/V": [0.05, 0.3]})
    found = calibration({("voco", "2", 0): frame, ("voco", "2", 1): frame}, BEATS)
    n, sure, right = found["voco", "2"].sum(1)
    assert (n, right) == (4, 2) and sure == pytest.approx(3.0)
    assert calibration({}, AGE) == {} and calibration({}, MASKS) == {}


def test_calibration_of_several_labels_looks_at_every_probability() -> None:
    info = TaskInfo("classification", "findings", ("a", "b"), multilabel=True)
    frame = pd.DataFrame({"y/a": [1, 0], "y/b": [0, 0], "p/a": [0.8, 0.3], "p/b": [0.1, 0.2]})
    n, sure, right = calibration({("x", "2", 0): frame}, info)["x", "2"].sum(1)
    assert (n, right) == (4, 1) and sure == pytest.approx(1.4)


@pytest.mark.parametrize(("n", "kind"), [(12, "PCA"), (60, "t-SNE")])
def test_groups_stay_together_on_a_map(n: int, kind: str) -> None:
    group = np.arange(n) % 2
    x = np.random.default_rng(0).normal(size=(n, 8)) + 20 * group[:, None]
    x[3] = np.nan
    flat, how = flattened(x)
    assert how == kind and np.isnan(flat[3]).all()
    known = np.arange(n) != 3
    distance = np.linalg.norm(flat[known, None] - flat[None, known], axis=2) + np.diag(np.full(n - 1, np.inf))
    assert (group[known][distance.argmin(1)] == group[known]).all()
    np.testing.assert_array_equal(flat, flattened(x)[0])


def test_constant_features_have_a_map_too() -> None:
    flat, how = flattened(np.ones((30, 4)))
    assert how == "PCA" and not flat.any()


def target(**given: Any) -> Any:
    manifest = pd.DataFrame({
        "spacing_mm": [[1.0, 1.0, 1.0]] * 4,
        "mask_voxels": [json.dumps({"m": {"1": v}}) for v in (1000, 2000, 3000, 9000)],
    })  # fmt: skip
    known = {"cohort": SimpleNamespace(manifest=manifest), "name": "m", "source": "label", "task": "classification",
             "multilabel": False, "classes": ()}  # fmt: skip
    return SimpleNamespace(**(known | given))


def test_a_recording_is_labelled_by_its_rarest_event() -> None:
    beats = target(classes=("N", "V"), source="event", rows=np.array([0, 0, 0, 1, 2]), y=np.array([0, 0, 1, 0, 0]))
    assert map_labels(beats, np.array([2, 0, 1])) == ["N", "V", "N"]
    several = target(classes=("a", "b"), multilabel=True, rows=np.arange(3), y=np.array([[1, 1], [1, 0], [0, 0]]))
    assert map_labels(several, np.arange(3)) == ["b", "a", "none"]


def test_numbers_and_volumes_are_told_by_their_third() -> None:
    assert map_labels(target(source="mask", task="segmentation"), np.arange(4)) == [
        "up to 2", "up to 2", "2 to 3", "above 3"]  # fmt: skip
    ages = target(task="regression", rows=np.arange(3), y=np.array([20.0, 40.0, 60.0]))
    assert map_labels(ages, np.arange(3)) == ["up to 33.3", "33.3 to 46.7", "above 46.7"]


def test_the_card_of_a_cohort(tmp_path: Path) -> None:
    assert cohort_card(tmp_path) == {}
    pd.DataFrame({
        "shape": [[20, 30, 30], [25, 30, 30]], "spacing_mm": [[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]], "site": ["A", ""],
        "n_samples": [None, None], "rate_hz": [None, None],
    }).to_parquet(tmp_path / "recordings.parquet")  # fmt: skip
    (tmp_path / "rejected.csv").write_text("source,reason\nx,no header\ny,no header\n")
    card = cohort_card(tmp_path)
    assert card["rejected"] == {"no header": 2} and card["counts"] == {"site": {"A": 1, "unknown": 1}}
    assert card["histograms"]["Voxel size along y (mm)"] == {"edges": [1.0, 1.0], "counts": [2]}
    assert sum(card["histograms"]["Extent along z (voxels)"]["counts"]) == 2
    pd.DataFrame({"shape": [[500]], "spacing_mm": [None], "n_samples": [500], "rate_hz": [250.0],
                  "channels": [["II"]]}).to_parquet(tmp_path / "recordings.parquet")  # fmt: skip
    assert cohort_card(tmp_path)["histograms"]["Duration (s)"]["edges"] == [2.0, 2.0]


def _newer(cell: Cell) -> None:
    """As ``run``, but one arm was trained by a release that keeps stacks."""
    run(cell)
    if cell.encoder == "voco":
        reference = np.zeros((6, 32, 40), dtype=np.uint8)
        reference[2:5, 10:20, 10:20] = 1
        kept = example_stack(np.ones(reference.shape), reference, reference)
        arrays = {f"{name}_0": a for name, a in kept.items()}
        np.savez(cell.folder / "examples.npz", recording_0=np.array("r0"), dice_0=np.array(1.0), **arrays)


def test_cells_of_earlier_releases_do_not_mix_with_stacks(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path), _newer, progress=False)
    with np.load(tmp_path / "examples.npz") as kept:
        assert int(kept["format_version"]) == 2 and kept["image_0"].ndim == 3
        assert "prediction_0/voco/all" in kept and "prediction_0/scratch/all" not in kept
