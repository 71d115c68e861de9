"""``evaluate --protocol representation`` from cohort to page, and what ordinary studies record beside their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toy_cohorts import make_cohort
from toy_studies import AGE, BEATS, MASKS, make_plan, run

from medssl.encoders.base import InputSpec, save_encoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import ConfigError, SplitError, TrainingError
from medssl.evaluation import agreement as agreeing
from medssl.evaluation import quality
from medssl.evaluation import representation as rq
from medssl.evaluation.cells import Cell
from medssl.evaluation.quality import leave_patient_out, measures_of
from medssl.evaluation.representation_study import measure_table
from medssl.evaluation.results import COLUMNS, TaskInfo
from medssl.evaluation.study import evaluate, run_study
from medssl.report import report
from medssl.splits import Split
from medssl.splits import split as make_split
from medssl.training.settings import FinetuneSettings

SETTINGS = FinetuneSettings(
    size=(64,), max_steps=1, batch_size=4, test_batch=32, test_windows=3, progress=False, accelerator="cpu"
)  # fmt: skip
VOLUMES = FinetuneSettings(
    size=(8, 8, 8), max_steps=1, batch_size=2, test_windows=2, progress=False, accelerator="cpu"
)  # fmt: skip
SIGNALS = {"widths": (4, 8), "blocks": 1, "kernel": 3}


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients with two signals each, labelled and with beats; three patients for testing."""
    cohort = make_cohort(tmp_path_factory.mktemp("signals"), "signal", patients=12, per_patient=2)
    make_split(cohort, test=3)
    return cohort


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients with one masked volume each; three for testing."""
    cohort = make_cohort(tmp_path_factory.mktemp("volumes"), "volume", patients=12)
    make_split(cohort, test=3)
    return cohort


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Exported encoders as pre-training leaves them: three of signals, one of volumes."""
    folder = tmp_path_factory.mktemp("runs")
    method = {"class_path": "Contrastive", "init_args": {"objective": {"class_path": "InfoNCE"}}}
    provenance = {"cohorts": [], "patients": {}, "method": method}
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        inputs = InputSpec(kind="signal", channels=("I", "II"), size=(64,), rate_hz=50.0)
        save_encoder(ResNet1d(in_channels=2, **SIGNALS), folder / name / "encoder", inputs, provenance)
    volume = InputSpec(kind="volume", channels=("image",), size=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0))
    encoder = ResEnc(1, features=(4, 8), blocks=(1, 1), strides=(1, 2))
    save_encoder(encoder, folder / "v" / "encoder", volume, provenance)
    return {name: str(folder / name) for name in "abcv"}


def measure(cohort: Path, out: Path, encoders: dict[str, str], **options: Any) -> dict[str, Any]:
    given = {"task": "classification", "target": "rhythm", "settings": SETTINGS, "protocol": "representation"}
    return evaluate(cohort=cohort, out=out, encoders=encoders, **(given | options))


