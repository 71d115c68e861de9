"""Planted copies are found, in cohorts that the real ``prepare`` made, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_audit import placed

from medssl.audit import close_pairs as blocks
from medssl.audit.close_pairs import close_pairs
from medssl.audit.duplicates import Duplicates, duplicate_findings, find_duplicates
from medssl.audit.identical import identical_findings
from medssl.cohort import Cohort


def found_in(folder: Path) -> tuple[Cohort, Duplicates, set[tuple[str, ...]]]:
    cohort = Cohort(folder)
    found = find_duplicates(cohort, placed(cohort.manifest["patient"].tolist()))
    names = cohort.manifest["patient"].to_numpy(dtype=object)
    return cohort, found, {tuple(sorted(names[pair])) for pair in found.pairs}


def test_copies_of_volumes(volumes: Path) -> None:
    cohort, found, pairs = found_in(volumes)
    assert pairs == {("a", "tb"), ("c", "tc"), ("e", "te")}
    assert (found.detail > 0.999).all()
    (finding,) = duplicate_findings(found, cohort.manifest, placed(cohort.manifest["patient"].tolist()))
    assert finding.severity == "error" and "test" in finding.message
    assert {tuple(i["patients"]) for i in finding.items} >= {("a", "tb")}
    assert {i["patients"][0] for i in finding.items} <= {"a", "c"}, "the same to the last bit is told elsewhere"


def test_copies_of_signals(signals: Path) -> None:
    cohort, found, pairs = found_in(signals)
    assert pairs == {("a", "ta"), ("b", "tb"), ("c", "tc")}
    findings = duplicate_findings(found, cohort.manifest, placed(cohort.manifest["patient"].tolist()))
    assert {f.severity for f in findings} <= {"error", "warning"}
    assert sum(len(f.items) for f in findings) == 3


def test_a_clean_cohort_has_none(clean: Path) -> None:
    _, found, pairs = found_in(clean)
    assert not pairs and not len(found.constant)


def test_recordings_that_are_the_same_to_the_last_bit(volumes: Path) -> None:
    manifest = Cohort(volumes).manifest
    findings, said = identical_findings(manifest, placed(manifest["patient"].tolist()), [])
    by_severity = {f.severity: f for f in findings}
    assert by_severity["error"].items[0]["patients"] == ["e", "te"]
    assert by_severity["warning"].items[0]["recordings"] == ["f-1", "f-2"]
    assert "found twice or more" in said


def test_constant_recordings_are_noted_and_not_called_copies(volumes: Path) -> None:
    manifest = Cohort(volumes).manifest
    row = manifest.index[manifest["patient"] == "e"][0]
    findings, _ = identical_findings(manifest, placed(manifest["patient"].tolist()), [int(row)])
    assert "error" not in {f.severity for f in findings}
    assert any("nothing but one value" in f.message for f in findings)


def test_one_raw_file_under_two_names(clean: Path) -> None:
    manifest = Cohort(clean).manifest.copy()
    manifest.loc[manifest["patient"] == "t20", "source_sha256"] = manifest["source_sha256"].iloc[0]
    (finding,), _ = identical_findings(manifest, placed(manifest["patient"].tolist()), [])
    assert finding.severity == "warning" and "1 of them across the split" in finding.message
    manifest["source_sha256"] = "one container of all"
    assert identical_findings(manifest, placed(manifest["patient"].tolist()), [])[0] == []


def test_pairs_from_blocks_equal_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_ROWS", 7)
    monkeypatch.setattr(blocks, "_COLUMNS", 11)
    x = np.random.default_rng(0).normal(size=(40, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    patients = [f"p{i // 2}" for i in range(40)]
    pairs, cosines, full = close_pairs(x, 0.8, placed(patients), np.arange(40))
    whole = [(i, j) for i in range(40) for j in range(i + 1, 40) if x[i] @ x[j] > 0.8 and i // 2 != j // 2]
    assert {tuple(p) for p in pairs.tolist()} == set(whole) and not full
    assert (np.diff(cosines) <= 0).all(), "the most alike first"


def test_too_many_pairs_are_thinned_to_the_most_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST", 5)
    x = np.ones((30, 1))
    pairs, _, full = close_pairs(x, 0.5, placed([f"p{i}" for i in range(30)]), np.arange(30))
    assert len(pairs) == 5 and full
