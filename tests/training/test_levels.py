"""Decisions about windows, recordings and patients: the truth of each level, and how answers are joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy_cohorts import ToyEncoder, make_cohort

from medssl.cohort import Cohort
from medssl.errors import CohortError, ConfigError
from medssl.splits import split
from medssl.training.finetune import finetune
from medssl.training.labelled import LabelledBags
from medssl.training.levels import describe_level, group_means, level_of, make_decisions
from medssl.training.models import load_model
from medssl.training.predict import predict
from medssl.training.settings import FinetuneSettings
from medssl.training.targets import Target, resolve_target
from medssl.training.windows import Recordings

QUICK = {"max_steps": 3, "batch_size": 4, "progress": False, "accelerator": "cpu", "precision": "32-true"}


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients with two nights of 48 s each; four of them for testing."""
    cohort = make_cohort(tmp_path_factory.mktemp("nights"), "night", patients=12, per_patient=2)
    split(cohort, test=4, stratify="group")
    return cohort


def of(nights: Path, name: str, task: str = "classification") -> Target:
    return resolve_target(Cohort(nights), task, name)  # type: ignore[arg-type]


def tuned(nights: Path, out: Path, target: str, task: str = "classification", **changes: object) -> dict[str, object]:
    return finetune(
        cohort=nights, task=task, target=target, out=out, architecture=ToyEncoder(dims=1),  # type: ignore[arg-type]
        settings=FinetuneSettings(**{**QUICK, "window_s": 10.0, **changes}),  # type: ignore[arg-type]
    )  # fmt: skip


def test_patients_join_the_answers_and_labels_of_their_recordings(nights: Path) -> None:
    target = of(nights, "findings")
    decisions = make_decisions(target, FinetuneSettings(level="patient"))
    patients = decisions.target.patients.tolist()
    assert patients == sorted(set(target.patients)) and decisions.target.level == "patient"
    assert decisions.target.y[:, list(target.classes).index("second")].all()  # every second night has it: any counts
    answers = torch.from_numpy(np.random.default_rng(0).normal(size=(len(target), 2)))
    items = np.array([3, 0, 5])
    joined = decisions.joined(answers[torch.from_numpy(decisions.parts_of(items))], items)
    for i, item in enumerate(items):
        own = [answers[j] for j in range(len(target)) if target.patients[j] == patients[item]]
        torch.testing.assert_close(joined[i], torch.stack(own).mean(0))


def test_numbers_of_a_patient_are_averaged(nights: Path) -> None:
    target = of(nights, "severity", "regression")
    whole = make_decisions(target, FinetuneSettings(level="patient")).target
    for patient, value in zip(whole.patients, whole.y, strict=True):
        assert value == pytest.approx(target.y[target.patients == patient].mean())


def test_windows_are_those_that_a_recording_is_seen_through(nights: Path) -> None:
    target = of(nights, "group")
    windows = make_decisions(target, FinetuneSettings(level="window", size=(400,), test_windows=3)).target
    assert len(windows) == 3 * len(target) and windows.level == "window"
    first = np.flatnonzero(windows.rows == windows.rows[0])
    assert windows.starts(first, 400) == [0, 568, 1136]  # 48 s at 32 Hz
    assert (windows.y[first] == target.y[target.rows == windows.rows[0]]).all()


def test_a_window_lies_around_the_middle_of_an_epoch(nights: Path) -> None:
    stages = of(nights, "stage:A,B,C")
    assert stages.epoch_s == 2.0 and stages.level == "window"
    first = np.flatnonzero((stages.rows == 0) & (stages.onset_s == 4.0))  # 4 to 6 s at 32 Hz
    assert stages.starts(first, 64) == [128] and stages.starts(first, 32) == [144]


def test_bags_spread_over_the_recording_and_say_what_is_missing(nights: Path) -> None:
    target = of(nights, "group")
    recordings = Recordings(target.cohort, channels=None, rows=target.rows, cache_gb=1)
    whole = recordings.whole(int(target.rows[0]))[0]
    rng = np.random.default_rng(0)
    starts = set()
    for windows, there in ((4, 4), (9, 5)):  # 48 s hold five windows of 10 s
        bags = LabelledBags(target, np.arange(1), recordings, size=(320,), balance=False, windows=windows)
        sample = bags.draw(0, rng)
        assert sample["known"].tolist() == [True] * there + [False] * (windows - there)
        assert sample["x"].shape == (windows, 1, 320) and not sample["x"][there:].any()
        places = [
            next(s for s in range(len(whole) - 319) if np.array_equal(whole[s : s + 320], window[0]))
            for window in sample["x"][:there]
        ]
        assert places == sorted(places) and places[0] < 400 and places[-1] > 1536 - 320 - 400
        starts.update(places)
    assert len(starts) == 9
    short = LabelledBags(target, np.arange(1), recordings, size=(2000,), balance=False, windows=3).draw(0, rng)
    assert short["known"].tolist() == [True, False, False]


def test_answers_of_groups_are_averaged_whatever_their_order() -> None:
    answers = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 9.0]])
    found = group_means(answers, np.array([4, 4, 1]), np.array([4, 1]))
    assert found.tolist() == [[2.0, 1.0], [5.0, 9.0]]