def test_every_encoder_is_measured_once_without_budgets(
    signals: Path, runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = measure(signals, tmp_path, {"a": runs["a"], "b": runs["b"]})
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["kind"] == "representation" and written["protocol"] == "representation"
    assert list(written["representation"]) == ["untrained", "a", "b"] and written["budgets"] == []
    assert sorted(p.parent.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("cell.json")) == [
        "cells/a/none/0", "cells/b/none/0", "cells/untrained/none/0"
    ]  # fmt: skip
    for m in written["representation"].values():
        assert (m["n_recordings"], m["n_patients"], m["dimension"], m["windows"]) == (18, 9, 8, 3)
        assert 1 <= m["rankme_centred"] <= 8.01 and 1 <= m["rankme"] <= 8.01
        assert m["alpha_ranks"] == [4, 4] and m["alpha_req"] is None, "one rank of eight dimensions is no line"
        assert m["views"] == 8 and m["viewed_recordings"] == 18 and m["alignment"] > 0
        assert 1 <= m["lidar"] <= m["lidar_dimension"] == 8
        assert 0 <= m["knn"]["metrics"]["macro_f1"] <= 1 and m["knn"]["n_patients"] == 9
    said = capsys.readouterr().out
    assert measure_table(summary) in said and summary["verdict"] in said
    assert "18 recordings of 9 development patients" in summary["verdict"]


def test_no_test_patient_is_looked_at(signals: Path, runs: dict[str, str], tmp_path: Path) -> None:
    measure(signals, tmp_path, {"a": runs["a"]})
    split = Split.load(signals, "default")
    answers = pd.read_parquet(tmp_path / "cells" / "a" / "none" / "0" / "predictions.parquet")
    assert set(answers["patient"]) == set(split.development) and set(answers["group"]) == {"development"}
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert set(table["patient"]) == {"*", *split.development}


def test_results_have_the_form_of_every_study(signals: Path, runs: dict[str, str], tmp_path: Path) -> None:
    summary = measure(signals, tmp_path, {"a": runs["a"]})
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["encoder", "budget", "repeat", "fold", "patient", "metric", "class"]).any()
    assert set(table["budget"]) == {"none"} and not table["failed"].any()
    own = table[(table["encoder"] == "a") & (table["metric"] == "rankme")]
    assert own["value"].tolist() == [summary["representation"]["a"]["rankme"]] and own["n_items"].tolist() == [18]
    counts = table[(table["encoder"] == "a") & (table["metric"] == "n")]
    assert counts["value"].sum() == 18, "pooled metrics of neighbours can be computed again"
    assert "alpha_req" not in set(table["metric"]), "what is undefined has no row"


def test_measures_follow_from_the_stored_features(signals: Path, runs: dict[str, str], tmp_path: Path) -> None:
    summary = measure(signals, tmp_path, {"a": runs["a"]})
    x = np.load(tmp_path / "features" / "a.recordings.npz")["features"]
    assert x.shape == (18, 8)
    assert summary["representation"]["a"]["rankme"] == pytest.approx(rq.rankme(torch.from_numpy(x)))
    assert summary["representation"]["a"]["uniformity"] == pytest.approx(rq.uniformity(torch.from_numpy(x)))


def test_a_finished_study_is_not_computed_again_and_can_be_extended(
    signals: Path, runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(signals, tmp_path, {"a": runs["a"]})
    kept = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.suffix in (".json", ".parquet", ".npz")}
    calls: list[str] = []
    real = quality.frozen_encoder

    def counted(cell: Cell, target: Any) -> Any:
        calls.append(cell.encoder)
        return real(cell, target)

    monkeypatch.setattr(quality, "frozen_encoder", counted)
    measure(signals, tmp_path, {"a": runs["a"]})
    assert calls == [] and all(f.read_bytes() == content for f, content in kept.items())
    summary = measure(signals, tmp_path, {"a": runs["a"], "c": runs["c"]})
    assert calls == ["c"] and list(summary["representation"]) == ["untrained", "a", "c"]


def test_events_are_answered_by_the_beats_of_other_patients(
    signals: Path, runs: dict[str, str], tmp_path: Path
) -> None:
    summary = measure(signals, tmp_path, {"a": runs["a"]}, target="beat")
    own = summary["representation"]["a"]
    assert own["n_recordings"] == 18, "recordings are rows, not the beats in them"
    assert own["knn"]["n_items"] > 18 * 20
    assert np.load(tmp_path / "features" / "a.events.npz")["features"].shape == (own["knn"]["n_items"], 16)


def test_labels_that_occur_together(signals: Path, runs: dict[str, str], tmp_path: Path) -> None:
    summary = measure(signals, tmp_path, {"a": runs["a"]}, target="findings")
    assert 0 <= summary["representation"]["a"]["knn"]["metrics"]["macro_f1"] <= 1


@pytest.mark.parametrize(("task", "target"), [("segmentation", "organs"), ("regression", "radius")])
def test_volumes(volumes: Path, runs: dict[str, str], tmp_path: Path, task: Any, target: str) -> None:
    summary = measure(volumes, tmp_path, {"v": runs["v"]}, task=task, target=target, settings=VOLUMES)
    own = summary["representation"]["v"]
    assert own["n_recordings"] == own["n_patients"] == 9 and own["lidar_dimension"] == 4
    assert (own["knn"] is None) == (task == "segmentation")
    assert not (task == "segmentation" and list(tmp_path.rglob("predictions.parquet")))
    assert "Nearest neighbours" in report(tmp_path).read_text(encoding="utf-8")
    if task == "regression":
        assert own["knn"]["metrics"]["mae"] >= 0


