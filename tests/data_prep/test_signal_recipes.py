"""The recipes of published signals, on small trees in their official layouts."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy_edf import write_annotations, write_edf

from medssl.adapters.channels import ECG_12_LEADS
from medssl.adapters.recording import Recording, Rejected
from medssl.adapters.signal import read_signal
from medssl.cohort.recipe import Item, Recipe, load_recipe
from medssl.cohort.staging import cut_out, epochs_of
from medssl.errors import RecipeError, UnreadableRecording


def find(name: str, source: Path, **options: Any) -> tuple[Recipe, dict[str, Item], dict[str, str]]:
    """The recipe, items by recording, reasons by file name."""
    recipe = load_recipe(name, options)
    found = list(recipe.find(source))
    items = {f.ids.recording: f for f in found if isinstance(f, Item)}
    return recipe, items, {Path(f.source).name: f.reason for f in found if isinstance(f, Rejected)}


def one(recipe: Recipe, item: Item) -> Recording:
    read = recipe.read(item)
    assert read.rejected == []
    (recording,) = read.recordings
    return recording


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 50, length)


def write_wfdb(folder: Path, name: str, leads: tuple[str, ...], rate_hz: int, comments: list[str]) -> None:
    import wfdb

    folder.mkdir(parents=True, exist_ok=True)
    signal = np.random.default_rng(0).normal(0, 0.3, (2 * rate_hz, len(leads)))
    wfdb.wrsamp(
        name, fs=rate_hz, units=["mV"] * len(leads), sig_name=list(leads), p_signal=signal, fmt=["16"] * len(leads),
        comments=comments, write_dir=str(folder),
    )  # fmt: skip


def values(recording: Recording, kind: str) -> list[tuple[float, float, str]]:
    return [(e.onset_s, e.duration_s, e.value) for e in recording.events if e.kind == kind]


class TestDreams:
    def layout(self, root: Path, codes: list[str]) -> Path:
        np.savetxt(root / "excerpt2.txt", noise(90_000), fmt="%10.4f", header="[C3-A1]", comments="")
        (root / "Hypnogram_excerpt2.txt").write_text("[Hypnogram]\n" + "\n".join(codes) + "\n")
        (root / "Visual_scoring1_excerpt2.txt").write_text("[vis1_Spindles/C3-A1]\n 12.5000   0.7500\n")
        return root

    def test_codes_run_downwards_and_epochs_can_be_joined(self, tmp_path):
        self.layout(tmp_path, ["5", "3", "2", "1", "0", "-1", "4", "-2", "2", "2", "2", "5"])
        recipe, items, _ = find("dreams", tmp_path)
        recording = one(recipe, items["excerpt2"])
        assert (recording.rate_hz, recording.channels) == (50.0, ("central",))
        stages = ["W", "N1", "N2", "N3", "N3", None, "REM", None, "N2", "N2", "N2", "W"]
        assert values(recording, "stage") == [(5.0 * i, 5.0, s) for i, s in enumerate(stages) if s]
        assert values(recording, "spindle") == [(12.5, 0.75, "expert1")]
        recipe, items, _ = find("dreams", tmp_path, epoch_s=30.0)
        assert values(one(recipe, items["excerpt2"]), "stage") == []  # no majority in either half minute
        with pytest.raises(RecipeError, match=r"epoch_s 12 is no multiple of the 5 s"):
            load_recipe("dreams", {"epoch_s": 12.0})

    def test_what_is_no_half_hour_or_no_stage_is_refused(self, tmp_path):
        self.layout(tmp_path, ["5", "7"])
        recipe, items, _ = find("dreams", tmp_path)
        with pytest.raises(UnreadableRecording, match="'7', which is no stage"):
            recipe.read(items["excerpt2"])
        np.savetxt(tmp_path / "excerpt2.txt", noise(1000), header="[C3-A1]", comments="")
        with pytest.raises(UnreadableRecording, match="1000 samples are no half hour"):
            recipe.read(items["excerpt2"])


class TestBonn:
    def test_folders_of_text_files_are_taken_like_archives(self, tmp_path):
        (tmp_path / "N").mkdir()
        (tmp_path / "N" / "N001.TXT").write_text("12\n-3\n7\n")
        recipe, items, _ = find("bonn", tmp_path)
        recording = one(recipe, items["N001"])
        np.testing.assert_array_equal(recording.data, [[12, -3, 7]])
        assert recording.labels == {"set": "C", "state": "interictal", "seizure": "no"}
        (tmp_path / "S.zip").write_bytes(b"PK broken")
        _, items, rejected = find("bonn", tmp_path)
        assert (list(items), list(rejected)) == (["N001"], ["S.zip"])

    def test_what_is_no_number_is_refused(self, tmp_path):
        (tmp_path / "Z001.txt").write_text("12\nx\n")
        recipe, items, _ = find("bonn", tmp_path)
        with pytest.raises(UnreadableRecording, match="not whole numbers"):
            recipe.read(items["Z001"])


class TestADHD:
    def test_parts_of_the_published_folders_and_one_length(self, tmp_path):
        from scipy.io import savemat

        for folder, name, seconds in (("ADHD_part1", "v1p", 70), ("Control_part2", "v50p", 60), ("Other", "v9", 60)):
            (tmp_path / folder).mkdir()
            samples = np.random.default_rng(0).integers(-100, 100, (128 * seconds, 19)).astype(np.int16)
            savemat(tmp_path / folder / f"{name}.mat", {name: samples})
        recipe, items, rejected = find("adhd", tmp_path)
        assert {r: i.labels["group"] for r, i in items.items()} == {"v1p": "ADHD", "v50p": "control"}
        assert "neither ADHD nor Control" in rejected["v9.mat"]
        prepare = recipe.preparation()
        assert {prepare(one(recipe, i)).image.shape for i in items.values()} == {(19, 60 * 128)}
        longer = load_recipe("adhd", {"length_s": 65.0})
        with pytest.raises(UnreadableRecording, match="60 s are too short"):
            longer.preparation()(one(recipe, items["v50p"]))


class TestMentalArithmetic:
    def test_the_table_wins_and_the_header_is_contradicted(self, tmp_path):
        channels = {"EEG Fp1": noise(1500), "EEG A2-A1": noise(1500, 1), "ECG ECG": noise(1500, 2)}
        for condition in (1, 2):
            write_edf(tmp_path / f"Subject07_{condition}.edf", channels, 500, patient="S F 01-JAN-1980 X")
        header = "Subject,Age,Gender,Recording year,Number of subtractions,Count quality\n"
        (tmp_path / "subject-info.csv").write_text(header + "Subject07,20,M,2011,12.5,0\n")
        recipe, items, _ = find("mental_arithmetic", tmp_path)
        assert {i.ids.patient for i in items.values()} == {"Subject07"}
        recording = one(recipe, items["Subject07_2"])
        assert recording.channels == ("Fp1",)
        wanted = {"condition": "task", "counter": "bad", "subtractions": 12.5, "age": 20.0, "sex": "M"}
        assert recording.labels == wanted
        assert "the header says sex F, the table M; the table counts" in recording.notes


class TestAlcoholism:
    def trial(self, file: Path, *, trial: int = 3, channels: tuple[str, ...] = ("FP1", "X", "CZ")) -> None:
        lines = ["# co2a0000364.rd", "# 120 trials, 64 chans, 416 samples 368 post_stim samples", "# 3.906000 msecs uV"]
        lines += [f"# S2 nomatch, trial {trial}"]
        for place, channel in enumerate(channels):
            lines += [
                f"# {channel} chan {place}",
                *(f"{trial} {channel} {t} {place + t / 1000:.3f}" for t in range(256)),
            ]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(
            gzip.compress("\n".join(lines).encode()) if file.suffix == ".gz" else "\n".join(lines).encode()
        )

    def test_a_file_a_trial_as_published(self, tmp_path):
        self.trial(tmp_path / "SMNI_CMI_TRAIN" / "co2a0000364" / "co2a0000364.rd.003.gz")
        self.trial(tmp_path / "SMNI_CMI_TEST" / "co2a0000364" / "co2a0000364.rd.003")
        recipe, items, _ = find("alcoholism", tmp_path)
        assert set(items) == {"train-co2a0000364-003", "test-co2a0000364-003"}
        recording = one(recipe, items["train-co2a0000364-003"])
        assert recording.channels == ("Fp1", "Cz")  # the eye is left out
        assert recording.labels == {"group": "alcoholic", "condition": "S2 nomatch", "split": "train"}
        assert (recording.ids.patient, recording.ids.trial) == ("co2a0000364", "003")
        np.testing.assert_allclose(recording.data[1, :3], [2.0, 2.001, 2.002], rtol=1e-6)

    def test_damaged_trials_are_refused(self, tmp_path):
        file = tmp_path / "co2c0000364.rd.003"
        self.trial(file)
        recipe, items, _ = find("alcoholism", tmp_path)
        content = file.read_text()
        whole_lines = content.rpartition("\n")[0]
        for wrong, reason in ((whole_lines, "256 samples"), (content.replace("3 CZ 9 ", "3 PZ 9 "), "is not trial")):
            file.write_text(wrong)
            with pytest.raises(UnreadableRecording, match=reason):
                recipe.read(items["co2c0000364-003"])


class TestPTBXL:
    def layout(self, root: Path) -> Path:
        for number, name in ((1, "00001_hr"), (2, "00002_hr")):
            write_wfdb(root / "records500" / "00000", name, tuple(lead.upper() for lead in ECG_12_LEADS), 500, [])
            assert number
        codes = ["{'IMI': 100.0, 'SR': 0.0}", "{'NORM': 80.0, 'PVC': 15.0}", "{'NORM': 100.0}"]
        pd.DataFrame(
            {
                "ecg_id": [1, 2, 3],
                "patient_id": [15709.0, 15709.0, 13243.0],
                "age": [56.0, 300.0, 19.0],
                "sex": [1, 0, 0],
                "site": [0.0, np.nan, 2.0],
                "device": ["CS-12 E", "CS-12 E", "AT-6"],
                "scp_codes": codes,
                "strat_fold": [10, 10, 3],
                "filename_lr": [f"records100/00000/0000{n}_lr" for n in (1, 2, 3)],
                "filename_hr": [f"records500/00000/0000{n}_hr" for n in (1, 2, 3)],
            }
        ).to_csv(root / "ptbxl_database.csv", index=False)
        (root / "scp_statements.csv").write_text(
            ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
            "NORM,normal ECG,1.0,,,NORM,NORM\nIMI,inferior infarction,1.0,,,MI,IMI\n"
            "PVC,extrasystole,,1.0,,,\nSR,sinus rhythm,,,1.0,,\n"
        )
        return root

    def test_statements_folds_and_patients(self, tmp_path):
        recipe, items, rejected = find("ptbxl", self.layout(tmp_path))
        assert rejected == {"00003_hr.hea": "stands in ptbxl_database.csv, but is not there"}
        first, second = items["00001"], items["00002"]
        assert first.ids.patient == second.ids.patient == "15709"
        assert (first.labels["superclass"], first.labels["rhythm"]) == (["MI"], ["SR"])
        assert (second.labels["form"], second.labels["scp"]) == (["PVC"], ["NORM", "PVC"])
        assert (first.labels["age"], first.labels["sex"], second.labels["age"]) == (56.0, "F", None)
        assert (first.labels["fold"], first.labels["split"], first.site, second.site) == (10, "test", "0", "")
        prepared = recipe.preparation()(one(recipe, first))
        assert (prepared.channels, prepared.image.shape) == (ECG_12_LEADS, (12, 500))
        _, items, _ = find("ptbxl", tmp_path, min_likelihood=50.0)
        assert items["00002"].labels["scp"] == ["NORM"]

    def test_a_row_without_patient_or_with_damaged_statements_is_rejected(self, tmp_path):
        table = pd.read_csv(self.layout(tmp_path) / "ptbxl_database.csv")
        table.loc[0, "patient_id"] = np.nan
        table.loc[1, "scp_codes"] = "{'NORM': __import__('os')}"
        table.to_csv(tmp_path / "ptbxl_database.csv", index=False)
        _, items, rejected = find("ptbxl", tmp_path)
        assert (items, len(rejected)) == ({}, 3)
        assert sum("lacks ecg_id, patient_id, file or readable scp_codes" in r for r in rejected.values()) == 2

    def test_other_rates_and_tables_are_refused(self, tmp_path):
        _, items, rejected = find("ptbxl", self.layout(tmp_path), source_hz=100)
        assert (items, len(rejected)) == ({}, 3)
        with pytest.raises(RecipeError, match="not at source_hz 250"):
            load_recipe("ptbxl", {"source_hz": 250})
        (tmp_path / "scp_statements.csv").write_text("a,b\n1,2\n")
        with pytest.raises(RecipeError, match="diagnostic_class"):
            find("ptbxl", tmp_path)


class TestSleepEDF:
    def layout(self, root: Path, night: int = 1, hypnogram: str = "C") -> Path:
        signals = {"EEG Fpz-Cz": noise(100 * 600), "EEG Pz-Oz": noise(100 * 600, 1)}
        write_edf(root / "sleep-cassette" / f"SC400{night}E0-PSG.edf", signals, 100)
        stages = [(0, 240, "W"), (240, 60, "1"), (300, 60, "4"), (360, 30, "R"), (390, 30, "?"), (420, 300, "W")]
        annotations = [(float(o), float(d), f"Sleep stage {s}") for o, d, s in stages]
        write_annotations(root / "sleep-cassette" / f"SC400{night}E{hypnogram}-Hypnogram.edf", annotations)
        return root

    def test_two_nights_are_one_patient_and_wake_is_trimmed(self, tmp_path):
        self.layout(self.layout(tmp_path), 2, "J")
        recipe, items, rejected = find("sleep_edf", tmp_path, wake_min=1.0)
        assert rejected == {}
        assert {(i.ids.patient, i.ids.session) for i in items.values()} == {("SC400", "1"), ("SC400", "2")}
        assert items["SC4001"].labels == {"study": "cassette"}
        recording = one(recipe, items["SC4001"])
        assert recording.channels == ("Fpz-Cz",)
        assert recording.data.shape[1] == 100 * (450 - 180)
        stages = ["W", "W", "N1", "N1", "N3", "N3", "REM", None, "W"]
        assert values(recording, "stage") == [(30.0 * i, 30.0, s) for i, s in enumerate(stages) if s]
        np.testing.assert_allclose(recording.data[0], noise(60_000)[18_000:45_000], atol=0.051)

    def test_all_of_a_night_and_hypnograms_that_are_missing_or_twice(self, tmp_path):
        self.layout(tmp_path)
        recipe, items, _ = find("sleep_edf", tmp_path, wake_min=None, channels=["Pz-Oz"])
        recording = one(recipe, items["SC4001"])
        assert (recording.channels, recording.data.shape[1]) == (("Pz-Oz",), 60_000)
        assert len(values(recording, "stage")) == 19  # the one that the recording has not as a whole, and ?, are none
        self.layout(tmp_path, hypnogram="H")
        _, items, rejected = find("sleep_edf", tmp_path)
        assert (items, list(rejected)) == ({}, ["SC4001E0-PSG.edf"])


class TestSHHS:
    def layout(self, root: Path, second: str = "EEG(sec)") -> Path:
        signals = {second: noise(125 * 150, 1), "EEG": noise(125 * 150)}
        write_edf(root / "edfs" / "shhs1" / "shhs1-200077.edf", signals, 125)
        events = [("Wake|0", 0, 30), ("Stage 2 sleep|2", 30, 60), ("REM sleep|5", 90, 30), ("Unscored|9", 120, 30)]
        scored = "".join(
            f"<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>{c}</EventConcept><Start>{s}</Start>"
            f"<Duration>{d}</Duration></ScoredEvent>"
            for c, s, d in events
        )
        scored += "<ScoredEvent><EventType>Respiratory|Respiratory</EventType><EventConcept>Hypopnea|Hypopnea"
        scored += "</EventConcept><Start>40.2</Start><Duration>12</Duration></ScoredEvent>"
        folder = root / "annotations-events-nsrr" / "shhs1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shhs1-200077-nsrr.xml").write_text(
            f"<PSGAnnotation><ScoredEvents>{scored}</ScoredEvents></PSGAnnotation>"
        )
        return root

    def test_stages_and_derivations(self, tmp_path):
        recipe, items, _ = find("shhs", self.layout(tmp_path), channels=["C4-A1", "C3-A2"])
        item = items["shhs1-200077"]
        assert (item.ids.patient, item.ids.session) == ("200077", "shhs1")
        recording = one(recipe, item)
        assert recording.channels == ("C4-A1", "C3-A2")
        assert "channel C4-A1 is EEG" in recording.notes
        np.testing.assert_allclose(recording.data[0], noise(125 * 150), atol=0.051)
        assert values(recording, "stage") == [(0, 30, "W"), (30, 30, "N2"), (60, 30, "N2"), (90, 30, "REM")]
        assert find("shhs", tmp_path, visits=[2])[1] == {}

    def test_missing_channels_and_documents_with_entities_are_refused(self, tmp_path):
        recipe, items, rejected = find("shhs", self.layout(tmp_path, "ECG"), channels=["C3-A2"])
        assert "channel C3-A2 is not among its channels: ECG, EEG" in rejected["shhs1-200077.edf"]
        recipe, items, _ = find("shhs", tmp_path)
        file = next(tmp_path.rglob("*-nsrr.xml"))
        file.write_text('<!DOCTYPE x [<!ENTITY a "b">]><PSGAnnotation/>')
        with pytest.raises(UnreadableRecording, match="declares entities"):
            recipe.read(items["shhs1-200077"])
        file.unlink()
        assert "no shhs1-200077-nsrr.xml" in find("shhs", tmp_path)[2]["shhs1-200077.edf"]


class TestISRUC:
    def test_rec_files_stages_of_either_expert_and_sessions(self, tmp_path):
        for folder, channel in (("subgroupI/5", "C4-M1"), ("subgroupII/3/2", "C4-A1")):
            name = folder.rpartition("/")[2]
            file = tmp_path / folder / f"{name}.rec"
            write_edf(file, {channel: noise(200 * 95), "LOC-A2": noise(200 * 95, 1)}, 200)
            (file.parent / f"{name}_1.txt").write_text("0\n1\n3\n5\n5\n")
            (file.parent / f"{name}_2.txt").write_text("0\n5\n-1\n")
        recipe, items, _ = find("isruc", tmp_path)
        assert {(i.ids.patient, i.ids.session) for i in items.values()} == {("subgroupI-5", ""), ("subgroupII-3", "2")}
        recording = one(recipe, items["subgroupI-5-5"])
        assert (recording.channels, recording.rate_hz, recording.units) == (("C4-A1",), 200.0, ("uV",))
        assert any("C4-A1 is C4-M1" in note for note in recording.notes)
        np.testing.assert_allclose(recording.data[0], noise(200 * 95), atol=0.051)
        assert values(recording, "stage") == [(0, 30, "W"), (30, 30, "N1"), (60, 30, "N3")]
        recipe, items, _ = find("isruc", tmp_path, expert=2)
        assert values(one(recipe, items["subgroupI-5-5"]), "stage") == [(0, 30, "W"), (30, 30, "REM")]
        with pytest.raises(RecipeError, match="not by 3"):
            load_recipe("isruc", {"expert": 3})

    def test_rec_is_read_as_the_edf_it_is(self, tmp_path):
        rec = write_edf(tmp_path / "a.rec", {"EEG C3": noise(300), "EEG C4": noise(300, 1)}, 100)
        edf = tmp_path / "a.edf"
        edf.write_bytes(rec.read_bytes())
        (one_,), (other,) = read_signal(rec).recordings, read_signal(edf).recordings
        np.testing.assert_array_equal(one_.data, other.data)
        assert (one_.channels, one_.units, one_.rate_hz) == (other.channels, other.units, other.rate_hz)


class TestPTB:
    def test_labels_of_the_header_and_the_split_of_comet(self, tmp_path):
        reasons = {
            **dict.fromkeys(range(1, 50), "Myocardial infarction"),
            **dict.fromkeys(range(50, 70), "Healthy control"),
        }
        reasons |= {70: "Cardiomyopathy", 71: "n/a"}
        leads = tuple(lead.lower() for lead in (*ECG_12_LEADS, "VX", "VY", "VZ"))
        for number, reason in reasons.items():
            folder = tmp_path / f"patient{number:03d}"
            if number in (49, 70):
                write_wfdb(
                    folder, "s0001_re", leads, 1000, ["age: 81", "sex: female", f"Reason for admission: {reason}"]
                )
            else:
                folder.mkdir()
                (folder / "s0001_re.hea").write_text(f"s0001_re 0 1000 0\n# Reason for admission: {reason}\n")
        recipe, items, _ = find("ptb", tmp_path)
        recording = one(recipe, items["patient049-s0001_re"])
        assert recording.labels["infarct"] == "infarct"
        assert (recording.labels["age"], recording.labels["sex"]) == (81.0, "F")
        assert recipe.preparation()(recording).channels == (*ECG_12_LEADS, "VX", "VY", "VZ")
        of = {int(i.ids.patient[-3:]): i.labels for i in items.values()}
        test = {n for n, labels in of.items() if labels["split_wang2023"] == "test"}
        val = {n for n, labels in of.items() if labels["split_wang2023"] == "val"}
        assert test == {*range(29, 50), *range(63, 70)}
        assert val == {*range(8, 29), *range(56, 63)}
        assert (of[70]["split_wang2023"], of[70]["infarct"], of[71]["diagnosis"]) == (None, None, None)
        _, items, rejected = find("ptb", tmp_path, only_infarct=True)
        assert (len(items), len(rejected)) == (69, 1)  # both rejected files have one name


class TestChapman:
    def test_codes_become_the_four_rhythms(self, tmp_path):
        folder = tmp_path / "WFDBRecords" / "01" / "010"
        for name, codes in (
            ("JS00001", "164890007,59118001"),
            ("JS00002", "427393009"),
            ("JS00003", "426177001,427084000"),
        ):
            write_wfdb(folder, name, ECG_12_LEADS, 500, ["Age: 59", "Sex: Female", f"Dx: {codes}"])
        recipe, items, _ = find("chapman", tmp_path, leads=["I", "V1"])
        labels = [one(recipe, items[f"JS0000{n}"]).labels for n in (1, 2, 3)]
        assert [x["rhythm"] for x in labels] == ["AFIB", "SR", None]
        assert labels[0]["dx"] == ["AF", "59118001"]
        assert (labels[0]["age"], labels[0]["sex"]) == (59.0, "F")
        assert recipe.preparation()(one(recipe, items["JS00001"])).channels == ("I", "V1")

    def test_the_first_release_as_tables(self, tmp_path):
        rows = "FileName,Rhythm,Beat,PatientAge,Gender\nMUSE_1,SVT,RBBB TWC,85,MALE\nMUSE_2,SB,NONE,59,FEMALE\n"
        (tmp_path / "Diagnostics.csv").write_text(rows)
        (tmp_path / "ECGDataDenoised").mkdir()
        signal = np.random.default_rng(0).normal(0, 200, (1000, 12))
        np.savetxt(tmp_path / "ECGDataDenoised" / "MUSE_1.csv", signal, delimiter=",", fmt="%.2f")
        recipe, items, rejected = find("chapman", tmp_path)
        recording = one(recipe, items["MUSE_1"])
        assert recording.labels == {"dx": ["SVT", "RBBB", "TWC"], "rhythm": "GSVT", "age": 85.0, "sex": "M"}
        assert recipe.preparation()(recording).units == ("mV",) * 12
        assert list(rejected) == ["MUSE_2.csv"]


class TestCHBMIT:
    SUMMARY = (
        "Data Sampling Rate: 256 Hz\n\nChannels in EDF Files:\nChannel 1: FP1-F7\n\n"
        "File Name: chb21_01.edf\nFile Start Time: 13:43:04\nFile End Time: 14:43:04\nNumber of Seizures in File: 2\n"
        "Seizure 1 Start Time: 14 seconds\nSeizure 1 End Time: 31 seconds\n"
        "Seizure 2 Start Time: 45 seconds\nSeizure 2 End Time: 50 seconds\n\n"
        "File Name: chb21_02.edf\nNumber of Seizures in File: 0\n"
    )

    def layout(self, root: Path, summary: str = SUMMARY) -> Path:
        for number in (1, 2, 3):
            signals = {"FP1-F7": noise(256 * 62), "T8-P8": noise(256 * 62, 1), "-": noise(256 * 62, 2)}
            write_edf(root / "chb21" / f"chb21_0{number}.edf", signals, 256)
        (root / "chb21" / "chb21-summary.txt").write_text(summary)
        return root

    def test_seizures_states_and_the_patient_with_two_cases(self, tmp_path):
        recipe, items, rejected = find("chbmit", self.layout(tmp_path), channels=["Fp1-F7"])
        assert {i.ids.patient for i in items.values()} == {"chb01"}
        assert "does not list it" in rejected["chb21_03.edf"]
        assert items["chb21_01"].labels == {"seizures": 2}
        recording = one(recipe, items["chb21_01"])
        assert values(recording, "seizure") == [(14, 17, "seizure"), (45, 5, "seizure")]
        states = {start: value for start, _, value in values(recording, "state")}
        assert states == {0: "background", 20: "seizure", 50: "background"}
        assert recording.channels == ("Fp1-F7",)
        assert values(one(recipe, items["chb21_02"]), "state") == [(10.0 * i, 10.0, "background") for i in range(6)]

    def test_only_seizures_other_montages_and_summaries_that_do_not_add_up(self, tmp_path):
        recipe, items, rejected = find("chbmit", self.layout(tmp_path), only_seizures=True)
        assert list(items) == ["chb21_01"]
        assert "without seizure" in rejected["chb21_02.edf"]
        read = recipe.read(items["chb21_01"])
        assert read.recordings == [] and "F7-T7" in read.rejected[0].reason
        self.layout(tmp_path, self.SUMMARY.replace("Seizure 2 End Time: 50 seconds\n", ""))
        _, items, rejected = find("chbmit", tmp_path)
        assert items == {} and "does not give the seizures that it counts" in rejected["chb21_01.edf"]


class TestComet:
    def layout(self, root: Path, patients: int, channels: int = 16) -> Path:
        (root / "Feature").mkdir()
        (root / "Label").mkdir()
        rng = np.random.default_rng(0)
        for patient in range(1, patients + 1):
            np.save(root / "Feature" / f"feature_{patient:02d}.npy", rng.normal(size=(2, 64, channels)))
        np.save(root / "Label" / "label.npy", np.array([[p % 2, p] for p in range(1, patients + 1)]))
        return root

    def test_trials_classes_and_the_split_of_the_paper(self, tmp_path):
        recipe, items, _ = find("comet", self.layout(tmp_path, 23))
        parts: dict[str, list[int]] = {}
        for name, item in items.items():
            parts.setdefault(item.labels["split"], []).append(int(name[-3:]))
        assert (parts["val"], parts["test"], len(parts["train"])) == ([17, 18], [19, 20], 19)
        first, second = recipe.read(items["ad-001"]).recordings
        assert (first.ids.trial, second.ids.trial, first.labels["class"]) == ("001", "002", "AD")
        assert (first.data.shape, first.rate_hz) == ((16, 64), 256.0)
        np.testing.assert_allclose(first.data, np.load(tmp_path / "Feature" / "feature_01.npy")[0].T, rtol=1e-6)

    def test_other_sets_have_other_rates_and_faults_are_named(self, tmp_path):
        recipe, items, _ = find("comet", self.layout(tmp_path, 4), dataset="tdbrain")
        with pytest.raises(UnreadableRecording, match="33 channels"):
            recipe.read(items["tdbrain-001"])
        np.save(tmp_path / "Label" / "label.npy", np.array([[3, 1]]))
        with pytest.raises(RecipeError, match="not a table of label"):
            find("comet", tmp_path)
        with pytest.raises(RecipeError, match="ad, tdbrain, ptb"):
            load_recipe("comet", {"dataset": "adfd"})


class TestUCIHAR:
    def layout(self, root: Path) -> Path:
        rng = np.random.default_rng(0)
        for split, people, activities in (("train", [1, 1, 3], [5, 6, 1]), ("test", [2], [4])):
            folder = root / "UCI HAR Dataset" / split
            (folder / "Inertial Signals").mkdir(parents=True)
            np.savetxt(folder / f"subject_{split}.txt", people, fmt="%d")
            np.savetxt(folder / f"y_{split}.txt", activities, fmt="%d")
            for quantity in ("body_acc", "body_gyro", "total_acc"):
                for axis in "xyz":
                    values_ = rng.normal(size=(len(people), 128))
                    np.savetxt(folder / "Inertial Signals" / f"{quantity}_{axis}_{split}.txt", values_, fmt="%16.7e")
        return root

    def test_windows_of_people_with_the_published_split(self, tmp_path):
        recipe, items, _ = find("uci_har", self.layout(tmp_path))
        assert {r: i.labels["split"] for r, i in items.items()} == {
            "train-01": "train",
            "train-03": "train",
            "test-02": "test",
        }
        first, second = recipe.read(items["train-01"]).recordings
        assert (first.labels["activity"], second.labels["activity"]) == ("standing", "laying")
        assert (first.ids.patient, second.ids.recording, first.data.shape) == ("01", "train-00001", (9, 128))
        assert one(recipe, items["test-02"]).labels["activity"] == "sitting"
        stored = np.loadtxt(tmp_path / "UCI HAR Dataset" / "train" / "Inertial Signals" / "body_gyro_y_train.txt")
        np.testing.assert_allclose(second.data[4], stored[1], rtol=1e-6)
        prepared = recipe.preparation()(first)
        assert (prepared.units[0], prepared.units[3], prepared.rate_hz) == ("g", "rad/s", 50.0)
        np.testing.assert_allclose(
            prepared.image * prepared.scale[:, None] + prepared.offset[:, None], first.data, atol=1e-3
        )

    def test_rows_that_do_not_match_are_refused(self, tmp_path):
        folder = self.layout(tmp_path) / "UCI HAR Dataset" / "train"
        np.savetxt(folder / "y_train.txt", [1, 2], fmt="%d")
        recipe, items, _ = find("uci_har", tmp_path)
        with pytest.raises(UnreadableRecording, match="3 persons and 2 activities"):
            recipe.read(items["train-01"])


class TestUCRUEA:
    TS = (
        "#comment\n@problemName Toy\n@timeStamps false\n@univariate false\n@dimensions 2\n@classLabel true a b\n@data\n"
        "1,2,3:4,?,6:a\n7,8:9,10:b\n"
    )

    def test_ts_with_channels_gaps_and_lengths(self, tmp_path):
        (tmp_path / "Toy_TRAIN.ts").write_text(self.TS)
        (tmp_path / "Toy_TEST.ts").write_text(self.TS.replace("true a b", "false").replace(":a", "").replace(":b", ""))
        (tmp_path / "Toy_TRAIN.arff").write_text("never read")
        (tmp_path / "ToyDimension1_TRAIN.arff").write_text("never read")
        recipe, items, _ = find("ucr_uea", tmp_path, rate_hz=20.0)
        assert set(items) == {"Toy-train", "Toy-test"}
        first, second = recipe.read(items["Toy-train"]).recordings
        np.testing.assert_array_equal(first.data, [[1, 2, 3], [4, np.nan, 6]])
        assert second.data.shape == (2, 2)
        assert (first.labels, second.labels["class"]) == ({"split": "train", "class": "a"}, "b")
        assert (first.rate_hz, first.ids.patient) == (20.0, "Toy-train-00000")
        assert recipe.read(items["Toy-test"]).recordings[0].labels["class"] is None

    def test_arff_of_one_and_of_several_channels(self, tmp_path):
        one_ = "@relation a\n@attribute t0 numeric\n@attribute t1 numeric\n@attribute target {1,2}\n@data\n"
        one_ += "0.5,?,2\n1,2,1\n"
        (tmp_path / "One_TRAIN.arff").write_text(one_)
        several = "@relation b\n@attribute b relational\n @attribute t0 numeric\n @attribute t1 numeric\n@end b\n"
        several += "@attribute class {x,y}\n@data\n'1,2\\n3,4\\n5,6',y\n"
        (tmp_path / "Several_TEST.arff").write_text(several)
        recipe, items, _ = find("ucr_uea", tmp_path)
        series = recipe.read(items["One-train"]).recordings
        np.testing.assert_array_equal(series[0].data, [[0.5, np.nan]])
        assert [s.labels["class"] for s in series] == ["2", "1"]
        (multi,) = recipe.read(items["Several-test"]).recordings
        np.testing.assert_array_equal(multi.data, [[1, 2], [3, 4], [5, 6]])
        assert multi.labels["class"] == "y"

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (TS.replace("timeStamps false", "timeStamps true"), "time stamps"),
            (TS.replace("7,8:9,10", "7,8:9"), "different lengths"),
            (TS.replace("7,8", "7,x"), "line 9 holds what is no number"),
        ],
    )
    def test_what_cannot_be_read_faithfully_is_refused(self, tmp_path, text, reason):
        (tmp_path / "Toy_TRAIN.ts").write_text(text)
        recipe, items, _ = find("ucr_uea", tmp_path)
        with pytest.raises(UnreadableRecording, match=reason):
            recipe.read(items["Toy-train"])


def test_epochs_that_no_interval_covers_have_no_stage():
    assert epochs_of([(40.0, 50.0, "N1"), (95.0, 25.0, "W")], 30.0) == [None, None, "N1", None]
    assert epochs_of([(90.0, 30.0, "N2"), (0.0, 30.0, "W")], 30.0) == ["W", None, None, "N2"]


def test_cutting_keeps_whole_events_and_says_so():
    from medssl.adapters.recording import Event

    events = tuple(Event(t, 10.0, "stage", str(t)) for t in (0.0, 10.0, 20.0, 30.0))
    recording = Recording(np.arange(400)[None], "ct", rate_hz=10.0, events=events)
    cut = cut_out(recording, 5.0, 30.0)
    np.testing.assert_array_equal(cut.data[0], np.arange(50, 300))
    assert [(e.onset_s, e.value) for e in cut.events] == [(5.0, "10.0"), (15.0, "20.0")]
    assert cut.notes == ("cut to 5 to 30 s of 40 s",)
    assert cut_out(recording, -5.0, 90.0).notes == ()
    with pytest.raises(UnreadableRecording, match="nothing of it lies between"):
        cut_out(recording, 50.0, 60.0)
