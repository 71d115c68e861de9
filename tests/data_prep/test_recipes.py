"""What the recipes for layouts of one's own find, and why they refuse what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl import resources
from medssl.adapters.recording import Rejected
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, load_recipe
from medssl.configurable import build, spec
from medssl.errors import RecipeError


def volume(path: Path, *, labels: bool = False, shape: tuple[int, ...] = (6, 7, 8), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 3, shape).astype(np.uint8) if labels else rng.normal(100, 20, shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


def find(name: str, source: Path, **options) -> tuple[dict[str, Item], dict[str, str]]:
    """Items by recording, reasons by file name."""
    found = list(load_recipe(name, options).find(source))
    items = [f for f in found if isinstance(f, Item)]
    assert len({i.ids.recording for i in items}) == len(items), "recordings must be unique"
    return {i.ids.recording: i for i in items}, {
        Path(f.source).name: f.reason for f in found if isinstance(f, Rejected)
    }


@pytest.mark.parametrize("name", resources.names("data_prep"))
def test_every_recipe_says_where_its_data_come_from_and_can_be_configured(name):
    recipe = load_recipe(name)
    text = (resources.root("data_prep") / f"{name}.py").read_text(encoding="utf-8").split('"""')[1].lower()
    assert all(word in text for word in ("get the data", "licence", "layout" if name != "table" else "columns"))
    assert "cit" in text
    assert recipe.kind in ("volume", "signal", "video")
    settings = json.loads(json.dumps(spec(recipe.preparation())))
    assert spec(build(settings, Preparation)) == settings


