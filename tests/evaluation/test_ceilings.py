"""Results that honest studies do not reach are audited, and never stand without a warning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy_studies

from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.encoders.base import InputSpec, save_encoder
from medssl.encoders.resnet1d import ResNet1d
from medssl.evaluation.ceilings import FILE, ceiling_of, reached
from medssl.evaluation.study import evaluate, run_study
from medssl.report import report
from medssl.splits import Split
from medssl.training.finetune import finetune
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import resolve_target

RECIPE = Path(__file__).with_name("toy_leaky_recipe.py")
SETTINGS = FinetuneSettings(max_steps=2, progress=False, accelerator="cpu", precision="32-true")
CEILING = {"value": 0.8, "source": "a review", "largest_class": 0.5}


def result(mean: float | None, **other: Any) -> dict[str, Any]:
    about = {"encoder": "voco", "budget": "8", "n_training_patients": 8.0, "metric": "accuracy", "class": ""}
    return {**about, "mean": mean, "low": None, "high": None, "interval": "none", **other}


class TestReached:
    def test_results_at_the_ceiling_count_highest_first(self) -> None:
        results = [result(0.799), result(0.8), result(0.95, metric="balanced_accuracy"), result(None)]
        assert [r["mean"] for r in reached(results, CEILING)] == [0.95, 0.8]

    def test_other_metrics_and_single_classes_do_not(self) -> None:
        assert reached([result(0.99, metric="auroc"), result(0.99, metric="recall", **{"class": "A"})], CEILING) == []

    def test_accuracy_says_nothing_where_the_commonest_class_alone_reaches_it(self) -> None:
        results = [result(0.9), result(0.85, metric="balanced_accuracy")]
        found = reached(results, CEILING | {"largest_class": 0.85})
        assert [r["metric"] for r in found] == ["balanced_accuracy"]


def leaky(folder: Path, **options: Any) -> Path:
    """28 patients of whom the last eight, four of them test patients, are copies of others; with two folds."""
    (folder / "source").mkdir()
    for number in range(28):
        (folder / "source" / f"P{number}-{number}.txt").touch()
    prepare(str(RECIPE), folder / "source", folder / "cohort", options=options, workers=0, keep_ids=True)
    names = [f"P{number}" for number in range(28)]
    test, rest = names[10:14] + names[20:24], [*names[:10], *names[14:20], *names[24:]]
    Split("default", tuple(test), tuple(rest)).save(folder / "cohort")
    Split("cv", (), tuple(names), folds=(tuple(names[:14]), tuple(names[14:]))).save(folder / "cohort")
    return folder / "cohort"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leaky(tmp_path_factory.mktemp("leaky"))


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a ceiling that everything reaches."""
    return leaky(tmp_path_factory.mktemp("low"), ceiling=0.01)


def study(cohort: Path, out: Path, target: str = "group", **options: Any) -> dict[str, Any]:
    return evaluate(
        cohort=cohort, task="classification", target=target, budgets=["all"], repeats=1, protocol="linear", out=out,
        settings=SETTINGS, **({"encoders": {"bare": "untrained"}} | options),
    )  # fmt: skip


