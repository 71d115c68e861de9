"""The recipes of published EEG, on parts of those data sets, from files to a verified cohort."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_edf import write_edf

from medssl.adapters.recording import Rejected
from medssl.cohort import Cohort
from medssl.cohort.recipe import Item, load_recipe
from medssl.cohort.verify import cohort_verify
from medssl.cohort.writer import prepare

FOLDERS = {
    "dreams": "eeg_sleep_dreams",
    "bonn": "eeg_bonn_seizure",
    "adhd": "eeg_adhd_children",
    "mental_arithmetic": "eeg_mental_arithmetic",
    "alcoholism": "eeg_alcoholism_uci",
}


def find(name: str, source: Path, **options):
    recipe = load_recipe(name, options)
    found = list(recipe.find(source))
    items = {f.ids.recording: f for f in found if isinstance(f, Item)}
    return recipe, items, [f for f in found if isinstance(f, Rejected)]


def test_every_excerpt_of_dreams_has_its_own_rate_channel_and_scorers(shared_data):
    recipe, items, rejected = find("dreams", shared_data / FOLDERS["dreams"])
    assert (len(items), rejected) == (6, [])
    stages: Counter[str] = Counter()
    rates, scorers = {}, {}
    for name in items:
        (recording,) = recipe.read(items[name]).recordings
        rates[name] = recording.rate_hz
        stages.update(e.value for e in recording.events if e.kind == "stage")
        scorers[name] = {e.value for e in recording.events if e.kind == "spindle"}
        assert {e.duration_s for e in recording.events if e.kind == "stage"} == {5.0}
    assert rates == {f"excerpt{k}": r for k, r in ((1, 100), (3, 50), (5, 200), (6, 200), (7, 200), (8, 200))}
    assert stages == {"W": 224, "REM": 28, "N1": 180, "N2": 1376, "N3": 320 + 32}  # the sums of the README
    assert "expert2" in scorers["excerpt6"] and "expert2" not in scorers["excerpt7"]


def test_slow_waves_are_strongest_in_deep_sleep(shared_data):
    """Codes run downwards with depth: 0 taken for wake would turn this round."""
    recipe, items, _ = find("dreams", shared_data / FOLDERS["dreams"])
    (recording,) = recipe.read(items["excerpt5"]).recordings
    rate = int(recording.rate_hz)
    power: dict[str, list[float]] = {}
    for event in recording.events:
        if event.kind == "stage":
            first = round(event.onset_s * rate)
            spectrum = np.abs(np.fft.rfft(recording.data[0, first : first + 5 * rate])) ** 2
            power.setdefault(event.value, []).append(spectrum[3:20].sum())  # 0.6 to 3.8 Hz
    mean = {stage: float(np.median(values)) for stage, values in power.items()}
    assert mean["N3"] > mean["N2"] > mean["N1"]


def test_a_published_hypnogram_gives_the_epochs_that_papers_count(shared_data, tmp_path):
    """SC4001 has 841 epochs with half an hour of wake on either side."""
    name = "SC4001EC-Hypnogram.edf"
    (tmp_path / name).write_bytes((shared_data / "signal_zoo" / "edf" / name).read_bytes())
    write_edf(tmp_path / "SC4001E0-PSG.edf", {"EEG Fpz-Cz": np.arange(79_500.0) % 100}, 1)
    recipe, items, _ = find("sleep_edf", tmp_path)
    (recording,) = recipe.read(items["SC4001"]).recordings
    assert Counter(e.value for e in recording.events) == {"W": 188, "N1": 58, "N2": 250, "N3": 220, "REM": 125}
    assert recording.data.shape[1] == 841 * 30


def test_segments_of_bonn_come_out_of_their_archives(shared_data):
    recipe, items, rejected = find("bonn", shared_data / FOLDERS["bonn"])
    assert (Counter(i.labels["set"] for i in items.values()), rejected) == (dict.fromkeys("ABCDE", 75), [])
    spread = {}
    for name in ("Z010", "N010", "S010"):
        (recording,) = recipe.read(items[name]).recordings
        assert (recording.data.shape, recording.rate_hz) == ((1, 4097), 173.61)
        spread[name] = float(recording.data.std())
    assert spread["S010"] > 3 * max(spread["Z010"], spread["N010"])  # a seizure is larger than anything


def test_the_sex_of_every_header_is_contradicted_by_the_table(shared_data):
    recipe, items, _ = find("mental_arithmetic", shared_data / FOLDERS["mental_arithmetic"])
    assert Counter(i.labels["condition"] for i in items.values()) == {"rest": 12, "task": 12}
    table = pd.read_csv(shared_data / FOLDERS["mental_arithmetic"] / "subject_info.csv").set_index("Subject")
    for name in ("Subject03_1", "Subject19_2"):
        (recording,) = recipe.read(items[name]).recordings
        assert recording.labels["sex"] == table.Gender[name[:9]]
        assert any("the table counts" in note for note in recording.notes)
        assert (len(recording.channels), set(recording.units)) == (10, {"uV"})  # neither ECG nor ears


def test_the_repeated_trial_is_found(shared_data):
    recipe, items, _ = find("alcoholism", shared_data / FOLDERS["alcoholism"])
    assert Counter(i.labels["group"] for i in items.values()) == {"alcoholic": 8, "control": 7}
    read = recipe.read(items["co2a0000364"])
    assert [r.ids.trial for r in read.recordings] == ["000", "002", "010", "012"]
    assert [r.reason for r in read.rejected] == [
        "trial 0 of block 1: a copy of the subject's trial at place 0, sample by sample"
    ]
    assert len(read.recordings[0].channels) == 61


@pytest.mark.parametrize("name", ["adhd", "alcoholism", "mental_arithmetic"])
@pytest.mark.slow
def test_all_of_it_becomes_a_sound_cohort(name, shared_data, tmp_path):
    prepare(name, shared_data / FOLDERS[name], tmp_path / "cohort", workers=0, keep_ids=True)
    cohort_verify(tmp_path / "cohort")
    cohort = Cohort(tmp_path / "cohort")
    expected = {"adhd": (75, 75, 19), "alcoholism": (74, 15, 61), "mental_arithmetic": (24, 12, 10)}
    found = (len(cohort.manifest), cohort.manifest.patient.nunique(), len(cohort.info.channels))
    assert found == expected[name]


def test_a_night_becomes_a_cohort_with_its_stages(shared_data, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in (shared_data / FOLDERS["dreams"]).glob("*excerpt3*"):
        (source / file.name).write_bytes(file.read_bytes())
    prepare("dreams", source, tmp_path / "cohort", workers=0)
    cohort_verify(tmp_path / "cohort")
    cohort = Cohort(tmp_path / "cohort")
    assert tuple(cohort.manifest["shape"].iloc[0]) == (180_000,)
    assert (cohort.events.kind == "stage").sum() == 360


def test_children_are_equally_long_whatever_their_group(shared_data):
    recipe, items, rejected = find("adhd", shared_data / FOLDERS["adhd"])
    assert (Counter(i.labels["group"] for i in items.values()), rejected) == ({"ADHD": 36, "control": 39}, [])
    table = pd.read_csv(shared_data / FOLDERS["adhd"] / "participants.csv").set_index("subject")
    prepare_one = recipe.preparation()
    for name in ("v12p", "v177", "v107"):  # int16 and float64
        (recording,) = recipe.read(items[name]).recordings
        assert recording.data.shape == (19, table.n_samples[name])
        assert prepare_one(recording).image.shape == (19, 60 * 128)