def test_the_same_encoder_agrees_with_itself_and_another_less(
    signals: Path, runs: dict[str, str], tmp_path: Path
) -> None:
    summary = measure(signals, tmp_path, {"a": runs["a"], "again": runs["a"], "b": runs["b"]})
    found = summary["agreement"]
    pairs = {tuple(p["encoders"]): p for p in found["pairs"]}
    assert len(pairs) == 6 and found["n_recordings"] == 18 and found["n_anchors"] == 4
    same, other = pairs["a", "again"], pairs["a", "b"]
    assert (same["relative"], same["jaccard"], same["cka"]) == pytest.approx((1, 1, 1))
    assert same["relative_floor"] < other["relative"] < 1 and same["jaccard_floor"] < 1
    matrix = np.array(found["cka"]["matrix"])
    assert found["cka"]["debiased"] and np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1)


def test_an_encoder_that_does_not_fit_is_named_and_the_others_measured(
    signals: Path, runs: dict[str, str], tmp_path: Path
) -> None:
    summary = measure(signals, tmp_path, {"a": runs["a"], "wrong": runs["v"]})
    assert [f["encoder"] for f in summary["failed"]] == ["wrong"] and "volumes" in summary["failed"][0]["error"]
    assert list(summary["representation"]) == ["untrained", "a"] and "1 could not be measured" in summary["verdict"]
    assert "Not measured" in report(tmp_path).read_text(encoding="utf-8")


def test_what_cannot_work_is_refused(signals: Path, runs: dict[str, str], tmp_path: Path) -> None:
    measure(signals, tmp_path / "q", {"a": runs["a"]})
    with pytest.raises(ConfigError, match=r"another kind \(representation\)"):
        measure(signals, tmp_path / "q", {"a": runs["a"]}, protocol="knn", budgets=["2"], repeats=1)
    measure(signals, tmp_path / "k", {"a": runs["a"]}, protocol="knn", budgets=["2"], repeats=1)
    with pytest.raises(ConfigError, match=r"another kind \(study\)"):
        measure(signals, tmp_path / "k", {"a": runs["a"]})
    with pytest.raises(SplitError, match="other"):
        measure(signals, tmp_path / "none", {"a": runs["a"]}, split="other")
    with pytest.raises(TrainingError, match="no encoder could be measured"):
        measure(signals, tmp_path / "size", {"a": runs["a"]}, settings=VOLUMES)


# --- beside the results of ordinary studies


def test_a_frozen_study_records_rankme_of_every_arm_and_its_agreement(
    signals: Path, runs: dict[str, str], tmp_path: Path
) -> None:
    encoders = {n: runs[n] for n in "abc"}
    summary = measure(signals, tmp_path, encoders, protocol="knn", budgets=["2", "all"], repeats=1)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert list(written["representation"]) == ["untrained", "a", "b", "c"], "the simple baseline has no features"
    x = np.load(tmp_path / "features" / "b.recordings.npz")["features"]
    assert written["representation"]["b"]["rankme"] == pytest.approx(rq.rankme(torch.from_numpy(x)))
    assert set(written["rankme_agreement"]) == {"2", "all"}
    for found in written["rankme_agreement"].values():
        assert found["n_arms"] == 3 and found["comparable"]
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "features").iterdir()}
    assert measure(signals, tmp_path, encoders, protocol="knn", budgets=["2", "all"], repeats=1)["verdict"]
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "features").iterdir()} == before
    assert "RankMe beside the result" in report(tmp_path).read_text(encoding="utf-8")
    assert summary["comparisons"], "the study itself is as it was"