def test_a_result_that_is_too_good_is_audited_and_the_leak_is_found(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = study(cohort, tmp_path)
    found = summary["implausible"]
    assert found == json.loads((tmp_path / "summary.json").read_text())["implausible"]
    assert {r["encoder"] for r in found["reached"]} >= {"floor"}
    assert all(r["mean"] >= 0.8 and r["metric"].endswith("accuracy") for r in found["reached"])
    errors = [f["message"] for f in found["audit"]["findings"] if f["severity"] == "error"]
    assert any("on both sides of the split are the same to the last bit" in message for message in errors)
    assert any("site" in f["message"] for f in found["audit"]["findings"] if f["severity"] == "warning")
    written = json.loads((tmp_path / FILE).read_text())
    assert written["verdict"] == found["audit"]["verdict"] and written["about"]["split"] == "default"
    said = capsys.readouterr().out
    assert found["sentence"] in said and errors[0] in said and str(tmp_path / FILE) in said
    assert "honest studies of 'group' stay below 0.800 (no honest toy was better)" in found["sentence"]
    assert f"The leakage audit found {found['audit']['verdict']} ({FILE})" in found["sentence"]
    page = report(tmp_path).read_text(encoding="utf-8")
    assert page.index("Do not trust this result") < page.index('class="verdict"')
    assert "same to the last bit" in page


def test_a_study_called_again_is_not_audited_again(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = study(cohort, tmp_path)
    before = (tmp_path / FILE).stat().st_mtime_ns
    capsys.readouterr()
    again = study(cohort, tmp_path)
    assert again["implausible"] == first["implausible"]
    assert (tmp_path / FILE).stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert first["implausible"]["sentence"] in said and "auditing" not in said
    (tmp_path / FILE).unlink()
    study(cohort, tmp_path)
    assert (tmp_path / FILE).is_file(), "without its file it is made again"


def test_copies_in_two_folds_are_found_in_a_study_of_folds(cohort: Path, tmp_path: Path) -> None:
    found = study(cohort, tmp_path, split="cv", testing="folds")["implausible"]
    errors = [f["message"] for f in found["audit"]["findings"] if f["severity"] == "error"]
    assert any("in different folds are the same to the last bit" in message for message in errors)


def test_where_nothing_reaches_the_ceiling_nothing_is_audited(cohort: Path, tmp_path: Path) -> None:
    summary = study(cohort, tmp_path, "hand")
    assert summary["ceiling"]["value"] == 0.95 and "implausible" not in summary
    assert not (tmp_path / FILE).exists()
    assert "Do not trust" not in report(tmp_path).read_text(encoding="utf-8")


def test_only_labels_that_are_one_class_of_several_have_a_ceiling(cohort: Path) -> None:
    opened = Cohort(cohort)
    groups = resolve_target(opened, "classification", "group")
    assert ceiling_of(groups, ["P0", "P1", "P2"]) == {
        "value": 0.8, "source": "no honest toy was better", "largest_class": pytest.approx(2 / 3),
    }  # fmt: skip
    assert ceiling_of(resolve_target(opened, "regression", "age"), ["P0"]) is None


def test_an_audit_that_fails_costs_nothing_of_the_study(tmp_path: Path) -> None:
    plan = toy_studies.make_plan(tmp_path, toy_studies.BEATS, options={"split": "default"})
    plan = replace(plan, facts=plan.facts | {"ceiling": CEILING | {"value": 0.2}})
    summary = run_study(plan, toy_studies.run, progress=False)
    assert "no cohort at 'cohort'" in summary["implausible"]["audit"]["error"]
    assert "could not be made (no cohort at" in summary["implausible"]["sentence"]
    assert "medssl audit leakage --cohort cohort --split default --target beat" in summary["implausible"]["sentence"]
    assert summary["verdict"] and len(pd.read_parquet(tmp_path / "results.parquet"))
    assert json.loads((tmp_path / "summary.json").read_text())["implausible"] == summary["implausible"]
    assert not (tmp_path / FILE).exists()


def test_encoders_of_the_arms_concerned_are_looked_at(low: Path, tmp_path: Path) -> None:
    """Of each fold its own, against the patients of that fold."""
    channels = Cohort(low).info.channels
    inputs = InputSpec(kind="signal", channels=channels, size=(64,), rate_hz=0.5)
    for fold in (0, 1):
        encoder = ResNet1d(in_channels=len(channels), widths=(4, 8), blocks=1, kernel=3)
        save_encoder(encoder, tmp_path / f"run{fold}" / "encoder", inputs, {"cohorts": [], "patients": {}})
    encoders = {"bare": "untrained", "mine": str(tmp_path / "run{fold}")}
    audit = study(low, tmp_path / "study", split="cv", testing="folds", encoders=encoders)["implausible"]["audit"]
    checks = json.loads((tmp_path / "study" / FILE).read_text())["checks"]
    assert "run0 on cv-fold0: " in checks["pre-training"] and "run1 on cv-fold1: " in checks["pre-training"]
    assert "run0: 28 recordings" in checks["embeddings"] and "run1: 28 recordings" in checks["embeddings"]
    assert {part for part, _ in audit["depends_on"]["encoders"]} == {"cv-fold0", "cv-fold1"}
    assert audit["findings"][-1]["severity"] == "note" and "was not pre-trained on" in audit["findings"][-1]["message"]


def test_a_single_model_is_audited_too(low: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = finetune(cohort=low, task="classification", target="group", out=tmp_path / "run", settings=SETTINGS)
    assert [r["encoder"] for r in summary["implausible"]["reached"]] == ["scratch"]
    assert "error" in summary["implausible"]["audit"]["verdict"] and (tmp_path / "run" / FILE).is_file()
    assert summary["implausible"]["sentence"] in capsys.readouterr().out
    assert "Do not trust this result" in report(tmp_path / "run").read_text(encoding="utf-8")


def test_the_ceiling_is_no_part_of_the_fingerprint(cohort: Path, tmp_path: Path) -> None:
    without = Cohort(leaky(tmp_path, ceiling=0)).info
    assert without.ceilings == {} and without.fingerprint == Cohort(cohort).info.fingerprint
