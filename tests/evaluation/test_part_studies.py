"""Studies that test every fold, or every site, by models of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.encoders.base import InputSpec, save_encoder
from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import SplitError, TrainingError
from medssl.evaluation.study import evaluate
from medssl.splits import Split, parts
from medssl.splits import split as make_split
from medssl.synth.ecg import write_ecg
from medssl.training.export import patient_marks
from medssl.training.settings import FinetuneSettings

SETTINGS = FinetuneSettings(window_s=0.8, max_steps=2, batch_size=8, test_batch=64, progress=False)


@pytest.fixture(scope="module")
def ecg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine synthetic patients, three each of two sites and of none, dealt into three folds."""
    folder = tmp_path_factory.mktemp("ecg")
    raw = write_ecg(folder / "raw", patients=9, seed=1, seconds=12, rate_hz=250)
    prepare("mitbih", raw, folder / "cohort", workers=0, keep_ids=True)
    file = folder / "cohort" / "recordings.parquet"
    table = pd.read_parquet(file).sort_values("patient")
    order = {p: i for i, p in enumerate(sorted(set(table["patient"])))}
    table["site"] = [("St. Mary's, Bonn", "Ulm", "")[order[p] // 3] for p in table["patient"]]
    table.to_parquet(file, index=False)
    make_split(folder / "cohort", name="cv", test=0, folds=3)
    return folder / "cohort"


def run_of(ecg: Path, part: str, folder: Path) -> str:
    """An encoder that was pre-trained on everybody but the patients of a part of the split."""
    cohort, seen = Cohort(ecg).info.fingerprint, Split.load(ecg, part).development
    inputs = InputSpec(kind="signal", channels=("MLII", "V"), size=(256,), rate_hz=250.0)
    marks = {"cohorts": [], "patients": {cohort: sorted(patient_marks(cohort, seen).values())}}
    save_encoder(ResNet1d(in_channels=2, widths=(4, 8), blocks=1, kernel=3), folder / "encoder", inputs, marks)
    return str(folder)


def study(ecg: Path, out: Path, **options: Any) -> dict[str, Any]:
    given = {"task": "classification", "target": "aami", "split": "cv", "protocol": "linear", "repeats": 2}
    return evaluate(cohort=ecg, out=out, settings=SETTINGS, **({"encoders": {}, "budgets": ["2"]} | given | options))


def test_every_patient_is_tested_once_by_models_of_other_folds(ecg: Path, tmp_path: Path) -> None:
    runs = [run_of(ecg, f"cv-fold{i}", tmp_path / f"run{i}") for i in range(3)]
    summary = study(ecg, tmp_path / "study", testing="folds", encoders={"mine": runs[0].replace("run0", "run{fold}")})
    assert summary["planning"]["n_test_patients"] == 9 and not summary["failed"]
    assert summary["split"]["parts"] == ["cv-fold0", "cv-fold1", "cv-fold2"]
    table = pd.read_parquet(tmp_path / "study" / "results.parquet")
    own = table[(table["metric"] == "accuracy") & (table["patient"] != "*")]
    assert (own.groupby(["encoder", "budget", "repeat", "patient"]).size() == 1).all()
    folds = Split.load(ecg, "cv").folds
    assert all(patient in folds[fold] for fold, patient in zip(own["fold"], own["patient"], strict=True))
    # one estimate over all patients, not a mean of estimates of folds
    (entry,) = [
        r for r in summary["results"]
        if (r["encoder"], r["metric"], r["class"]) == ("mine", "accuracy", "") and r["budget"] == "2"
    ]  # fmt: skip
    predictions = [pd.read_parquet(f) for f in (tmp_path / "study/cells/mine/2").rglob("predictions.parquet")]
    answers = pd.concat(predictions)
    assert entry["mean"] == pytest.approx((answers["y_true"] == answers["y_pred"]).mean())


def test_an_encoder_that_saw_the_patients_of_a_fold_is_refused(ecg: Path, tmp_path: Path) -> None:
    run = run_of(ecg, "cv-fold0", tmp_path / "run")
    with pytest.raises(SplitError, match="pre-trained on"):
        study(ecg, tmp_path / "study", testing="folds", encoders={"mine": run})


def test_a_failed_fold_counts_as_the_worst_value_of_its_patients(
    ecg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medssl.evaluation import study as module

    whole = module.run_cell

    def fragile(cell: Any) -> None:
        if cell.encoder == "untrained" and cell.fold == 1:
            raise TrainingError("the loss is not finite")
        whole(cell)

    monkeypatch.setattr(module, "run_cell", fragile)
    summary = study(ecg, tmp_path, testing="folds", repeats=1)
    assert [(f["encoder"], f["fold"]) for f in summary["failed"]] == [("untrained", 1)]
    table = pd.read_parquet(tmp_path / "results.parquet")
    worst = table[table["failed"] & (table["metric"] == "accuracy") & (table["patient"] != "*")]
    assert set(worst["patient"]) == set(Split.load(ecg, "cv").folds[1]) and not np.any(worst["value"])


def test_a_site_is_tested_by_models_of_the_others(ecg: Path, tmp_path: Path) -> None:
    assert parts(ecg, "cv", "sites") == ["cv-site-St._Mary_s__Bonn", "cv-site-Ulm"]
    bonn = Split.load(ecg, "cv-site-St. Mary's, Bonn")
    assert bonn == Split.load(ecg, "cv-site-St._Mary_s__Bonn")
    assert len(bonn.test) == 3 and len(bonn.development) == 6, "patients of no known site are learnt from"
    summary = study(ecg, tmp_path, testing="sites", repeats=1)
    assert summary["planning"]["n_test_patients"] == 6 and not summary["failed"]


def test_parts_that_do_not_exist_are_refused(ecg: Path, tmp_path: Path) -> None:
    make_split(ecg, name="plain", test=3)
    with pytest.raises(SplitError, match="no folds; make one with"):
        study(ecg, tmp_path, testing="folds", split="plain")
    with pytest.raises(SplitError, match="no fold 7"):
        Split.load(ecg, "cv-fold7")
    with pytest.raises(SplitError, match="Ulm"):
        Split.load(ecg, "cv-site-Um")


def test_names_of_splits_may_look_like_parts(ecg: Path) -> None:
    made = make_split(ecg, name="two-site-fold1", test=0, folds=2)
    assert Split.load(ecg, "two-site-fold1") == made
    assert Split.load(ecg, "two-site-fold1-fold0").test == made.folds[0]
    assert Split.load(ecg, "two-site-fold1-site-Ulm").test == Split.load(ecg, "cv-site-Ulm").test


def test_measuring_encoders_has_no_parts(ecg: Path, tmp_path: Path) -> None:
    summary = study(ecg, tmp_path, testing="folds", protocol="representation")
    assert list(summary["representation"]) == ["untrained"] and "parts" not in summary["split"]