@pytest.mark.parametrize("name", [n for n in resources.names("data_prep") if n != "table"])
def test_a_source_that_is_not_there_or_empty_is_a_clear_error(name, tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        list(load_recipe(name).find(tmp_path / "nothing"))
    with pytest.raises(RecipeError, match=str(tmp_path)):
        list(load_recipe(name).find(tmp_path))


class TestFolder:
    def test_without_a_pattern_every_file_is_a_patient(self, tmp_path):
        volume(tmp_path / "b" / "case_10.nii.gz")
        volume(tmp_path / "b" / "case_9.nii")
        (tmp_path / "notes.txt").write_text("hello")
        items, rejected = find("folder", tmp_path)
        assert [i.ids.patient for i in items.values()] == ["case_9", "case_10"]
        assert rejected == {}

    def test_named_groups_and_mask_templates(self, tmp_path):
        volume(tmp_path / "img" / "p01_a_pre_34.nii.gz")
        volume(tmp_path / "img" / "p01_b_pre_34.nii.gz")
        volume(tmp_path / "img" / "stray.nii.gz")
        volume(tmp_path / "seg" / "p01_a.nii.gz", labels=True)
        options = {
            "pattern": r"img/(?P<patient>p\d+)_(?P<session>\w)_(?P<label_state>\w+)_(?P<label_age>\d+)\.nii\.gz",
            "masks": {"organ": "seg/{patient}_{session}.nii.gz"},
        }
        items, rejected = find("folder", tmp_path, **options)
        first, second = items.values()
        assert first.ids.patient == second.ids.patient == "p01"
        assert (first.ids.session, second.ids.session) == ("a", "b")
        assert first.labels == {"state": "pre", "age": 34.0}
        assert list(first.masks) == ["organ"]
        assert second.masks == {}
        assert list(rejected) == ["stray.nii.gz"]
        assert "does not fit the pattern" in rejected["stray.nii.gz"]
        items, rejected = find("folder", tmp_path, require_masks=True, **options)
        assert len(items) == 1
        assert "seg/p01_b.nii.gz" in rejected["p01_b_pre_34.nii.gz"]

    def test_files_read_with_a_header_are_not_taken_twice(self, shared_data):
        items, _ = find("folder", shared_data / "ecg_mitbih_excerpt", kind="signal")
        assert sum(i.source.endswith(".hea") for i in items.values()) == 36
        assert not [i.source for i in items.values() if i.source.endswith((".dat", ".atr"))]

    @pytest.mark.parametrize("pattern", ["(?P<patient>", r"(\d+)\.nii"])
    def test_a_pattern_that_cannot_work_is_refused(self, pattern):
        with pytest.raises(RecipeError, match="pattern"):
            load_recipe("folder", {"pattern": pattern})


class TestTable:
    def rows(self, tmp_path: Path) -> pd.DataFrame:
        for name in ("a", "b", "c"):
            volume(tmp_path / "data" / f"{name}.nii.gz")
        volume(tmp_path / "seg" / "a.nii.gz", labels=True)
        return pd.DataFrame(
            {
                "path": ["data/a.nii.gz", "data/b.nii.gz", "data/c.nii.gz", "data/gone.nii.gz"],
                "patient": ["007", "007", None, "009"],
                "session": ["1", "2", "1", "1"],
                "mask_organ": ["seg/a.nii.gz", None, None, None],
                "label_age": [34.5, None, 50.0, 60.0],
                "label_findings": ["AF;PVC", "", "AF", ""],
                "site": ["x", "y", "x", "x"],
            }
        )

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
    def test_rows_become_items(self, tmp_path, suffix):
        table = tmp_path / f"table{suffix}"
        rows = self.rows(tmp_path)
        if suffix == ".parquet":
            rows.to_parquet(table)
        else:
            rows.to_csv(table, index=False, sep="\t" if suffix == ".tsv" else ",")
        items, rejected = find("table", table, multilabel=["findings"])
        first, second = items.values()
        assert first.ids.patient == "007"  # ids are never numbers
        assert first.labels == {"age": 34.5, "findings": ["AF", "PVC"]}
        assert second.labels == {"age": None, "findings": None}
        assert first.masks == {"organ": tmp_path / "seg" / "a.nii.gz"}
        assert (first.site, second.site) == ("x", "y")
        assert "no patient given (line 4" in rejected["c.nii.gz"]
        assert "no such file (line 5" in rejected["gone.nii.gz"]

    def test_columns_can_be_renamed_and_cases_taken_as_patients(self, tmp_path):
        table = tmp_path / "t.csv"
        self.rows(tmp_path)[["path", "label_age"]].head(3).rename(columns={"path": "file"}).to_csv(table, index=False)
        items, _ = find("table", table, rename={"path": "file"}, case_is_patient=True)
        assert len({i.ids.patient for i in items.values()}) == 3
        with pytest.raises(RecipeError, match="case_is_patient"):
            find("table", table, rename={"path": "file"})
        with pytest.raises(RecipeError, match="no column 'path'"):
            find("table", table)

    def test_a_rate_a_row_reaches_the_reader(self, tmp_path):
        np.savetxt(tmp_path / "x.csv", np.random.default_rng(0).normal(size=(300, 2)), delimiter=",")
        table = tmp_path / "t.csv"
        table.write_text('path,patient,rate_hz,units,channels\nx.csv,p,128,uV,"C3,C4"\nx.csv,q,fast,uV,\n')
        recipe = load_recipe("table", {"kind": "signal", "modality": "eeg"})
        item, refused = recipe.find(table)
        (recording,) = recipe.read(item).recordings
        assert (recording.rate_hz, recording.channels) == (128.0, ("C3", "C4"))
        assert "rate_hz 'fast' is no number" in refused.reason

    def test_a_damaged_table_is_a_clear_error(self, tmp_path):
        table = tmp_path / "t.csv"
        table.write_text("path,path\na,b\n")
        with pytest.raises(RecipeError, match="twice"):
            find("table", table)
        with pytest.raises(RecipeError, match="does not exist"):
            find("table", tmp_path / "gone.csv")


class TestMSD:
    def layout(self, root: Path) -> Path:
        for name in ("a_1", "a_2", "a_3"):
            volume(root / "imagesTr" / f"{name}.nii.gz")
        for name in ("a_1", "a_2", "a_9"):
            volume(root / "labelsTr" / f"{name}.nii.gz", labels=True)
        volume(root / "imagesTs" / "a_4.nii.gz")
        listed = [{"image": f"./imagesTr/a_{i}.nii.gz"} for i in (1, 2, 3, 5)]
        about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "head", "2": "tail"}, "training": listed}
        (root / "dataset.json").write_text(json.dumps(about))
        return root

    def test_pairs_are_taken_and_orphans_named(self, tmp_path):
        root = self.layout(tmp_path)
        items, rejected = find("msd", root)
        assert list(items) == ["a_1", "a_2", "a_4"]
        assert items["a_4"].masks == {}
        assert rejected["a_3.nii.gz"] == "image without label: no labelsTr/a_3.nii.gz"
        assert rejected["a_9.nii.gz"].startswith("label without image: no imagesTr/a_9.nii.gz")
        assert rejected["a_5.nii.gz"] == "listed in dataset.json, but not there"
        items, _ = find("msd", root, require_labels=False, test_images=False)
        assert list(items) == ["a_1", "a_2", "a_3"]

    def test_label_names_and_modality_come_from_dataset_json(self, tmp_path):
        recipe = load_recipe("msd")
        list(recipe.find(self.layout(tmp_path)))
        assert recipe.mask_labels == {"labels": {1: "head", 2: "tail"}}
        with pytest.raises(RecipeError, match="modality=mri"):
            find("msd", tmp_path, modality="ct")
        (tmp_path / "dataset.json").write_text("{")
        with pytest.raises(RecipeError, match=r"dataset\.json"):
            find("msd", tmp_path)

    def test_a_fourth_axis_is_the_sequence(self, tmp_path):
        volume(tmp_path / "imagesTr" / "b.nii.gz", shape=(6, 7, 8, 4))
        volume(tmp_path / "labelsTr" / "b.nii.gz", labels=True)
        recipe = load_recipe("msd")
        (item,) = recipe.find(tmp_path)
        (recording,) = recipe.read(item).recordings
        assert recording.axes == "czyx"
        assert recipe.preparation()(recording).image.shape == (4, 8, 7, 6)