def test_an_old_study_goes_on_and_gains_the_measures(signals: Path, runs: dict[str, str], tmp_path: Path) -> None:
    """A folder from before there were such measures: no file of theirs, and a summary without the fields."""
    measure(signals, tmp_path, {"a": runs["a"]}, protocol="knn", budgets=["2"], repeats=1)
    for file in (tmp_path / "features").glob("*.recordings.npz"):
        file.unlink()
    summary = json.loads((tmp_path / "summary.json").read_text())
    old = {k: v for k, v in summary.items() if k not in ("representation", "rankme_agreement")}
    (tmp_path / "summary.json").write_text(json.dumps(old))
    assert "RankMe beside" not in report(tmp_path).read_text(encoding="utf-8")
    cells = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("cell.json")}
    again = measure(signals, tmp_path, {"a": runs["a"]}, protocol="knn", budgets=["2"], repeats=1)
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("cell.json")} == cells
    assert again["rankme_agreement"]["2"] == {"tau": None, "p": None, "n_arms": 1, "comparable": True}


def test_fine_tuning_measures_the_encoder_as_it_was_before(volumes: Path, runs: dict[str, str], tmp_path: Path) -> None:
    summary = measure(
        volumes, tmp_path, {"v": runs["v"]}, task="segmentation", target="organs", settings=VOLUMES,
        protocol="finetune", budgets=["2"], repeats=1,
    )  # fmt: skip
    assert list(summary["representation"]) == ["scratch", "v"]
    assert summary["representation"]["v"]["n_recordings"] == 9


