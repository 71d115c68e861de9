"""Who stands where: patients on two sides, spellings of one patient, sessions of two."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from toy_audit import placed, split_of

from medssl.audit.sides import Sides, canonical_id, patient_findings, place, read_sides, sides_of_parts
from medssl.errors import SplitError
from medssl.splits import Split


def saved(folder: Path, **changes: object) -> Path:
    """A split file whose fields were changed by hand."""
    file = split_of(["a", "b", "t1"]).save(folder)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_a_patient_on_two_sides_is_found_whatever_the_spelling(tmp_path: Path) -> None:
    sides = read_sides(saved(tmp_path, development=["a", "b", " T1 "]), "default")
    (finding,), _ = patient_findings(sides, ["a", "b", "t1"], [""] * 3)
    assert finding.severity == "error"
    assert finding.items == [{"patient": "t1", "sides": ["development", "test"]}]
    assert "'development' (as ' T1 ')" in finding.message


def test_a_patient_in_two_folds_is_found(tmp_path: Path) -> None:
    sides = read_sides(saved(tmp_path, folds=[["a"], ["b", "A"]]), "default")
    (finding,), _ = patient_findings(sides, ["a", "b", "t1"], [""] * 3)
    assert finding.severity == "error" and "two folds" in finding.message


def test_a_patient_of_an_external_site_may_not_be_learnt_from(tmp_path: Path) -> None:
    sides = read_sides(saved(tmp_path, external={"Bern": ["b"]}), "default")
    (finding,), _ = patient_findings(sides, ["a", "b", "t1"], [""] * 3)
    assert finding.items[0]["sides"] == ["development", "external Bern"]


def test_parts_that_are_tested_in_turn_are_folds(tmp_path: Path) -> None:
    """Whoever is tested nowhere but learnt from everywhere stands against all of them; the shut test set does not."""
    patients = ["a", "b", "c", "d", "e", "t"]
    Split("default", ("t",), tuple("abcde"), folds=(("a", "b"), ("c", "d"))).save(tmp_path)
    table = pd.DataFrame({"patient": patients, "recording": patients, "site": ["X", "X", "Y", "Y", "", "Y"]})
    table.to_parquet(tmp_path / "recordings.parquet")
    for parts in (["default-fold0", "default-fold1"], ["default-site-X", "default-site-Y"]):
        sides = sides_of_parts(tmp_path, "default", parts)
        assert sides.folds == [("a", "b"), ("c", "d"), ("e",)]
        assert set(sides.development(patients)) == set("abcde")
        placement = place(sides, patients)
        told = {pair: placement.relation([patients.index(p) for p in pair]) for pair in ("ab", "ac", "ae", "at")}
        assert told == {"ab": "same", "ac": "folds", "ae": "folds", "at": "out"}
    whole = sides_of_parts(tmp_path, "default", ["default"])
    assert whole.members["test"] == ("t",) and whole.folds == (("a", "b"), ("c", "d"))


def test_other_changes_by_hand_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="changed after it was made"):
        read_sides(saved(tmp_path, seed=7), "default")


def test_a_missing_split_is_refused_but_none_is_no_split(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="no split 'other'"):
        read_sides(saved(tmp_path), "other")
    assert read_sides(tmp_path, "none").development(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("other", ["PAT-007", " pat007", "Pat 7", "pat_07"])
def test_spellings_of_one_id(other: str) -> None:
    assert canonical_id(other) == canonical_id("pat7")


@pytest.mark.parametrize("other", ["pat70", "pat7b", "7pat", "pa7t"])
def test_different_ids(other: str) -> None:
    assert canonical_id(other) != canonical_id("pat7")


def test_near_identical_ids_are_named_with_their_sides() -> None:
    sides = Sides("default", "", {"test": ["P-01"], "development": ["p1", "p2"]})
    (finding,), _ = patient_findings(sides, ["P-01", "p1", "p2"], [""] * 3)
    assert finding.severity == "warning"
    assert finding.items == [{"patients": ["P-01", "p1"], "sides": ["development", "test"]}]


def test_a_session_of_two_patients_is_a_warning_unless_sessions_are_merely_numbered() -> None:
    sessions = [f"study{i}" for i in range(20)]
    patients = [f"p{i}" for i in range(20)]
    (finding,), _ = patient_findings(Sides("none"), [*patients, "renamed"], [*sessions, "study3"])
    assert finding.items == [{"session": "study3", "patients": ["p3", "renamed"]}]
    assert patient_findings(Sides("none"), ["a", "b", "a", "b"], ["1", "1", "2", "2"])[0] == []


def test_the_relation_of_recordings() -> None:
    where = placed(["a", "a", "b", "t1", "t2"])
    assert where.relation([0, 1]) == "within"
    assert where.relation([0, 2]) == where.relation([3, 4]) == "same"
    assert where.relation([0, 3]) == where.relation([0, 1, 2, 4]) == "across"
