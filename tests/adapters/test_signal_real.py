"""Whole public collections, as their publishers distribute them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medssl.adapters.channels import ECG_12_LEADS
from medssl.adapters.signal import read_signal

AAMI = {
    **dict.fromkeys("NLRej", "N"),
    **dict.fromkeys("AaJS", "S"),
    "V": "V",
    "E": "V",
    "F": "F",
    **dict.fromkeys("/fQ", "Q"),
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_mitbih_beats_rhythms_leads_and_people_are_those_of_the_table(shared_data: Path) -> None:
    folder = shared_data / "ecg_mitbih_excerpt"
    table = rows(folder / "records.csv")
    assert len(table) == 36
    for row in table:
        recording = read_signal(folder / f"{row['record']}.hea").recordings[0]
        assert recording.data.shape == (2, 216000)
        assert recording.channels == (row["lead_0"], row["lead_1"])
        beats = Counter(AAMI[e.value] for e in recording.events if e.kind == "beat")
        assert {c: beats[c] for c in "NSVFQ"} == {c: int(row[f"n_{c}"]) for c in "NSVFQ"}, row["record"]
        rhythms = {e.value for e in recording.events if e.kind == "rhythm"}
        assert rhythms == set(row["rhythms"].replace(";", " ").replace("|", " ").split()), row["record"]
        assert recording.labels.get("age") == (float(row["age"]) if row["age"] else None)
        assert recording.labels["sex"] == row["sex"]


def test_cpsc2018_reads_through_either_file_of_a_pair(shared_data: Path) -> None:
    folder = shared_data / "ecg_cpsc2018_12lead"
    table = rows(folder / "labels.csv")
    assert len(table) == 73
    for row in table:
        recording = read_signal(folder / "records" / f"{row['record']}.mat").recordings[0]
        assert recording.channels == ECG_12_LEADS
        assert recording.data.shape == (12, int(row["n_samples"]))
        assert set(recording.units) == {"mV"}
        assert recording.labels["dx"] == [code.strip() for code in row["dx"].split(",")]
        # At least limb leads must obey Einthoven's law, so lead order and gain are right.
        one, two, three = recording.data[:3]
        assert np.median(np.abs(two - one - three)) < 0.02, row["record"]


@pytest.mark.parametrize("condition", [1, 2])
def test_mental_arithmetic_eeg_keeps_types_and_units_apart(shared_data: Path, condition: int) -> None:
    path = shared_data / "eeg_mental_arithmetic" / f"Subject03_{condition}.edf"
    recording = read_signal(path).recordings[0]
    assert recording.channels == ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "ECG")
    assert recording.units == (*["uV"] * 10, "mV")
    assert recording.data.shape == (11, 15000)
    assert recording.rate_hz == 500
    spread = recording.data.std(axis=1)
    assert (spread[:10] > 3).all()
    assert (spread[:10] < 60).all()
    assert 0.01 < spread[10] < 1
    assert recording.labels["sex"] == "M", "the header's own word, though the table of subjects says F"
