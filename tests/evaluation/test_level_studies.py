"""Studies whose decisions are about windows, patients or sequences of epochs: every arm answers the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy_cohorts import make_cohort

from medssl.cohort import Cohort
from medssl.errors import CohortError, ConfigError
from medssl.evaluation.floor import describe_floor, floor_features
from medssl.evaluation.study import evaluate
from medssl.report import report
from medssl.splits import split
from medssl.training.levels import make_decisions
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import resolve_target


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patients with two nights each, four of them for testing."""
    cohort = make_cohort(tmp_path_factory.mktemp("nights"), "night", patients=10, per_patient=2)
    split(cohort, test=4, stratify="group")
    return cohort


def study(nights: Path, out: Path, run: Path, target: str, settings: dict[str, Any], **options: Any) -> dict[str, Any]:
    quick = {"max_steps": 2, "batch_size": 4, "progress": False, "accelerator": "cpu", "precision": "32-true"}
    given = {"task": "classification", "budgets": ["all"], "repeats": 1, "protocol": "linear", **options}
    return evaluate(
        cohort=nights, target=target, encoders={"mine": str(run)}, out=out,
        settings=FinetuneSettings(**(quick | settings)), **given,
    )  # fmt: skip


def tables(out: Path) -> list[pd.DataFrame]:
    """The predictions of every cell; all of the same decisions in the same order, with the same truth."""
    found = [pd.read_parquet(f).drop(columns="group") for f in sorted(out.glob("cells/*/*/*/predictions.parquet"))]
    same = [c for c in found[0] if not c.startswith(("p/", "y_pred"))]
    for other in found[1:]:
        pd.testing.assert_frame_equal(other[same], found[0][same], check_dtype=False)
    return found


@pytest.mark.parametrize(
    ("protocol", "level", "target", "count"),
    [("linear", "patient", "findings", 4), ("knn", "patient", "group", 4), ("linear", "window", "group", 5 * 8)],
)
def test_probes_answer_on_the_level_that_is_stated(
    nights: Path, tmp_path: Path, run: Path, protocol: str, level: str, target: str, count: int
) -> None:
    summary = study(nights, tmp_path, run, target, {"level": level, "window_s": 10.0}, protocol=protocol)
    assert not summary["failed"] and summary["level"] == level
    found = tables(tmp_path)
    assert len(found) == 3 and {len(t) for t in found} == {count}
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert set(results["level"]) == {level}
    pooled = results[(results["patient"] == "*") & (results["metric"] == "accuracy")]
    assert (pooled["n_items"] == count).all()
    assert any(r["metric"] == "macro_f1" and r["n_patients"] == 4 for r in summary["results"])
    assert f"Decided for each {level}<" in report(tmp_path).read_text(encoding="utf-8")


def test_sequences_are_compared_with_the_band_powers_of_single_epochs(nights: Path, tmp_path: Path, run: Path) -> None:
    asked = {"sequence": 6, "context": "mamba", "context_width": 8}
    summary = study(nights, tmp_path, run, "stage:A,B,C", asked, protocol="finetune")
    assert not summary["failed"]
    assert summary["floor"] == "log band powers of the epoch and logistic regression"
    assert "sequences of at most 6 epochs" in summary["aggregation"] and summary["level"] == "window"
    assert {"kappa", "macro_f1", "f1"} <= {r["metric"] for r in summary["results"]}
    assert len(tables(tmp_path)) == 3
    floor = next(r for r in summary["results"] if (r["encoder"], r["metric"], r["class"]) == ("floor", "f1", "B"))
    assert floor["mean"] > 0.95  # a fast wave is easily found; A and C are the same


@pytest.mark.parametrize("asked", [{"sequence": 4}, {"aggregate": "attention"}])
def test_what_is_learnt_with_the_head_is_not_for_probes(
    nights: Path, tmp_path: Path, run: Path, asked: dict[str, Any]
) -> None:
    target = "stage:A,B,C" if "sequence" in asked else "group"
    with pytest.raises(ConfigError, match=r"use the finetune protocol, with --settings\.freeze"):
        study(nights, tmp_path, run, target, asked)


def test_patients_of_two_classes_are_refused_before_the_first_step(tmp_path: Path, run: Path) -> None:
    mixed = make_cohort(tmp_path, "signal", patients=4, per_patient=2)
    split(mixed, test=1)
    with pytest.raises(CohortError, match="has recordings of class"):
        study(mixed, tmp_path / "study", run, "rhythm", {"level": "patient"})
    assert not (tmp_path / "study" / "cells").exists()


def test_the_floor_of_a_window_sees_that_window_alone(nights: Path) -> None:
    cohort = Cohort(nights)
    target = resolve_target(cohort, "classification", "group")
    windows = make_decisions(target, FinetuneSettings(level="window", window_s=2.0, test_windows=24)).parts
    stages = resolve_target(cohort, "classification", "stage:A,B,C")
    assert not stages.are_moments and not windows.are_moments
    assert describe_floor(windows, "window") == "log band powers of the window and logistic regression"
    of_windows, of_epochs = floor_features(windows), floor_features(stages)
    first = (windows.rows == 0) & (windows.onset_s == 8.0)
    same = (stages.rows == 0) & (stages.onset_s == 8.0)
    assert first.sum() == same.sum() == 1  # 24 windows of 2 s fill a night: they are its epochs
    np.testing.assert_allclose(of_windows[first], of_epochs[same])
    assert len(np.unique(of_windows[windows.rows == 0], axis=0)) == 24
