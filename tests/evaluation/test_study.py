"""The study from cells to verdict, with models of known quality in place of training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from toy_studies import AGE, BEATS, MASKS, PATIENTS, make_plan, run

from medssl.errors import TrainingError
from medssl.evaluation.results import COLUMNS, TaskInfo
from medssl.evaluation.study import run_study
from medssl.evaluation.verdict import verdict

KINDS = pytest.mark.parametrize("info", [MASKS, BEATS, AGE], ids=["segmentation", "classification", "regression"])


def result(summary: dict, encoder: str, budget: str, metric: str, name: str = "") -> dict:
    (found,) = [r for r in summary["results"]
                if (r["encoder"], r["budget"], r["metric"], r["class"]) == (encoder, budget, metric, name)]  # fmt: skip
    return found


@KINDS
def test_a_better_encoder_is_found_better(tmp_path: Path, info: TaskInfo) -> None:
    summary = run_study(make_plan(tmp_path, info, arms=("scratch", "voco", "worse")), run, progress=False)
    found = {(c["encoder"], c["budget"]): c for c in summary["comparisons"]}
    assert set(found) == {(e, b) for e in ("voco", "worse") for b in ("2", "all")}
    for (encoder, _), c in found.items():
        assert c["better"] == (encoder == "voco")
        assert c["p"] <= c["p_holm"] < 0.05
        assert min(c["low"], c["high"]) <= c["difference"] <= max(c["low"], c["high"])
    assert "voco reaches" in summary["verdict"] and "better by" in summary["verdict"]
    assert "Reliably worse" in summary["verdict"]
    assert f"{len(PATIENTS)} test patients" in summary["verdict"]
    assert "for these 2 label draws and seeds" in summary["verdict"]


@KINDS
def test_files_have_their_written_form(tmp_path: Path, info: TaskInfo) -> None:
    summary = run_study(make_plan(tmp_path, info), run, progress=False)
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert tuple(table.columns) == COLUMNS
    keys = ["encoder", "budget", "repeat", "fold", "patient", "metric", "class"]
    assert not table.duplicated(keys).any()
    assert set(table["encoder"]) == {"scratch", "voco"} and set(table["repeat"]) == {0, 1}
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["kind"] == "study" and written["split"]["sha256"] == "5" * 64
    assert written["verdict"] == summary["verdict"]


@KINDS
def test_running_again_trains_nothing_and_changes_no_byte(tmp_path: Path, info: TaskInfo) -> None:
    run_study(make_plan(tmp_path, info), run, progress=False)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.suffix in (".json", ".parquet")}

    def never(cell: object) -> None:
        raise AssertionError("a finished cell was run again")

    run_study(make_plan(tmp_path, info), never, progress=False)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir() if f.suffix in (".json", ".parquet")} == before


def test_macro_f1_is_pooled_over_patients_and_can_be_recomputed_from_the_table(tmp_path: Path) -> None:
    summary = run_study(make_plan(tmp_path, BEATS, repeats=1), run, progress=False)
    answers = pd.read_parquet(tmp_path / "cells" / "voco" / "all" / "0" / "predictions.parquet")
    got = result(summary, "voco", "all", "macro_f1")
    assert got["mean"] == pytest.approx(f1_score(answers["y_true"], answers["y_pred"], average="macro"))
    assert got["low"] < got["mean"] < got["high"] and got["n_patients"] == len(PATIENTS)
    auc = np.mean([roc_auc_score(answers["y_true"] == c, answers[f"p/{c}"]) for c in BEATS.classes])
    assert result(summary, "voco", "all", "auroc")["mean"] == pytest.approx(auc)
    table = pd.read_parquet(tmp_path / "results.parquet")
    counts = table[(table["metric"] == "n") & (table["encoder"] == "voco") & (table["budget"] == "all")]
    assert counts["value"].sum() == len(answers)
    right = counts[counts["class"] == "S/S"]["value"].sum()
    assert right == ((answers["y_true"] == "S") & (answers["y_pred"] == "S")).sum()


def test_segmentation_means_run_over_patients_with_units(tmp_path: Path) -> None:
    summary = run_study(make_plan(tmp_path), run, progress=False)
    table = pd.read_parquet(tmp_path / "results.parquet")
    own = table[
        (table["encoder"] == "voco")
        & (table["budget"] == "2")
        & (table["metric"] == "hd95_mm")
        & (table["class"] == "1")
    ]
    assert result(summary, "voco", "2", "hd95_mm", "1")["mean"] == pytest.approx(own["value"].mean())
    assert len(own) == 2 * len(PATIENTS)


@KINDS
def test_a_failed_cell_counts_as_the_worst_value(tmp_path: Path, info: TaskInfo) -> None:
    plan = make_plan(tmp_path, info, options={"fail": ["voco", "2", 1]})
    summary = run_study(plan, run, progress=False)
    clean = run_study(make_plan(tmp_path / "clean", info), run, progress=False)
    metric = summary["metric"]
    broken, whole = result(summary, "voco", "2", metric), result(clean, "voco", "2", metric)
    where = {"encoder": "voco", "budget": "2", "repeat": 1, "fold": 0}
    assert summary["failed"] == [where | {"error": "the loss is not finite"}]
    assert broken["n_failed"] == 1 and "1 cell failed" in summary["verdict"]
    if info.task == "regression":
        assert broken["mean"] > whole["mean"]
    else:
        first = run_study(make_plan(tmp_path / "one", info, repeats=1), run, progress=False)
        assert broken["mean"] == pytest.approx(result(first, "voco", "2", metric)["mean"] / 2)
    if info.task == "classification":
        assert result(summary, "voco", "2", "auroc")["mean"] < 0.6 < result(clean, "voco", "2", "auroc")["mean"]


def test_when_everything_fails_the_reason_is_said(tmp_path: Path) -> None:
    def broken(cell: object) -> None:
        raise TrainingError("there is nothing to train on")

    with pytest.raises(TrainingError, match=r"every cell.*nothing to train on"):
        run_study(make_plan(tmp_path), broken, progress=False)


def test_equal_arms_are_not_called_different(tmp_path: Path) -> None:
    def same(cell: object) -> None:
        run(replace(cell, encoder="scratch"))  # type: ignore[type-var]

    summary = run_study(make_plan(tmp_path), same, progress=False)
    assert "No encoder differed reliably from scratch" in summary["verdict"]
    assert "would usually go unseen" in summary["verdict"]
    assert all(c["p_holm"] == 1 for c in summary["comparisons"])


@pytest.mark.parametrize(
    ("low", "high", "why"), [(None, None, "so few patients give no interval"), (-0.01, 0.2, "its interval holds zero")]
)
def test_a_passed_test_alone_is_no_claim(low: float | None, high: float | None, why: str) -> None:
    comparison = {
        "encoder": "voco", "baseline": "scratch", "budget": "2", "n_training_patients": 2, "difference": 0.1,
        "low": low, "high": high, "p_holm": 0.03, "better": True, "n_patients": 8,
    }  # fmt: skip
    planning = {"n_test_patients": 8, "detectable_effect_sd": 1.2}
    told = verdict(
        {"comparisons": [comparison], "results": [], "metric": "dice", "repeats": 5, "planning": planning, "failed": []}
    )
    assert "No encoder differed reliably" in told and f"p = 0.030; it passes the test, but {why}" in told


@pytest.mark.parametrize("target", ["dx", "dx:AF,PVC,STD"])
def test_a_class_too_rare_to_test_is_said_to_be_the_reason(target: str) -> None:
    comparison = {"encoder": "voco", "baseline": "scratch", "budget": "2", "p_holm": None, "interval": "not estimable"}
    told = verdict(
        {"comparisons": [comparison], "results": [], "metric": "macro_f1", "target": target, "repeats": 5,
         "planning": {"n_test_patients": 25}, "failed": []}
    )  # fmt: skip
    assert "a class occurs in too few of the test patients" in told and "--target dx:A,B" in told


def test_a_simple_baseline_that_wins_is_named(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, BEATS, arms=("scratch", "worse", "floor"))
    summary = run_study(plan, run, progress=False)
    assert "The simple baseline (a random forest) was not beaten" in summary["verdict"]
    assert {c["encoder"] for c in summary["comparisons"]} == {"worse"}


def test_without_enough_test_patients_there_is_no_claim(tmp_path: Path) -> None:
    def few(cell: object) -> None:
        run(cell)  # type: ignore[arg-type]
        file = cell.folder / "per_case.parquet"  # type: ignore[attr-defined]
        cases = pd.read_parquet(file)
        cases[cases["patient"].isin(PATIENTS[:4])].to_parquet(file)

    summary = run_study(make_plan(tmp_path), few, progress=False)
    assert summary["verdict"].startswith("With 4 test patients nothing can be concluded")
    assert math.isnan(result(summary, "voco", "2", "dice")["low"])


def test_examples_hold_every_arm_at_the_smallest_and_largest_budget(tmp_path: Path) -> None:
    run_study(make_plan(tmp_path), run, progress=False)
    with np.load(tmp_path / "examples.npz", allow_pickle=False) as kept:
        assert {f"prediction_0/{a}/{b}" for a in ("scratch", "voco") for b in ("2", "all")} <= set(kept.files)
        assert str(kept["kind_0"]) == "stack" and kept["image_0"].dtype == np.uint8