@pytest.mark.parametrize(
    ("level", "count", "recording"), [("window", 5 * 8, True), ("recording", 8, True), ("patient", 4, False)]
)
@pytest.mark.parametrize("target", ["group", "findings"])
def test_metrics_are_of_the_level_that_is_stated(
    nights: Path, tmp_path: Path, level: str, count: int, recording: bool, target: str
) -> None:
    summary = tuned(nights, tmp_path / "run", target, level=level)
    assert (summary["level"], summary["n_test_items"], summary["n_test_patients"]) == (level, count, 4)
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert len(table) == count and (table["recording"] != "").all() == recording
    cases = pd.read_parquet(tmp_path / "run" / "per_case.parquet")
    assert cases.loc[cases["metric"] == "accuracy", "n_items"].sum() == count
    truth = (table["p/fast"] > 0.5) == (table["y/fast"] > 0) if target == "findings" else None
    if truth is not None:
        second = (table["p/second"] > 0.5) == (table["y/second"] > 0)
        assert summary["metrics"]["accuracy"] == pytest.approx((truth & second).mean())  # type: ignore[index]
    assert load_model(tmp_path / "run").testing["level"] == level


def test_a_patient_s_probability_is_that_of_the_mean_logit_of_the_recordings(nights: Path, tmp_path: Path) -> None:
    tuned(nights, tmp_path / "a", "findings", level="recording")
    tuned(nights, tmp_path / "b", "findings", level="patient")
    parts = pd.read_parquet(tmp_path / "a" / "predictions.parquet").set_index("patient")
    whole = pd.read_parquet(tmp_path / "b" / "predictions.parquet").set_index("patient")
    logit = np.log(parts["p/fast"] / (1 - parts["p/fast"])).groupby("patient").mean()
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), whole["p/fast"].loc[logit.index], atol=1e-6)


def test_attention_learns_which_window_matters(nights: Path, tmp_path: Path) -> None:
    summary = tuned(nights, tmp_path / "run", "findings", level="patient", aggregate="attention", test_windows=4)
    assert summary["aggregation"] == (
        "attention over at most 4 windows a recording, then the mean logit over the patient's recordings"
    )
    model = load_model(tmp_path / "run")
    assert type(model.head).__name__ == "BagHead"
    raw = nights.parent / "night-source"
    predict(
        run=tmp_path / "run",
        source=raw,
        out=tmp_path / "out",
        recipe=str(Path(__file__).parent / "toy_night_recipe.py"),
    )
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert len(table) == 12 and (table["recordings"] == 2).all()
    tested = pd.read_parquet(tmp_path / "run" / "predictions.parquet").set_index("patient")
    np.testing.assert_allclose(table.set_index("patient").loc[tested.index, "p/fast"], tested["p/fast"], atol=1e-4)


def test_windows_are_predicted_one_by_one(nights: Path, tmp_path: Path) -> None:
    tuned(nights, tmp_path / "run", "group", level="window")
    predict(
        run=tmp_path / "run", source=nights.parent / "night-source", out=tmp_path / "out",
        recipe=str(Path(__file__).parent / "toy_night_recipe.py"),
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index(["recording", "time_s"])
    tested = pd.read_parquet(tmp_path / "run" / "predictions.parquet").set_index(["recording", "onset_s"])
    assert len(table) == 5 * 24
    np.testing.assert_allclose(table.loc[tested.index, "p/ill"], tested["p/ill"], atol=1e-4)


def test_a_patient_of_two_classes_is_refused_by_name(nights: Path, signals: Path) -> None:
    cohort = make_cohort(nights.parent / "mixed", "signal", patients=2, per_patient=2)
    target = resolve_target(Cohort(cohort), "classification", "rhythm")
    with pytest.raises(CohortError, match="patient 'P0' has recordings of class slow and of fast"):
        make_decisions(target, FinetuneSettings(level="patient"))


@pytest.mark.parametrize(
    ("target", "task", "asked", "message"),
    [
        ("stage", "classification", {"level": "patient"}, "decided for every event by itself"),
        ("group", "classification", {"sequence": 4}, "'group' is a label; leave sequence at 0"),
        ("stage", "classification", {"aggregate": "attention"}, "set aggregate to mean"),
        ("group", "classification", {"aggregate": "attention", "level": "window"}, "set aggregate to mean"),
        ("severity", "regression", {"aggregate": "attention"}, "set aggregate to mean"),
    ],
)
def test_levels_that_a_target_does_not_have_are_refused(
    nights: Path, target: str, task: str, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        level_of(of(nights, target, task), FinetuneSettings(**asked))  # type: ignore[arg-type]


def test_volumes_have_no_windows_and_masks_one_level(volumes: Path) -> None:
    with pytest.raises(ConfigError, match="level window is for signals"):
        level_of(of(volumes, "group"), FinetuneSettings(level="window"))
    with pytest.raises(ConfigError, match="decided for every recording by itself"):
        level_of(of(volumes, "organs", "segmentation"), FinetuneSettings(level="patient"))
    assert level_of(of(volumes, "organs", "segmentation"), FinetuneSettings()) == "recording"


def test_how_an_answer_comes_about_is_said_in_words(nights: Path) -> None:
    label, number = of(nights, "group"), of(nights, "severity", "regression")
    mean = FinetuneSettings()
    assert describe_level("recording", label, mean) == "mean logit of at most 8 windows a recording"
    assert describe_level("patient", number, mean) == (
        "mean value of at most 8 windows a recording, then the mean value over the patient's recordings"
    )
    assert describe_level("recording", label, mean, features=True) == "mean features of at most 8 windows a recording"
    assert describe_level("window", label, mean) == "every window by itself"
