"""A planted shortcut is found and named; noise is not taken for one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medssl.audit import shortcuts
from medssl.audit.facts import Facts, encode
from medssl.audit.metadata import Question, metadata_findings
from medssl.audit.prediction import Problem, _dealt, folds_of, out_of_fold, permutation_p, score_of
from medssl.audit.shortcuts import association, copies_of_label, look_for_shortcuts, manageable, shortcut_finding

N = 60
CLASS = np.arange(N) % 2


def problem(y: np.ndarray = CLASS, kind: str = "classes", patients: np.ndarray | None = None) -> Problem:
    classes = () if kind == "number" else ("healthy", "sick", "rare")[: int(y.max()) + 1]
    return Problem(kind, y, np.arange(len(y)) if patients is None else patients, classes)  # type: ignore[arg-type]


def facts(**columns: np.ndarray) -> Facts:
    return encode(pd.DataFrame(columns), np.arange(N).astype(str))


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=N)


def test_a_planted_shortcut_is_found_and_named() -> None:
    table = facts(duration_s=noise(0) + 2.5 * CLASS, rate=noise(1))
    found = look_for_shortcuts(problem(), table, permutations=19, seed=0)
    assert found is not None and found.telling
    assert found.interval.mean > 0.85 and found.interval.low > 0.5 and found.p == pytest.approx(0.05)
    assert found.columns[0][0] == "duration_s" and found.columns[1][1] < 0.7
    finding = shortcut_finding(found, "group")
    assert finding is not None and finding.severity == "warning" and "duration_s" in finding.message


def test_noise_is_no_shortcut() -> None:
    found = look_for_shortcuts(problem(), facts(a=noise(2), b=noise(3)), permutations=0, seed=0)
    assert found is not None and not found.telling
    assert shortcut_finding(found, "group") is None


def test_many_recordings_of_few_patients_prove_nothing() -> None:
    patients = np.arange(N) // 10  # six patients, each with a duration of its own and one class
    y = patients % 2
    found = look_for_shortcuts(
        problem(y, patients=patients), facts(duration=np.random.default_rng(0).normal(size=6)[patients]),
        permutations=0, seed=0,
    )  # fmt: skip
    assert found is None or not found.telling


def test_a_number_can_be_told_too() -> None:
    age = noise(4)
    found = look_for_shortcuts(
        problem(age, "number"), facts(size=age + 0.3 * noise(5), b=noise(6)), permutations=0, seed=0
    )
    assert found is not None and found.telling and found.problem.metric == "R²"
    assert found.columns[0][0] == "size"
    unrelated = look_for_shortcuts(problem(age, "number"), facts(b=noise(6)), permutations=0, seed=0)
    assert unrelated is not None and not unrelated.telling


def test_several_labels_at_once() -> None:
    y = np.stack([CLASS, noise(7) > 0], axis=1).astype(float)
    asked = Problem("labels", y, np.arange(N), ("planted", "free"))
    found = look_for_shortcuts(asked, facts(size=noise(0) + 4 * CLASS), permutations=0, seed=0)
    assert found is not None and found.interval.mean > 0.6 and found.balanced is None


def test_nothing_to_learn_from_and_nobody_to_test_on() -> None:
    assert look_for_shortcuts(problem(), facts(country=np.ones(N)), permutations=0, seed=0) is None
    assert folds_of(problem(np.r_[1, np.zeros(N - 1, dtype=int)]), 0) is None


def test_permutations_exchange_whole_patients() -> None:
    patients = np.random.default_rng(0).permutation(np.arange(N) // 3)
    giver = patients[_dealt(patients, np.random.default_rng(0))]
    each = [set(giver[patients == p]) for p in range(N // 3)]
    assert all(len(own) == 1 for own in each) and set().union(*each) == set(patients.tolist())
    assert (giver != patients).mean() > 0.7


def test_p_knows_that_beats_of_one_patient_are_alike() -> None:
    rng = np.random.default_rng(5)
    patients = np.arange(200) // 20  # ten patients, each with facts of its own and mostly one class
    y = (rng.random(200) < np.where(patients % 2, 0.9, 0.1)).astype(int)
    asked, x = problem(y, patients=patients), rng.normal(size=(10, 3))[patients]
    folds = folds_of(asked, 0)
    assert folds is not None
    observed = score_of(asked, out_of_fold(x, np.zeros(3, bool), asked, folds))
    assert permutation_p(x, np.zeros(3, bool), asked, folds, observed, times=19, seed=0) > 0.05


def test_a_hopeless_permutation_test_stops_early() -> None:
    folds = folds_of(problem(), 0)
    assert folds is not None
    assert permutation_p(noise(0)[:, None], np.zeros(1, bool), problem(), folds, -1.0, times=10_000, seed=0) == 1


def test_rare_classes_are_left_out_and_items_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    y = CLASS.copy()
    y[:3] = 2
    rows, classes, said = manageable(problem(y), 0)
    assert classes == ("healthy", "sick") and len(rows) == N - 3 and "without rare" in said
    monkeypatch.setattr(shortcuts, "MOST_ITEMS", 12)
    patients = np.r_[np.zeros(50, dtype=int), np.arange(1, 11)]
    rows, _, said = manageable(problem(patients=patients), 0)
    assert np.bincount(patients[rows]).tolist() == [2] + [1] * 10 and "12 of 60 items" in said


def test_columns_that_are_the_label() -> None:
    named = np.array(["Bern", "Kyiv"], dtype=object)[CLASS]
    half = np.where(np.arange(N) < 30, CLASS, 0)
    assert copies_of_label(problem(), facts(site=named, code=3 - 2 * CLASS, half=half, b=noise(0))) == ["site", "code"]
    age = noise(4)
    assert copies_of_label(problem(age, "number"), facts(months=12 * age, b=noise(0))) == ["months"]


def test_the_association_of_class_and_site() -> None:
    patients = np.arange(N)
    v, p = association(CLASS, CLASS, patients) or (0, 1)
    assert v == pytest.approx(1, abs=0.02) and p < 1e-9
    v, p = association(CLASS, np.arange(N) // 2 % 2, patients) or (1, 0)
    assert v == 0 and p > 0.5
    assert association(CLASS, np.zeros(N), patients) is None
    twice = association(np.r_[CLASS, CLASS], np.r_[CLASS, CLASS], np.r_[patients, patients])
    assert twice == association(CLASS, CLASS, patients), "a patient counts once"


def ask(frame: dict[str, np.ndarray], others: dict[str, np.ndarray] | None = None, **options: object) -> Question:
    shuffled = np.random.default_rng(0).permutation(N)
    given = {"order": shuffled} | options
    return Question("group", problem(), pd.DataFrame(frame), pd.DataFrame(others or {}, index=range(N)), **given)


def test_site_and_class_together_are_a_warning() -> None:
    site = np.array(["A", "B"], dtype=object)[CLASS]
    findings, _, measures = metadata_findings(ask({"b": noise(0)}, groups={"site": site}), permutations=0, seed=0)
    assert ["Cramér's V" in f.message for f in findings] == [True]
    assert measures["cramers_v site"]["v"] > 0.9


def test_sorted_rows_are_a_note_and_never_a_metadata_shortcut() -> None:
    sorted_rows = np.argsort(np.argsort(CLASS, kind="stable"))
    findings, _, measures = metadata_findings(ask({"b": noise(0)}, order=sorted_rows), permutations=0, seed=0)
    assert [(f.severity, f.check) for f in findings] == [("note", "row order")]
    assert measures["row order"]["score"] > 0.95


def test_another_label_that_is_the_label_is_told_apart_from_metadata() -> None:
    findings, said, _ = metadata_findings(ask({"b": noise(0)}, {"diagnosis": 5.0 * CLASS}), permutations=0, seed=0)
    assert [f.check for f in findings] == ["other labels"]
    assert said["other labels"].startswith("diagnosis: AUROC 1.00")


def test_in_a_table_that_a_model_reads_a_copy_of_the_label_is_an_error() -> None:
    findings, _, _ = metadata_findings(ask({"icd": CLASS, "b": noise(0)}, is_input=True), permutations=0, seed=0)
    assert findings[0].severity == "error" and "'icd'" in findings[0].message
