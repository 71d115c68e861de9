"""The recipes of published volumetric data sets, on tiny trees in their official layouts: prepared, and looked at."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.cohort import Cohort
from medssl.cohort.recipe import load_recipe
from medssl.cohort.writer import prepare
from medssl.errors import CohortError, RecipeError

SHAPE = (8, 8, 8)


def image(path: Path, *, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


def label_map(path: Path, *values: int) -> Path:
    """Background, and one plane of each value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros(SHAPE, np.int16)
    for plane, value in enumerate(values):
        data[plane] = value
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


def damaged(path: Path) -> Path:
    """A compressed file cut short."""
    image(path)
    path.write_bytes(path.read_bytes()[:1200])
    return path


def made(
    recipe: str, source: Path, out: Path, *, spacing_mm: float | None = 1.0, **options: Any
) -> tuple[pd.DataFrame, dict[str, str], Cohort]:
    """Manifest by recording, reasons by file name, and the cohort, prepared in this process."""
    prepare(
        *(recipe, source, out),
        options=options,
        preparation={} if spacing_mm is None else {"spacing_mm": spacing_mm},
        workers=0,
        keep_ids=True,
        max_rejected=0.9,
    )
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rejected = {Path(row["source"]).name: row["reason"] for row in csv.DictReader(file)}
    cohort = Cohort(out)
    return cohort.manifest.set_index("recording"), rejected, cohort


def labels(manifest: pd.DataFrame, recording: str, *names: str) -> list[Any]:
    return [manifest.loc[recording, f"label_{name}"] for name in names]


def network_input(cohort: Cohort, recording: str) -> np.ndarray:
    reader = cohort.reader(list(cohort.manifest.recording).index(recording))
    scale, offset = (np.array(reader.record[f"input_{name}"])[:, None, None, None] for name in ("scale", "offset"))
    return (reader.read_all() * scale + offset).clip(*reader.record["input_range"])


