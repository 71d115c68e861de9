"""Zero-shot retrieval: items of the test patients rank those of other patients, and no label teaches anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from toy_cohorts import ToyEncoder, make_cohort

from medssl.encoders.base import InputSpec, save_encoder
from medssl.errors import ConfigError, SplitError, TrainingError
from medssl.evaluation.retrieval import chance, retrieval_rows, retrieve
from medssl.evaluation.study import evaluate
from medssl.report import report
from medssl.splits import split
from medssl.training.settings import FinetuneSettings

PATIENTS = np.repeat(["a", "b", "c", "d"], 5)


@pytest.fixture
def items() -> tuple[np.ndarray, np.ndarray]:
    """Features, and classes of which every item has some."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 4)), rng.random((20, 3)) < 0.5


def test_average_precision_is_that_of_scikit_learn_over_other_patients(items: tuple[np.ndarray, np.ndarray]) -> None:
    x, has = items
    found = retrieve(x, has, PATIENTS)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i, k in np.argwhere(has):
        others = PATIENTS[i] != PATIENTS
        expected = average_precision_score(has[others, k], (unit @ unit[i])[others])
        assert found.precision[i, k] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found.precision[~has]).all()


def test_depths_say_whether_one_of_the_nearest_is_relevant(items: tuple[np.ndarray, np.ndarray]) -> None:
    x, has = items
    found = retrieve(x, has, PATIENTS).found
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for depth, values in found.items():
        for i, k in np.argwhere(has):
            others = np.flatnonzero(PATIENTS[i] != PATIENTS)
            nearest = others[np.argsort(-(unit @ unit[i])[others])[:depth]]
            assert values[i, k] == has[nearest, k].any()


def test_many_queries_are_answered_as_few(
    items: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, has = items
    whole = retrieve(x, has, PATIENTS)
    monkeypatch.setattr("medssl.evaluation.retrieval._CHUNK", 3)
    np.testing.assert_array_equal(retrieve(x, has, PATIENTS).precision, whole.precision)


def test_a_twin_of_the_same_patient_does_not_help() -> None:
    x = np.array([[1.0, 0], [1, 0], [0, 1], [1, 0.1]])
    has = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=bool)
    found = retrieve(x, has, np.array(["a", "a", "b", "b"]))
    # of the two items of patient b the wrong one is nearer
    assert found.precision[0, 0] == 0.5 and found.found[1][0, 0] == 0
    assert np.isnan(found.precision[3, 1])  # nobody else has that class


def test_random_features_reach_what_chance_says() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 40)
    has = np.eye(3, dtype=bool)[rng.choice(3, size=800, p=[0.7, 0.2, 0.1])]
    rows = retrieval_rows(retrieve(rng.normal(size=(800, 16)), has, patients), patients, ("x", "y", "z"))
    overall = rows[(rows["metric"] == "map") & (rows["class"] == "")]["value"].mean()
    assert overall == pytest.approx(chance(has, patients), abs=0.02)


def test_classes_count_equally_whatever_their_number_of_items() -> None:
    x = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1], [1, 0], [0, 1]])
    has = np.eye(2, dtype=bool)[[0, 0, 0, 1, 0, 1]]
    patients = np.array(["a", "a", "a", "a", "b", "b"])
    rows = retrieval_rows(retrieve(x, has, patients), patients, ("often", "rare")).set_index(
        ["patient", "metric", "class"]
    )
    assert rows.loc[("a", "map", ""), "value"] == 1 and rows.loc[("a", "map", "often"), "n_items"] == 3
    assert rows.loc[("a", "map", ""), "value"] == rows.loc[("a", "map", ["often", "rare"]), "value"].mean()


@pytest.mark.parametrize("target", ["group", "findings"])
def test_a_study_compares_encoders_without_a_label(tmp_path: Path, run: Path, target: str) -> None:
    cohort = make_cohort(tmp_path / "night", "night", patients=10, per_patient=2)
    split(cohort, test=6, stratify="group")
    settings = FinetuneSettings(progress=False, accelerator="cpu")
    summary = evaluate(
        cohort=cohort, task="classification", target=target, encoders={"mine": str(run)}, out=tmp_path / "study",
        protocol="retrieval", settings=settings,
    )  # fmt: skip
    assert summary["metric"] == "map" and not summary["failed"]
    assert [b["n_patients"] for b in summary["budgets"]] == [0]
    assert [(c["encoder"], c["baseline"]) for c in summary["comparisons"]] == [("mine", "untrained")]
    assert "random order" in " ".join(summary["notes"])
    table = pd.read_parquet(tmp_path / "study" / "results.parquet")
    assert set(table["encoder"]) == {"untrained", "mine", "floor"} and table["patient"].nunique() == 6
    page = report(tmp_path / "study").read_text(encoding="utf-8")
    assert "with no labels" in page and "mAP" in page


def test_an_encoder_without_numbers_counts_as_the_worst(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path / "night", "night", patients=10)
    split(cohort, test=6, stratify="group")
    broken = ToyEncoder(dims=1)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    inputs = InputSpec(kind="signal", channels=("C3",), size=(64,), rate_hz=32.0)
    save_encoder(broken, tmp_path / "run" / "encoder", inputs, {"cohorts": [], "patients": {}})
    summary = evaluate(
        cohort=cohort, task="classification", target="group", encoders={"broken": str(tmp_path / "run")},
        out=tmp_path / "study", protocol="retrieval", settings=FinetuneSettings(progress=False, accelerator="cpu"),
    )  # fmt: skip
    assert [f["encoder"] for f in summary["failed"]] == ["broken"] and "not finite" in summary["failed"][0]["error"]
    found = [r for r in summary["results"] if r["encoder"] == "broken" and r["metric"] == "map" and not r["class"]]
    assert found[0]["mean"] == 0
    with pytest.raises(TrainingError, match="not finite"):
        retrieve(np.full((4, 2), np.nan), np.ones((4, 1), dtype=bool), PATIENTS[:4])


def test_what_cannot_be_retrieved_is_refused(tmp_path: Path, run: Path) -> None:
    cohort = make_cohort(tmp_path / "night", "night", patients=6)
    split(cohort, test=1)
    given = {"cohort": cohort, "encoders": {"mine": str(run)}, "out": tmp_path / "study", "protocol": "retrieval"}
    with pytest.raises(SplitError, match="two test patients"):
        evaluate(task="classification", target="group", **given)
    with pytest.raises(ConfigError, match="another one"):
        evaluate(task="regression", target="age", **given)
