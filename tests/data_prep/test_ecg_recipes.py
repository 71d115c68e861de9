"""Recipes of ECG sets, on small trees in their official layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_recipes import find, one, write_wfdb

from medssl.adapters.channels import ECG_12_LEADS
from medssl.cohort.recipe import load_recipe
from medssl.errors import RecipeError


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