def test_a_fault_in_measuring_costs_no_study(
    signals: Path, runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medssl.evaluation import representation_study

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(representation_study, "recording_features", broken)
    summary = measure(signals, tmp_path, {"a": runs["a"]}, protocol="knn", budgets=["2"], repeats=1)
    assert summary["representation"]["a"] == {"error": "RuntimeError: out of memory"}
    assert summary["rankme_agreement"]["2"]["n_arms"] == 0 and summary["results"]


ABOUT = {a: {"encoder": {"class_path": "E"}, "provenance": {"method": {"class_path": "M"}}} for a in "wxyz"}


def results(means: dict[str, float], metric: str = "dice", budget: str = "2") -> list[dict[str, Any]]:
    return [{"encoder": a, "budget": budget, "metric": metric, "class": "", "mean": m} for a, m in means.items()]


def tau(ranks: dict[str, float], means: dict[str, float], metric: str = "dice") -> dict[str, Any]:
    measures = {a: {"rankme": r, "dimension": 8} for a, r in ranks.items()}
    return agreeing.rank_agreement(
        measures, results(means, metric), metric=metric, budgets=["2"], about=ABOUT
    )["2"]  # fmt: skip


def test_tau_says_whether_rankme_ranks_the_pretrained_arms_right() -> None:
    ranks = {"w": 1.0, "x": 2.0, "y": 3.0, "z": 4.0, "scratch": 9.0}
    rising = {"w": 0.1, "x": 0.2, "y": 0.3, "z": 0.4, "scratch": 0.0}
    assert tau(ranks, rising)["tau"] == 1 and tau(ranks, rising)["n_arms"] == 4
    assert tau(ranks, rising, "mae")["tau"] == -1, "where lower is better, the largest is the worst"
    one_swapped = tau(ranks, {**rising, "y": 0.4, "z": 0.3})
    assert one_swapped["tau"] == pytest.approx(4 / 6) and one_swapped["p"] == pytest.approx(1 / 3)
    assert tau({"w": 1.0, "x": 2.0}, rising) == {"tau": None, "p": None, "n_arms": 2, "comparable": True}
    assert tau(dict.fromkeys("wxyz", 2.0), rising)["tau"] is None, "equal ranks have no order"


def test_arms_of_other_methods_or_widths_are_not_comparable() -> None:
    measures = {a: {"rankme": r, "dimension": 8} for a, r in (("w", 1.0), ("x", 2.0), ("y", 3.0))}
    rows = results({"w": 0.1, "x": 0.2, "y": 0.3})

    def comparable(about: dict[str, Any], known: dict[str, Any] = measures) -> bool:
        found = agreeing.rank_agreement(known, rows, metric="dice", budgets=["2"], about=about)
        return bool(found["2"]["comparable"])

    other = {"class_path": "M", "init_args": {"objective": {"class_path": "O"}}}
    assert comparable(ABOUT)
    assert not comparable({**ABOUT, "x": {**ABOUT["x"], "provenance": {"method": other}}})
    assert not comparable({**ABOUT, "x": {**ABOUT["x"], "encoder": {"class_path": "F"}}})
    assert not comparable(ABOUT, {**measures, "x": {"rankme": 2.0, "dimension": 16}})


@pytest.mark.parametrize("info", [MASKS, BEATS, AGE], ids=["segmentation", "classification", "regression"])
def test_studies_without_a_cohort_take_measures_as_they_are_given(tmp_path: Path, info: TaskInfo) -> None:
    measures = {a: {"rankme": r, "dimension": 8} for a, r in (("scratch", 2.0), ("voco", 5.0), ("worse", 3.0))}
    plan = make_plan(tmp_path, info, arms=("scratch", "voco", "worse"))
    summary = run_study(plan, run, progress=False, representation=measures)
    assert summary["representation"] == measures
    assert set(summary["rankme_agreement"]) == {"2", "all"}


# --- the parts


def drawn(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_rotated_and_scaled_spaces_agree_and_unrelated_ones_are_at_the_floor() -> None:
    x, owners = drawn(80, 12), np.arange(80).astype(str)
    turn = np.linalg.qr(drawn(12, 12, 1))[0]
    found = agreeing.agreement({"x": x, "turned": 3 * x @ turn, "noise": drawn(80, 20, 2)}, owners, owners)
    assert found is not None and not found["cka"]["debiased"]
    pairs = {tuple(p["encoders"]): p for p in found["pairs"]}
    same, other = pairs["x", "turned"], pairs["x", "noise"]
    assert (same["relative"], same["jaccard"], same["cka"]) == pytest.approx((1, 1, 1), abs=1e-5)
    assert other["relative"] == pytest.approx(other["relative_floor"], abs=0.1)
    assert other["jaccard"] == pytest.approx(other["jaccard_floor"], abs=0.03)


def test_a_common_offset_does_not_make_spaces_look_alike() -> None:
    owners = np.arange(80).astype(str)
    found = agreeing.agreement({"x": drawn(80, 12) + 50, "y": drawn(80, 12, 2) + 50}, owners, owners)
    assert found is not None and abs(found["pairs"][0]["relative"]) < 0.2, "cosines to raw anchors would all be 1"


@pytest.mark.parametrize("n", [0, 5])
def test_too_few_recordings_are_not_compared(n: int) -> None:
    owners = np.arange(n).astype(str)
    assert agreeing.agreement({"x": drawn(n, 4), "y": drawn(n, 4)}, owners, owners) is None
    assert agreeing.agreement({"x": drawn(40, 4)}, np.arange(40), np.arange(40)) is None


def test_a_planted_copy_of_the_same_patient_does_not_answer() -> None:
    """Each patient has two equal recordings with the label that nobody near has: only others may vote."""
    x = np.array([[1.0, 0], [1, 0], [0.9, 0.4], [0.9, 0.5], [0, 1], [0, 1]])
    y = np.array([1, 1, 0, 0, 1, 1])
    patients = np.array(["a", "a", "b", "c", "d", "d"])
    votes = leave_patient_out(x, y, patients, classes=2)
    assert votes[0].argmax() == votes[1].argmax() == 0
    alone = leave_patient_out(x, y, np.arange(6), classes=2)
    assert alone[0].argmax() == 1, "with the copy it would be right"


@pytest.mark.parametrize(
    ("make", "rank"),
    [(lambda: np.ones((20, 4)), 1.0), (lambda: np.zeros((20, 4)), 1.0), (lambda: drawn(1, 4), 1.0),
     (lambda: np.eye(20, 4), 4.0)],
    ids=["identical", "zero", "one recording", "orthogonal"],
)  # fmt: skip
def test_measures_of_sets_whose_state_is_known(make: Callable[[], np.ndarray], rank: float) -> None:
    x = make()
    found = measures_of(x, np.arange(len(x)))
    assert found["rankme"] == pytest.approx(rank, abs=1e-3)
    assert found["n_recordings"] == len(x) and found["dropped"] == 0
    spoiled = x.copy().astype(float)
    spoiled[0, 0] = np.nan
    assert measures_of(spoiled, np.arange(len(x)))["dropped"] == 1