class TestNNUNet:
    def test_channels_are_put_together_and_gaps_refused(self, tmp_path):
        for case, channels in (("s1", (0, 1)), ("s2", (0, 1)), ("s3", (0,))):
            for channel in channels:
                volume(tmp_path / "imagesTr" / f"{case}_{channel:04d}.nii.gz", seed=channel)
        volume(tmp_path / "imagesTr" / "odd.nii.gz")
        for case in ("s1", "s3", "s8"):
            volume(tmp_path / "labelsTr" / f"{case}.nii.gz", labels=True)
        about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1, "whole": [1, 2]}}
        (tmp_path / "dataset.json").write_text(json.dumps(about))
        items, rejected = find("nnunet", tmp_path)
        assert list(items) == ["s1"]
        assert "no labelsTr/s2" in rejected["s2_0000.nii.gz"]
        assert "lacks the channels _0001" in rejected["s3_0000.nii.gz"]
        assert "no imagesTr/s8_0000" in rejected["s8.nii.gz"]
        assert "_0000" in rejected["odd.nii.gz"]
        recipe = load_recipe("nnunet")
        (recording,) = recipe.read(items["s1"]).recordings
        prepared = recipe.preparation()(recording)
        assert prepared.image.shape == (2, 8, 7, 6)
        assert set(prepared.masks) == {"labels"}

    def test_the_patient_is_found_in_the_case(self, tmp_path):
        for case in ("sub1_a", "sub1_b", "other"):
            volume(tmp_path / "imagesTr" / f"{case}_0000.nii.gz")
            volume(tmp_path / "labelsTr" / f"{case}.nii.gz", labels=True)
        items, rejected = find("nnunet", tmp_path, patient=r"(sub\d+)_")
        assert {i.ids.patient for i in items.values()} == {"sub1"}
        assert "finds no patient" in rejected["other_0000.nii.gz"]


class TestBIDS:
    def layout(self, root: Path) -> Path:
        for sub, ses in (("01", "a"), ("01", "b"), ("02", "a")):
            volume(root / f"sub-{sub}" / f"ses-{ses}" / "anat" / f"sub-{sub}_ses-{ses}_T1w.nii.gz")
        volume(root / "sub-02" / "ses-a" / "func" / "sub-02_ses-a_task-rest_bold.nii.gz", shape=(6, 7, 8, 5))
        (root / "sub-02" / "ses-a" / "func" / "sub-02_ses-a_task-rest_events.tsv").write_text(
            "onset\tduration\ttrial_type\n1.5\t2\tface\n4\tn/a\thouse\n"
        )
        volume(root / "derivatives" / "seg" / "sub-01" / "sub-01_ses-a_dseg.nii.gz", labels=True)
        (root / "participants.tsv").write_text("participant_id\tage\tsex\tsite\nsub-01\t34\tF\tx\nsub-02\tn/a\tM\ty\n")
        return root

    def test_anatomy_with_participants_sessions_and_derivatives(self, tmp_path):
        items, _ = find("bids", self.layout(tmp_path), mask="dseg")
        first, second, third = items.values()
        assert [i.ids.patient for i in items.values()] == ["sub-01", "sub-01", "sub-02"]
        assert [i.ids.session for i in items.values()] == ["a", "b", "a"]
        assert first.labels == {"age": 34.0, "sex": "F"}
        assert third.labels == {"age": None, "sex": "M"}
        assert (first.site, third.site) == ("x", "y")
        assert list(first.masks) == ["dseg"]
        assert second.masks == {}
        assert find("bids", tmp_path, labels=["age"])[0]["sub-01_ses-a_T1w"].labels == {"age": 34.0}

    def test_events_of_a_run(self, tmp_path):
        recipe = load_recipe("bids", {"datatype": "func"})
        (item,) = recipe.find(self.layout(tmp_path))
        (recording,) = recipe.read(item).recordings
        assert [(e.onset_s, e.duration_s, e.value) for e in recording.events] == [
            (1.5, 2.0, "face"),
            (4.0, 0.0, "house"),
        ]
        prepared = recipe.preparation()(recording)
        assert prepared.image.shape == (1, 8, 7, 6)
        assert "mean of 5 frames taken" in prepared.notes

    def test_another_suffix_is_named(self, tmp_path):
        with pytest.raises(RecipeError, match=r"FLAIR.*suffixes there: T1w"):
            find("bids", self.layout(tmp_path), suffix="FLAIR")
