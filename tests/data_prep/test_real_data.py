"""The recipes of published data sets, on parts of those data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medssl.adapters.recording import Rejected
from medssl.cohort.recipe import Item, load_recipe


def find(name: str, source: Path, **options):
    recipe = load_recipe(name, options)
    found = list(recipe.find(source))
    items = {f.ids.recording: f for f in found if isinstance(f, Item)}
    return recipe, items, {Path(f.source).name: f.reason for f in found if isinstance(f, Rejected)}


def test_all_200_hippocampi_are_taken_and_every_orphan_is_named(shared_data):
    recipe, items, rejected = find("msd", shared_data / "msd_task04_hippocampus")
    assert len(items) == 200
    assert all(item.masks for item in items.values())
    assert recipe.mask_labels == {"labels": {1: "Anterior", 2: "Posterior"}}
    assert len(rejected) == 3
    assert rejected["hippocampus_118.nii.gz"].startswith("image without label")
    assert "a copy of the label of hippocampus_011" in rejected["hippocampus_010.nii.gz"]
    assert "512x512x94 at 0.734x0.734x5 mm" in rejected["hippocampus_281.nii.gz"]


def test_the_orphans_alone_are_three_rejections(shared_data):
    _, items, rejected = find("msd", shared_data / "msd_task04_hippocampus" / "orphans")
    assert items == {}
    assert len(rejected) == 3


def test_intensities_on_wildly_different_scales_prepare_alike(shared_data):
    recipe, items, _ = find("msd", shared_data / "msd_task04_hippocampus")
    prepare = recipe.preparation()
    brightest, means = [], []
    for item in list(items.values())[::8]:
        (recording,) = recipe.read(item).recordings
        prepared = prepare(recording)
        network = (prepared.image * prepared.input_scale + prepared.input_offset).clip(0, 1)
        assert set(prepared.mask_foreground["labels"]) == {1, 2}
        brightest.append(float(recording.data.max()))
        means.append(float(network.mean()))
    assert max(brightest) / min(brightest) > 1000
    assert 0.15 < min(means) < max(means) < 0.75


def test_ixi_is_turned_upright_with_merged_structures(shared_data):
    recipe, items, rejected = find("ixi", shared_data / "ixi_t1_2mm", regions=True)
    assert (len(items), rejected) == (40, {})
    item = items["IXI014-HH-1236"]
    assert item.labels == {"age": 34.24, "sex": "F"}
    (recording,) = recipe.read(item).recordings
    prepared = recipe.preparation()(recording)
    assert prepared.spacing_mm == (2.0, 2.0, 2.0)
    assert [int(np.abs(prepared.affine[:3, i]).argmax()) for i in range(3)] == [2, 1, 0]
    assert set(prepared.mask_foreground["structures"]) == set(range(1, 13))
    assert set(recipe.mask_labels["structures"]) == set(range(1, 13))
    centre = {value: xyz.mean(axis=0) for value, xyz in prepared.mask_foreground["structures"].items()}
    assert centre[11][0] < centre[4][0] < centre[1][0]  # brain stem below thalamus below cortex
    assert centre[9][1] < centre[4][1]  # cerebellum behind the thalamus
    regions = {value: xyz.mean(axis=0) for value, xyz in prepared.mask_foreground["regions"].items()}
    assert regions[47][2] > regions[48][2]  # the right hippocampus has the larger x
    ventricles = (prepared.masks["structures"] == 7).sum() * 0.008  # ml; the table has 8.6 without the inferior horns
    assert 8.0 < ventricles < 12.0


def test_mitbih_knows_its_patients_leads_and_beats(shared_data):
    recipe, items, rejected = find("mitbih", shared_data / "ecg_mitbih_excerpt")
    assert (len(items), rejected) == (36, {})
    assert len({item.ids.patient for item in items.values()}) == 35
    assert items["201"].ids.patient == items["202"].ids.patient
    counts = dict.fromkeys("NSVFQ", 0)
    for name in ("100", "102", "114", "208", "232"):
        (recording,) = recipe.read(items[name]).recordings
        for event in recording.events:
            if event.kind == "aami":
                counts[event.value] += 1
    # the sums of records.csv over these five
    assert counts == {"N": 754 + 98 + 518 + 510 + 150, "S": 6 + 1 + 452, "V": 2 + 34 + 366, "F": 3 + 137, "Q": 629}


def test_the_swapped_leads_of_record_114_come_out_right(shared_data):
    recipe, items, _ = find("mitbih", shared_data / "ecg_mitbih_excerpt")
    (recording,) = recipe.read(items["114"]).recordings
    assert recording.channels == ("V", "MLII")
    prepared = recipe.preparation()(recording)
    assert prepared.channels == ("MLII", "V")
    ours = prepared.image[0] * prepared.scale[0]
    beats = [e.onset_s for e in prepared.events if e.kind == "aami"]
    around = np.concatenate([t + np.arange(-0.05, 0.05, 0.01) for t in beats[10:400]])
    mine = ours[np.rint(around * 250).astype(int)]
    chest, limb = recording.data[:, np.rint(around * 360).astype(int)]
    assert np.corrcoef(mine, limb)[0, 1] > 0.8
    assert abs(np.corrcoef(mine, chest)[0, 1]) < 0.6
    assert any("chest lead V is V5" in note for note in prepared.notes)


def test_paced_records_can_be_left_out(shared_data):
    _, items, rejected = find("mitbih", shared_data / "ecg_mitbih_excerpt", drop_paced=True)
    assert len(items) == 33
    assert set(rejected) == {"102.hea", "104.hea", "107.hea"}


def test_a_record_without_mlii_is_stored_with_zeros_and_says_so(shared_data):
    recipe, items, _ = find("mitbih", shared_data / "ecg_mitbih_excerpt")
    prepared = recipe.preparation()(recipe.read(items["102"]).recordings[0])
    assert not prepared.image[0].any()
    assert prepared.image[1].any()
    assert any("MLII <- 0 (missing)" in note for note in prepared.notes)


def test_cpsc_has_twelve_leads_and_several_labels(shared_data):
    recipe, items, rejected = find("cpsc2018", shared_data / "ecg_cpsc2018_12lead")
    assert (len(items), rejected) == (73, {})
    assert sum(len(item.labels["dx"]) == 2 for item in items.values()) == 3
    (recording,) = recipe.read(items["A0001"]).recordings
    prepared = recipe.preparation()(recording)
    assert prepared.image.shape == (12, 3750)
    assert prepared.channels[:4] == ("I", "II", "III", "aVR")
    assert recording.labels["dx"] == ["RBBB"]
    volts = prepared.image * prepared.scale[:, None]
    inner = volts[:, 250:-250]
    np.testing.assert_allclose(inner[0] + inner[2], inner[1], atol=0.02)  # Einthoven: I + III = II


def test_diagnoses_come_from_the_header_where_there_is_no_table(shared_data, tmp_path):
    for suffix in (".hea", ".mat"):
        source = shared_data / "ecg_cpsc2018_12lead" / "records" / f"A0003{suffix}"
        (tmp_path / source.name).write_bytes(source.read_bytes())
    header = tmp_path / "A0003.hea"
    header.write_text(header.read_text().replace("#Dx: AF", "#Dx: 164889003,59118001"))
    recipe, items, _ = find("cpsc2018", tmp_path)
    (recording,) = recipe.read(items["A0003"]).recordings
    assert recording.labels["dx"] == ["AF", "RBBB"]
    assert recording.labels["age"] == 81.0


def test_a_dicom_tree_is_sorted_into_series(shared_data):
    recipe, items, rejected = find("dicom", shared_data / "dicom_zoo", patient="folder")
    assert len(items) >= 10
    assert rejected["README.md"] == "it is not a DICOM file"
    assert all(isinstance(item.path, tuple) and item.ids.patient for item in items.values())
    assert any("modality" in reason for reason in rejected.values())  # ultrasound, segmentations
    ct, _, _ = find("dicom", shared_data / "dicom_zoo", patient="folder", modalities=["CT"])
    assert ct.modality == "ct"
    assert recipe.modality == "dicom"
    one = next(iter(items.values()))
    read = recipe.read(one)
    assert read.recordings
    assert all(r.ids.patient == one.ids.patient for r in read.recordings)


@pytest.mark.parametrize("by", ["id", "study"])
def test_dicom_patients_come_from_the_header(shared_data, by):
    _, items, rejected = find("dicom", shared_data / "dicom_zoo", patient=by)
    assert items
    if by == "study":
        assert len(items) >= len([r for r in rejected.values() if "whose it is" in r])


def test_the_merged_structures_of_ixi_cover_every_named_region_once(shared_data):
    recipe, items, _ = find("ixi", shared_data / "ixi_t1_2mm", regions=True)
    (recording,) = recipe.read(items["IXI014-HH-1236"]).recordings
    merged, regions = recording.labels["structures"], recording.labels["regions"]
    pairs = {int(r): set(np.unique(merged[regions == r]).tolist()) for r in np.unique(regions)}
    assert all(len(into) == 1 for into in pairs.values())
    assert {r for r, into in pairs.items() if into == {0}} == {0, 46, 69}  # background, and two that nobody named
    assert len(pairs) == 149
    assert recording.labels["age"] == 34.24


def test_adrenal_glands_keep_their_classes_and_the_released_split(shared_data):
    recipe, items, rejected = find("medmnist3d", shared_data / "adrenalmnist3d")
    assert rejected == {}
    counts = {
        s: [i.labels["class"] for i in items.values() if i.labels["split"] == s] for s in ("train", "val", "test")
    }
    assert {s: len(names) for s, names in counts.items()} == {"train": 1188, "val": 98, "test": 148}
    assert 0.7 < counts["train"].count("normal") / 1188 < 0.85
    with np.load(shared_data / "adrenalmnist3d" / "adrenalmnist3d_64.npz", allow_pickle=False) as arrays:
        expected, labels = arrays["val_images"], arrays["val_labels"]
    for index in (0, 97, 3):  # forward, and back again
        (recording,) = recipe.read(items[f"val-{index:04d}"]).recordings
        np.testing.assert_array_equal(recording.data, expected[index])
        assert recording.labels["class"] == ("normal", "hyperplasia")[int(labels[index, 0])]
        prepared = recipe.preparation()(recording)
        network = prepared.image * prepared.input_scale + prepared.input_offset
        assert set(np.unique(network).tolist()) == {0.0, 1.0}


def test_sunnybrook_slices_become_two_stacks_a_patient(shared_data):
    source = shared_data / "sunnybrook_cmr_png"
    recipe, items, rejected = find("sunnybrook", source)
    assert (len(items), rejected) == (16, {})
    assert len({item.ids.patient for item in items.values()}) == 8
    area: dict[tuple[str, str], float] = {}
    for item in items.values():
        (recording,) = recipe.read(item).recordings
        assert recording.data.shape[1:] == (256, 256)
        area[item.ids.patient, item.labels["phase"]] = float(recording.labels["lv"].sum()) / len(recording.data)
    for patient in {p for p, _ in area}:
        assert area[patient, "ED"] > area[patient, "ES"]  # the heart is full, then empty
    table = pd.read_csv(source / "slices.tsv", sep="\t")
    shape = recipe.read(items["SC-HF-NI-33_phase20"]).recordings[0]
    rows = table[(table.patient == "SC-HF-NI-33") & (table.phase == 20)].sort_values("slice")
    np.testing.assert_array_equal(shape.labels["lv"].sum(axis=(1, 2)), rows.lv_area_px)
