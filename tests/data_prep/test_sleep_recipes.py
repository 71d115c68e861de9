"""Recipes of sleep recordings, on small trees in their official layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_edf import write_annotations, write_edf
from toy_recipes import find, noise, one, values

from medssl.adapters.signal import read_signal
from medssl.cohort.recipe import load_recipe
from medssl.errors import RecipeError, UnreadableRecording


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
