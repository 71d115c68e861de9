"""Recipes of EEG and other signals, on small trees in their official layout."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from toy_edf import write_edf
from toy_recipes import find, noise, one, values

from medssl.cohort.recipe import load_recipe
from medssl.errors import RecipeError, UnreadableRecording


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