def voxels(manifest: pd.DataFrame, recording: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads(manifest.loc[recording, "mask_voxels"])
    return found


class TestACDC:
    def patient(self, root: Path, number: int, frames: tuple[int, ...], *, group: str = "DCM") -> Path:
        name = f"patient{number:03d}"
        folder = root / ("training" if number <= 100 else "testing") / name
        for frame in frames:
            image(folder / f"{name}_frame{frame:02d}.nii.gz", seed=frame)
            label_map(folder / f"{name}_frame{frame:02d}_gt.nii.gz", 1, 2, 3)
        image(folder / f"{name}_4d.nii.gz", shape=(*SHAPE, 2))
        info = f"ED: {frames[0]}\nES: {frames[1]}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
        (folder / "Info.cfg").write_text(info)
        return folder

    def test_both_phases_of_a_patient_with_what_is_known_of_it(self, tmp_path: Path) -> None:
        root = tmp_path / "database"
        self.patient(root, 7, (1, 13))
        self.patient(root, 2, (1, 9), group="NOR")
        broken = self.patient(root, 101, (1, 11))
        damaged(broken / "patient101_frame11.nii.gz")
        (broken / "patient101_frame01_gt.nii.gz").unlink()
        image(root / "training" / "patient007" / "localiser.nii.gz")
        manifest, rejected, cohort = made("acdc", root, tmp_path / "out")
        assert list(manifest.index) == [
            "patient002_frame01", "patient002_frame09", "patient007_frame01", "patient007_frame13",
        ]  # fmt: skip
        assert set(manifest.patient) == {"patient002", "patient007"}
        known = ("phase", "group", "height_cm", "weight_kg", "split", "split_chaitanya2020")
        assert labels(manifest, "patient007_frame13", *known) == ["ES", "DCM", 184.0, 95.0, "train", "test"]
        assert labels(manifest, "patient002_frame01", "phase", "group", "split_chaitanya2020") == [
            "ED", "NOR", "pretrain",
        ]  # fmt: skip
        assert cohort.info.masks["heart"] == {"1": "right ventricle", "2": "myocardium", "3": "left ventricle"}
        assert voxels(manifest, "patient007_frame01")["heart"] == {"1": 64, "2": 64, "3": 64}
        assert rejected.pop("patient101_frame01.nii.gz") == "image without label map"
        assert "cut short" in rejected.pop("patient101_frame11.nii.gz")
        assert "name is not that of a frame" in rejected.pop("localiser.nii.gz")
        assert set(rejected) == {f"patient{n:03d}_4d.nii.gz" for n in (2, 7, 101)}
        assert all("the whole cine" in reason for reason in rejected.values())

    def test_without_labels_or_info(self, tmp_path: Path) -> None:
        folder = self.patient(tmp_path / "in", 120, (2, 8))
        for file in (folder / "Info.cfg", *folder.glob("*_gt.nii.gz")):
            file.unlink()
        manifest, rejected, _ = made("acdc", tmp_path / "in", tmp_path / "out", require_labels=False)
        assert len(manifest) == 2
        assert len(rejected) == 1
        assert labels(manifest, "patient120_frame02", "phase", "split") == [None, "test"]
        assert "label_split_chaitanya2020" not in manifest  # the paper has the training patients only

    def test_the_lists_of_the_paper_are_whole(self) -> None:
        module = __import__("sys").modules[type(load_recipe("acdc")).__module__]
        assert (len(module.PRETRAIN), len(module.TEST), len(module.PRETRAIN & module.TEST)) == (52, 20, 0)


class TestMMWHS:
    VALUES = (205, 420, 500, 550, 600, 820, 850)

    def layout(self, root: Path) -> Path:
        for modality, number in (("mr", 1002), ("mr", 1013), ("mr", 1010), ("ct", 1002)):
            name = f"{modality}_train_{number}"
            image(root / f"{modality}_train" / f"{name}_image.nii.gz", seed=number)
            label_map(root / f"{modality}_train" / f"{name}_label.nii.gz", *self.VALUES)
        image(root / "mr_test" / "mr_test_2001_image.nii.gz")
        label_map(root / "mr_train" / "mr_train_1010_label.nii.gz", 205, 421)
        label_map(root / "mr_train" / "mr_train_1005_label.nii.gz", 205)
        damaged(root / "mr_train" / "mr_train_1006_image.nii.gz")
        label_map(root / "mr_train" / "mr_train_1006_label.nii.gz", 205)
        return root

    def test_values_become_classes_and_odd_ones_are_refused(self, tmp_path: Path) -> None:
        root = self.layout(tmp_path / "in")
        manifest, rejected, cohort = made("mmwhs", root, tmp_path / "out")
        assert list(manifest.index) == ["mr_train_1002", "mr_train_1013", "mr_test_2001"]
        assert voxels(manifest, "mr_train_1002")["heart"] == {str(i): 64 for i in range(1, 8)}
        assert cohort.info.masks["heart"]["2"] == "left atrium"
        splits = ("split", "split_chaitanya2020", "split_nguyen2023")
        assert labels(manifest, "mr_train_1002", *splits) == ["train", "train", "test"]
        assert labels(manifest, "mr_train_1013", *splits) == ["train", "test", "val"]
        assert labels(manifest, "mr_test_2001", *splits) == ["unlabelled", None, None]
        assert list(manifest.loc["mr_test_2001", "masks"]) == []
        assert "421 (50.00% of the labels)" in rejected.pop("mr_train_1010_image.nii.gz")
        assert rejected.pop("mr_train_1005_label.nii.gz") == "label map without image"
        assert "cut short" in rejected.pop("mr_train_1006_image.nii.gz")
        assert rejected == {}

    def test_the_user_may_say_what_an_odd_value_is(self, tmp_path: Path) -> None:
        root = self.layout(tmp_path / "in")
        for _ in range(2):  # a second call continues: the options are the same after having been written down
            manifest, rejected, _ = made("mmwhs", root, tmp_path / "out", relabel={"421": 420}, test_images=False)
        assert voxels(manifest, "mr_train_1010")["heart"] == {"1": 64, "2": 64}
        assert "mr_train_1010_image.nii.gz" not in rejected
        assert "mr_test_2001" not in manifest.index
        with pytest.raises(RecipeError, match="relabel gives 421"):
            load_recipe("mmwhs", {"relabel": {"420": 421}})

    def test_ct_is_another_cohort(self, tmp_path: Path) -> None:
        manifest, rejected, cohort = made("mmwhs", self.layout(tmp_path / "in"), tmp_path / "out", modality="ct")
        assert list(manifest.index) == ["ct_train_1002"]
        assert rejected == {}
        assert cohort.info.preparation["init_args"]["window"] == [0.0, 1700.0]
        assert "label_split_chaitanya2020" not in manifest
        with pytest.raises(RecipeError, match=r"no ct file.*0 of the other"):
            list(load_recipe("mmwhs", {"modality": "ct"}).find(tmp_path / "out"))


class TestBTCV:
    def test_pairs_by_number(self, tmp_path: Path) -> None:
        root = tmp_path / "RawData"
        for number in (1, 36, 40):
            image(root / "Training" / "img" / f"img{number:04d}.nii.gz", seed=number)
            label_map(root / "Training" / "label" / f"label{number:04d}.nii.gz", 1, 6, 13)
        image(root / "Training" / "img" / "img0002.nii.gz")
        damaged(root / "Training" / "label" / "label0040.nii.gz")
        image(root / "Testing" / "img" / "img0061.nii.gz")
        image(root / "Testing" / "img" / "README.nii.gz")
        manifest, rejected, cohort = made("btcv", root, tmp_path / "out")
        assert list(manifest.index) == ["img0001", "img0036", "img0061"]
        assert list(manifest.patient) == ["0001", "0036", "0061"]
        assert [labels(manifest, r, "split", "split_monai") for r in manifest.index] == [
            ["train", "train"], ["train", "val"], ["unlabelled", None],
        ]  # fmt: skip
        assert voxels(manifest, "img0001")["organs"] == {"1": 64, "6": 64, "13": 64}
        organs = cohort.info.masks["organs"]
        assert (len(organs), organs["6"], organs["13"]) == (13, "liver", "left adrenal gland")
        assert cohort.info.preparation["init_args"]["window"] == [-175.0, 250.0]
        assert rejected["img0002.nii.gz"] == "image without label map"
        assert "label0040.nii.gz" in rejected["img0040.nii.gz"]
        assert set(rejected) == {"img0002.nii.gz", "img0040.nii.gz", "README.nii.gz"}


class TestAMOS:
    def layout(self, root: Path) -> Path:
        for part, number in (("Tr", 1), ("Tr", 500), ("Tr", 507), ("Va", 8), ("Va", 9)):
            image(root / f"images{part}" / f"amos_{number:04d}.nii.gz", seed=number)
            label_map(root / f"labels{part}" / f"amos_{number:04d}.nii.gz", 1, 15)
        image(root / "imagesTs" / "amos_0003.nii.gz")
        damaged(root / "imagesVa" / "amos_0009.nii.gz")
        (root / "labelsTr" / "amos_0500.nii.gz").unlink()
        image(root / "extra" / "amos_5000.nii.gz")
        header = "amos_id,Patient's Sex,Patient's Age,Manufacturer's Model Name,Site,Patient's Birth Date\n"
        (root / "labeled_data_meta_0000_0599.csv").write_text(f"{header}1,M,055Y,Aquilion,SLH,19670101\n507,F,,,,\n")
        return root

    def test_ct_with_parts_and_people(self, tmp_path: Path) -> None:
        manifest, rejected, cohort = made("amos", self.layout(tmp_path / "in"), tmp_path / "out")
        assert list(manifest.index) == ["amos_0001", "amos_0008", "amos_0003"]
        assert [labels(manifest, r, "split", "modality")[0] for r in manifest.index] == ["train", "val", "unlabelled"]
        assert labels(manifest, "amos_0001", "sex", "age") == ["M", 55.0]
        assert (manifest.loc["amos_0001", "site"], manifest.loc["amos_0001", "scanner"]) == ("SLH", "Aquilion")
        assert not [c for c in manifest.columns if "birth" in c.lower()]
        organs = cohort.info.masks["organs"]
        assert (len(organs), organs["1"], organs["15"]) == (15, "spleen", "prostate or uterus")
        assert cohort.info.modality == "ct"
        assert rejected["amos_0500.nii.gz"] == "image without label map"  # 500 is CT
        assert "cut short" in rejected["amos_0009.nii.gz"]
        assert "imagesTr" in rejected["amos_5000.nii.gz"]
        assert len(rejected) == 3

    def test_both_kinds_are_prepared_each_in_its_way(self, tmp_path: Path) -> None:
        manifest, _, cohort = made("amos", self.layout(tmp_path / "in"), tmp_path / "out", modality="both")
        assert labels(manifest, "amos_0507", "modality", "sex") == ["mri", "F"]
        assert manifest.loc["amos_0507", "quality_intensity"] == 2.0
        assert manifest.loc["amos_0001", "quality_intensity"] == 1.0
        assert cohort.info.modality == "ct and mri"
        only, _, _ = made("amos", tmp_path / "in", tmp_path / "mri", modality="mri")
        assert list(only.index) == ["amos_0507"]


class TestProstate:
    def layout(self, root: Path) -> Path:
        for name, channels in (("00", 2), ("29", 2), ("31", 1)):
            shape = (*SHAPE, channels) if channels > 1 else SHAPE
            image(root / "imagesTr" / f"prostate_{name}.nii.gz", shape=shape)
            label_map(root / "labelsTr" / f"prostate_{name}.nii.gz", 1, 2)
        damaged(root / "imagesTr" / "prostate_01.nii.gz")
        label_map(root / "labelsTr" / "prostate_01.nii.gz", 1, 2)
        image(root / "imagesTs" / "prostate_03.nii.gz", shape=(*SHAPE, 2))
        about = {
            "name": "PROSTATE", "modality": {"0": "T2", "1": "ADC"}, "tensorImageSize": "4D",
            "labels": {"0": "background", "1": "PZ", "2": "TZ"},
            "training": [{"image": f"./imagesTr/prostate_{n}.nii.gz"} for n in ("00", "01", "29", "31")],
        }  # fmt: skip
        (root / "dataset.json").write_text(json.dumps(about))
        return root

    def test_sequences_have_the_names_of_dataset_json(self, tmp_path: Path) -> None:
        manifest, rejected, cohort = made("msd", self.layout(tmp_path / "in"), tmp_path / "out")
        assert cohort.info.channels == ("T2", "ADC")
        assert cohort.info.masks == {"labels": {"1": "PZ", "2": "TZ"}}
        assert labels(manifest, "prostate_00", "split_chaitanya2020") == ["train"]
        assert labels(manifest, "prostate_29", "split_chaitanya2020") == ["test"]
        assert labels(manifest, "prostate_03", "split_chaitanya2020") == [None]
        assert list(manifest.loc["prostate_31", "channels"]) == ["image"]
        assert "cut short" in rejected["prostate_01.nii.gz"]

    def test_one_sequence_can_be_chosen(self, tmp_path: Path) -> None:
        root = self.layout(tmp_path / "in")
        _, rejected, cohort = made("msd", root, tmp_path / "out", sequences=["ADC"])
        assert cohort.info.channels == ("ADC",)
        assert "1 sequences, dataset.json names 2" in rejected["prostate_31.nii.gz"]
        raw = nib.load(root / "imagesTr" / "prostate_00.nii.gz").get_fdata()[..., 1]
        stored = network_input(cohort, "prostate_00")
        assert np.corrcoef(raw.transpose(2, 1, 0).ravel(), stored.ravel())[0, 1] > 0.98
        with pytest.raises(RecipeError, match="unknown sequence 'T1'"):
            list(load_recipe("msd", {"sequences": ["T1"]}).find(root))


class TestBIDSMasks:
    def test_masks_are_told_apart_by_the_end_of_their_names(self, tmp_path: Path) -> None:
        for sub in ("01", "02"):
            image(tmp_path / f"sub-{sub}" / "anat" / f"sub-{sub}_T1w.nii.gz")
        below = tmp_path / "derivatives" / "masks" / "sub-01" / "anat"
        label_map(below / "sub-01_desc-brain_mask.nii.gz", 1)
        label_map(below / "sub-01_desc-lesion_mask.nii.gz", 1, 1)
        image_of = {m: {i.ids.patient: i for i in load_recipe("bids", {"mask": m}).find(tmp_path)
                        if hasattr(i, "ids")} for m in ("desc-brain_mask", "mask")}  # fmt: skip
        assert image_of["desc-brain_mask"]["sub-01"].masks == {
            "desc-brain_mask": below / "sub-01_desc-brain_mask.nii.gz"
        }
        assert list(image_of["mask"]) == ["sub-02"]  # which of the two is meant, nobody knows
        (refused,) = [f for f in load_recipe("bids", {"mask": "mask"}).find(tmp_path) if not hasattr(f, "ids")]
        assert "2 label maps end in mask: sub-01_desc-brain_mask.nii.gz and" in refused.reason


class TestOpenMind:
    COLUMNS = ("image_path", "modality", "anat_mask_path", "anon_mask_path", "image_quality_score", "age", "sex",
               "handedness", "health_status", "manufacturer", "model_name")  # fmt: skip

    def layout(self, root: Path) -> Path:
        rows = []
        for sub, suffix, score, there in (
            ("01", "T1w", "1.5", True), ("01", "T2w", "2", True), ("02", "T1w", "4.5", True), ("03", "T1w", "", False),
            ("04", "T1w", "1", True),
        ):  # fmt: skip
            place = f"ds000001/sub-{sub}/ses-a/anat/sub-{sub}_ses-a_{suffix}"
            masks = [f"{place}__Data/{name}.nii.gz" for name in ("fb_mask", "deface_mask")]
            if there:
                image(root / "OpenMind" / f"{place}.nii.gz", seed=int(sub))
                label_map(root / "OpenMind" / masks[0], 1, 1, 1)
            cells = (f"{place}.nii.gz", suffix, *masks, score, "34", "F", "", "healthy", "Siemens", "Prisma")
            rows.append(dict(zip(self.COLUMNS, cells, strict=True)))
        damaged(root / "OpenMind" / rows[4]["image_path"])
        label_map(root / "OpenMind" / rows[0]["anon_mask_path"], 0, 1)
        rows.append({**rows[0], "image_path": "ds999999/sub-01/anat/sub-01_T1w.nii.gz"})  # not downloaded
        pd.DataFrame(rows).to_csv(root / "openneuro_metadata.csv", index=False)
        return root

    def test_rows_of_the_data_sets_that_are_there(self, tmp_path: Path) -> None:
        manifest, rejected, _ = made("openmind", self.layout(tmp_path / "in"), tmp_path / "out")
        first = "ds000001/sub-01/ses-a/anat/sub-01_ses-a_T1w"
        assert list(manifest.index) == [first, first.replace("sub-01", "sub-02")]
        assert list(manifest.patient) == ["ds000001_sub-01", "ds000001_sub-02"]
        assert set(manifest.session) == {"ses-a"}
        assert set(manifest.site) == {"ds000001"}
        assert manifest.loc[first, "scanner"] == "Siemens Prisma"
        known = ("sequence", "quality_score", "age", "sex", "handedness", "health_status")
        assert labels(manifest, first, *known) == ["T1w", 1.5, 34.0, "F", None, "healthy"]
        assert voxels(manifest, first) == {"anatomy": {"1": 192}, "anonymised": {"1": 64}}
        assert "not there" in rejected.pop("sub-03_ses-a_T1w.nii.gz")
        assert "cut short" in rejected.pop("sub-04_ses-a_T1w.nii.gz")
        assert rejected == {}

    def test_by_sequence_and_quality(self, tmp_path: Path) -> None:
        root = self.layout(tmp_path / "in")
        manifest, rejected, _ = made(
            "openmind", root, tmp_path / "out", sequences=[], max_quality_score=3.0, labels=["age"], masks=False
        )
        assert sorted(manifest["label_sequence"]) == ["T1w", "T2w"]
        assert not any(len(masks) for masks in manifest.masks)
        assert "label_sex" not in manifest
        assert rejected["sub-02_ses-a_T1w.nii.gz"] == "its quality score is 4.5, max_quality_score 3"
        with pytest.raises(RecipeError, match="no column 'weight'"):
            list(load_recipe("openmind", {"labels": ["weight"]}).find(root))
        with pytest.raises(RecipeError, match="of a data set in"):
            list(load_recipe("openmind", {"sequences": ["SWI"]}).find(root))


class TestMedMNIST3D:
    def file(self, path: Path, **changes: Any) -> Path:
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for split, count in (("train", 4), ("val", 2), ("test", 3)):
            arrays[f"{split}_images"] = (rng.random((count, *SHAPE)) < 0.3).astype(np.uint8) * 255
            arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
        arrays["train_images"][2] = 0
        arrays |= changes
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
        return path

    def test_every_cube_with_its_class_and_the_released_split(self, tmp_path: Path) -> None:
        file = self.file(tmp_path / "in" / "adrenalmnist3d_64.npz")
        manifest, rejected, cohort = made("medmnist3d", file, tmp_path / "out", spacing_mm=None)
        assert list(manifest.index) == [
            *("train-0000", "train-0001", "train-0003", "val-0000", "val-0001"),
            *("test-0000", "test-0001", "test-0002"),
        ]
        assert labels(manifest, "train-0001", "class", "split") == ["hyperplasia", "train"]
        assert labels(manifest, "test-0002", "class", "split") == ["normal", "test"]
        assert rejected == {file.name: "all voxels of train-0002 are 0"}
        with np.load(file) as arrays:
            for split, index in (("test", 1), ("train", 0), ("val", 1)):
                stored = network_input(cohort, f"{split}-{index:04d}")[0]
                np.testing.assert_allclose(stored, arrays[f"{split}_images"][index] / 255, atol=1e-6)
        assert manifest.loc["train-0000", "source_sha256"] != manifest.loc["train-0001", "source_sha256"]

    def test_a_folder_will_do_and_an_unknown_set_keeps_its_numbers(self, tmp_path: Path) -> None:
        self.file(tmp_path / "in" / "othermnist3d.npz")
        manifest, _, _ = made("medmnist3d", tmp_path / "in", tmp_path / "out", spacing_mm=None)
        assert set(manifest["label_class"]) == {"0", "1"}
        self.file(tmp_path / "in" / "second.npz")
        with pytest.raises(RecipeError, match=r"2 files \.npz"):
            list(load_recipe("medmnist3d").find(tmp_path / "in"))

    def test_parts_that_do_not_fit_are_rejected(self, tmp_path: Path) -> None:
        changes = {
            "train_labels": np.zeros((5, 1), np.uint8), "val_images": None,
        }  # fmt: skip
        file = self.file(tmp_path / "adrenalmnist3d.npz", **changes)
        manifest, rejected, _ = made("medmnist3d", file, tmp_path / "out", spacing_mm=None)
        assert set(manifest["label_split"]) == {"test"}
        assert rejected[f"{file.name}:train_images"] == "4 images, but 5 labels"
        assert "val_images" in rejected[f"{file.name}:val_images"]

    @pytest.mark.parametrize("fault", ["cut", "noise", "other", "pickle"])
    def test_a_damaged_file_is_a_clear_error(self, tmp_path: Path, fault: str) -> None:
        file = self.file(tmp_path / "adrenalmnist3d.npz")
        content = file.read_bytes()
        if fault == "other":
            np.savez(file, x=np.zeros(3))
        elif fault == "pickle":
            np.savez(file, train_labels=np.array([{}, {}], dtype=object), train_images=np.zeros((2, *SHAPE)))
        else:
            file.write_bytes(content[: len(content) // 2] if fault == "cut" else b"\x00noise" * 50)
        with pytest.raises(RecipeError, match=str(file)):
            list(load_recipe("medmnist3d").find(file))

    def test_damage_that_only_a_checksum_tells_rejects_that_part(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (4, *SHAPE), dtype=np.uint8)  # stored, not compressed
        file = self.file(tmp_path / "adrenalmnist3d.npz", train_images=noise)
        content = bytearray(file.read_bytes())
        content[1000] ^= 0xFF
        file.write_bytes(bytes(content))
        manifest, rejected, _ = made("medmnist3d", file, tmp_path / "out", spacing_mm=None)
        assert set(manifest["label_split"]) == {"val", "test"}
        assert "CRC" in rejected[f"{file.name}:train_images"]


class TestSunnybrook:
    def slices(self, root: Path, patient: str, phase: int, places: range, *, value: int = 255) -> None:
        import SimpleITK

        rng = np.random.default_rng(phase)
        for place in places:
            name = f"{patient}-IM-0001-{place * 20 + phase:04d}.dcm.png"
            grey = rng.integers(1, 255, (8, 6, 1)).astype(np.uint8)
            area = np.zeros((8, 6), np.uint8)
            area[: 1 + place] = value
            for folder, pixels in (("images", np.repeat(grey, 3, axis=2)), ("labels", area)):
                (root / folder / patient).mkdir(parents=True, exist_ok=True)
                picture = SimpleITK.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
                SimpleITK.WriteImage(picture, str(root / folder / patient / name))

    def test_slices_become_stacks_of_one_phase(self, tmp_path: Path) -> None:
        root = tmp_path / "in"
        self.slices(root, "SC-N-02", 20, range(1, 4))
        self.slices(root, "SC-N-02", 8, range(2, 4))
        self.slices(root, "SC-HF-I-01", 19, range(3))
        self.slices(root, "SC-HF-I-01", 8, range(3))
        (root / "images" / "SC-HF-I-01" / "SC-HF-I-01-IM-0001-0028.dcm.png").unlink()  # slice 1 of phase 8
        self.slices(root, "SC-HYP-01", 5, range(2))
        (root / "labels" / "SC-HYP-01" / "SC-HYP-01-IM-0001-0005.dcm.png").unlink()
        self.slices(root, "SC-HF-NI-33", 7, range(2), value=128)
        damaged_png = root / "images" / "SC-HF-NI-36" / "SC-HF-NI-36-IM-0001-0007.dcm.png"
        self.slices(root, "SC-HF-NI-36", 7, range(2))
        damaged_png.write_bytes(damaged_png.read_bytes()[:-20])
        (root / "slices.tsv").write_text(
            "image\tframe\nimages/SC-N-02/SC-N-02-IM-0001-0040.dcm.png\tED\n"
            "images/SC-N-02/SC-N-02-IM-0001-0048.dcm.png\tES\n"
        )
        manifest, rejected, cohort = made("sunnybrook", root, tmp_path / "out", spacing_mm=None)
        assert list(manifest.index) == ["SC-HF-I-01_phase19", "SC-N-02_phase20", "SC-N-02_phase08"]
        assert labels(manifest, "SC-N-02_phase20", "phase", "group") == ["ED", "healthy"]
        assert labels(manifest, "SC-N-02_phase08", "phase") == ["ES"]
        assert labels(manifest, "SC-HF-I-01_phase19", "phase", "group") == [None, "heart failure with infarction"]
        assert list(manifest.loc["SC-N-02_phase20", "shape"]) == [3, 8, 6]
        assert list(manifest.loc["SC-N-02_phase20", "spacing_mm"]) == [8.0, 1.25, 1.25]
        notes = " ".join(manifest.loc["SC-N-02_phase20", "notes"])
        assert "three equal channels" in notes and "8 x 1.25 x 1.25 mm" in notes
        mask = cohort.reader(1).read_all("mask:lv")[0]
        assert [int(plane.sum()) for plane in mask] == [12, 18, 24]  # in the order of the slices
        assert "slice 1 between slices 0 and 2 is missing" in rejected["SC-HF-I-01-IM-0001-0008.dcm.png"]
        assert rejected["SC-HF-I-01-IM-0001-0028.dcm.png"] == "label without image"
        assert "1 of 2 slices have no label" in rejected["SC-HYP-01-IM-0001-0005.dcm.png"]
        assert "128, which is neither 0 nor 255" in rejected["SC-HF-NI-33"]
        assert "damaged" in rejected[damaged_png.name]
        assert len(rejected) == 5

    def test_stacks_without_labels_can_be_taken(self, tmp_path: Path) -> None:
        root = tmp_path / "in"
        self.slices(root, "SC-N-02", 20, range(2))
        for file in (root / "labels").rglob("*.png"):
            file.unlink()
        with pytest.raises(CohortError, match="2 of 2 slices have no label"):
            made("sunnybrook", root, tmp_path / "none", spacing_mm=None)
        manifest, _, _ = made("sunnybrook", root, tmp_path / "out", spacing_mm=None, require_labels=False)
        assert list(manifest.loc["SC-N-02_phase20", "masks"]) == []
