"""Recipes of ultrasound video: on files in the layout of the data sets, with their peculiarities."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl.adapters.echo_tracing import disc_volume, ejection_fraction
from medssl.adapters.recording import Read, Recording, Rejected
from medssl.cohort.recipe import Item, Recipe, load_recipe
from medssl.cohort.videos import TRACE
from medssl.errors import RecipeError
from medssl.synth.echo import SyntheticEcho, draw_echo_patient, simulate_echo
from medssl.synth.echo_files import trace_rows, write_echo_avi, write_echo_dicom, write_echonet

T = 30


def find(name: str, source: Path, **options: Any) -> tuple[Recipe, dict[str, Item], dict[str, str]]:
    recipe = load_recipe(name, options)
    found = list(recipe.find(source))
    items = {f.ids.recording: f for f in found if isinstance(f, Item)}
    return recipe, items, {Path(f.source).name: f.reason for f in found if isinstance(f, Rejected)}


def one(read: Read) -> Recording:
    assert not read.rejected, read.rejected
    (recording,) = read.recordings
    return recording


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t" if file.suffix == ".tsv" else ","))


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def truth(number: int, seed: int = 0) -> SyntheticEcho:
    """What ``write_echonet`` wrote as patient ``number``."""
    rng = np.random.default_rng([seed, number])
    return simulate_echo(rng, draw_echo_patient(rng), frames=T, burnt_in=False)


# ------------------------------------------------------------------------------------------------ EchoNet-Dynamic
@pytest.fixture
def echonet(tmp_path: Path) -> Path:
    return write_echonet(tmp_path / "echonet", patients=4, frames=T)


def name(number: int) -> str:
    return f"0X{number + 1:016X}"


def test_labels_splits_and_both_traced_frames(echonet: Path) -> None:
    recipe, items, rejected = find("echonet_dynamic", echonet)
    assert (list(items), rejected) == ([name(i) for i in range(4)], {})
    assert [item.labels["split"] for item in items.values()] == ["train", "train", "val", "test"]
    for number, item in enumerate(items.values()):
        echo, recording = truth(number), one(recipe.read(item))
        assert recording.labels["ef"] == pytest.approx(echo.patient.ef, abs=1e-5)
        assert recording.labels["edv"] == pytest.approx(echo.patient.edv_ml, abs=1e-5)
        mask = recording.labels["lv"]
        assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == sorted({echo.es_frame, echo.ed_frame})
        for event in recording.events:
            frame = {"ED": echo.ed_frame, "ES": echo.es_frame}[event.value]
            assert (event.kind, event.onset_s) == (TRACE, pytest.approx(frame / 50))
            drawn, real = mask[frame] > 0, echo.lv[frame]
            assert 2 * (drawn & real).sum() / (drawn.sum() + real.sum()) > 0.96


def test_the_ejection_fraction_from_the_traces_is_that_of_the_phantom(echonet: Path) -> None:
    _, items, _ = find("echonet_dynamic", echonet)
    for number, item in enumerate(items.values()):
        mm = truth(number).spacing_mm[0]
        volumes = [disc_volume(rows, mm / 10) for _, rows in item.tracings]  # type: ignore[attr-defined]
        echo = truth(number)
        lowest, highest = (disc_volume(trace_rows(echo, f), mm / 10) for f in (echo.es_frame, echo.ed_frame))
        assert ejection_fraction(*volumes) == pytest.approx(ejection_fraction(lowest, highest), abs=0.1)


def test_which_frame_is_which_is_told_by_the_area_not_by_the_order(echonet: Path) -> None:
    rows = table(echonet / "VolumeTracings.csv")
    write(echonet / "VolumeTracings.csv", sorted(rows, key=lambda r: -int(r["Frame"])))
    recipe, items, _ = find("echonet_dynamic", echonet)
    recording = one(recipe.read(items[name(0)]))
    areas = {e.value: recording.labels["lv"][round(e.onset_s * 50)].sum() for e in recording.events}
    assert areas["ED"] > areas["ES"]


def test_a_frame_past_the_end_is_the_last_one_with_a_note(echonet: Path) -> None:
    rows, echo = table(echonet / "VolumeTracings.csv"), truth(0)
    for row in rows:
        if row["FileName"].startswith(name(0)) and int(row["Frame"]) == echo.ed_frame:
            row["Frame"] = str(T)  # equal to NumberOfFrames, as in rare files
    write(echonet / "VolumeTracings.csv", rows)
    recipe, items, _ = find("echonet_dynamic", echonet)
    recording = one(recipe.read(items[name(0)]))
    assert recording.labels["lv"][T - 1].any()
    assert f"traced frame {T} lies outside the {T} frames: taken as frame {T - 1}" in recording.notes


def test_a_clip_without_tracing_has_no_mask_or_is_left_out(echonet: Path) -> None:
    rows = [r for r in table(echonet / "VolumeTracings.csv") if not r["FileName"].startswith(name(2))]
    write(echonet / "VolumeTracings.csv", rows)
    recipe, items, _ = find("echonet_dynamic", echonet)
    recording = one(recipe.read(items[name(2)]))
    assert "lv" not in recording.labels and not recording.events
    _, items, rejected = find("echonet_dynamic", echonet, require_traces=True)
    assert name(2) not in items
    assert "no tracing" in rejected[f"{name(2)}.avi"]


def test_missing_and_surplus_clips_are_named(echonet: Path) -> None:
    (echonet / "Videos" / f"{name(1)}.avi").rename(echonet / "Videos" / "other.avi")
    _, items, rejected = find("echonet_dynamic", echonet)
    assert len(items) == 3
    assert "missing" in rejected[f"{name(1)}.avi"]
    assert "not listed" in rejected["other.avi"]


def test_tables_that_disagree_with_the_clip_are_noted(echonet: Path) -> None:
    rows = table(echonet / "FileList.csv")
    rows[0]["NumberOfFrames"], rows[0]["FPS"] = "99", "30"
    write(echonet / "FileList.csv", rows)
    recipe, items, _ = find("echonet_dynamic", echonet)
    recording = one(recipe.read(items[name(0)]))
    assert recording.rate_hz == 30.0
    assert f"the table states 99 frames, {T} could be decoded" in recording.notes
    assert any("30 frames a second as declared; the file says 50" in note for note in recording.notes)
    assert [e.onset_s * 30 for e in recording.events] == pytest.approx(sorted([truth(0).es_frame, truth(0).ed_frame]))


def test_a_table_without_its_columns_is_refused(echonet: Path) -> None:
    write(echonet / "FileList.csv", [{"FileName": name(0), "EF": 50}])
    with pytest.raises(RecipeError, match="no column EDV, ESV, Split"):
        find("echonet_dynamic", echonet)


# ------------------------------------------------------------------------------------------------ POCUS
@pytest.fixture
def pocus(tmp_path: Path) -> Path:
    (tmp_path / "videos" / "convex").mkdir(parents=True)
    rows = []
    for number, (label, note) in enumerate([("covid", ""), ("regular", ""), ("viral_pneumonia", "label uncertain")]):
        file = f"videos/convex/clip{number}.avi"
        write_echo_avi(tmp_path / file, truth(number).frames, 22.249)
        rows.append(
            {"file": file, "label": label, "group": f"p{number // 2}", "probe": "convex", "sex": "", "age": "61"}
        )
        rows[-1] |= {"lung_severity_score": "2" if number == 0 else "", "label_note": note}
    rows.append({**rows[0], "file": "videos/convex/gone.mp4"})
    write(tmp_path / "labels.tsv", rows)
    write_echo_avi(tmp_path / "videos" / "surplus.avi", truth(0).frames[:2], 25)
    return tmp_path


def test_the_patient_is_the_group_and_an_uncertain_label_is_unknown(pocus: Path) -> None:
    recipe, items, rejected = find("pocus", pocus)
    assert {r: i.ids.patient for r, i in items.items()} == {"clip0": "p0", "clip1": "p0", "clip2": "p1"}
    assert [i.labels["diagnosis"] for i in items.values()] == ["covid", "regular", None]
    assert items["clip0"].labels["severity"] == 2.0 and items["clip1"].labels["severity"] is None
    assert rejected == {"gone.mp4": "listed in labels.tsv but missing", "surplus.avi": "not listed in labels.tsv"}
    recording = one(recipe.read(items["clip0"]))
    assert recording.data.shape == (T, 112, 112)
    assert recording.rate_hz == pytest.approx(22.249, rel=1e-3)
    prepared = recipe.preparation()(recording)
    assert (prepared.rate_hz, prepared.image.shape[2:]) == (20.0, (112, 112))


def test_one_probe_alone(pocus: Path) -> None:
    assert find("pocus", pocus, probe="linear")[1] == {}
    with pytest.raises(RecipeError, match="use all, convex or linear"):
        find("pocus", pocus, probe="round")


def test_all_68_clips_of_35_groups_have_the_stated_frames_size_and_rate(shared_data: Path) -> None:
    folder = shared_data / "pocus_lung_us"
    recipe, items, rejected = find("pocus", folder)
    rows = {Path(r["file"]).stem: r for r in table(folder / "labels.tsv")}
    assert (len(items), rejected) == (68, {})
    assert len({i.ids.patient for i in items.values()}) == 35
    assert sum(i.labels["diagnosis"] is None for i in items.values()) == 1
    formats = {}
    for key, item in items.items():
        row = rows[key]
        if formats.setdefault((row["codec"], row["pix_fmt"]), key) != key:
            continue  # one of every kind of stream; the others take long
        recording = one(recipe.read(item))
        assert recording.data.shape == (int(row["frames"]), int(row["height"]), int(row["width"]))
        assert recording.rate_hz == pytest.approx(float(row["fps"]), rel=0.01)
        assert recipe.preparation()(recording).image.shape[0] == 1
    assert len(formats) == 5


# ------------------------------------------------------------------------------------------------ files of one's own
def test_clips_of_ones_own_are_read_by_the_folder_recipe(tmp_path: Path) -> None:
    write_echo_avi(tmp_path / "p1_rest.avi", truth(0).frames, 25)
    write_echo_dicom(tmp_path / "p2_rest.dcm", truth(1).frames, 50, syntax="jpeg")
    (tmp_path / "notes.txt").write_text("no clip")
    pattern = r"(?P<patient>p\d)_(?P<label_state>\w+)\.\w+"
    recipe, items, rejected = find("folder", tmp_path, kind="video", modality="us", pattern=pattern)
    assert ([i.ids.patient for i in items.values()], rejected) == (["p1", "p2"], {})
    assert {i.labels["state"] for i in items.values()} == {"rest"}
    assert [one(recipe.read(i)).rate_hz for i in items.values()] == pytest.approx([25, 50])
    assert recipe.preparation()(one(recipe.read(items["p1"]))).axes == "ctyx"
    with pytest.raises(RecipeError, match="recipes of their own"):
        load_recipe("folder", {"kind": "video", "masks": {"lv": "{patient}.nii"}})


def test_clips_that_a_table_names(tmp_path: Path) -> None:
    write_echo_avi(tmp_path / "a.avi", truth(0).frames, 25)
    write_echo_dicom(tmp_path / "b", truth(1).frames, 50)  # DICOM without suffix
    for number, frame in enumerate(truth(1).frames[:3]):
        png(tmp_path / "frames" / f"{number}.png", frame)
    rows = [{"path": "a.avi", "patient": "p1", "label_ef": "55", "rate_hz": ""}]
    rows += [{"path": "b", "patient": "p2", "label_ef": "", "rate_hz": ""}]
    rows += [{"path": "frames", "patient": "p2", "label_ef": "", "rate_hz": "12"}]
    write(tmp_path / "clips.csv", [*rows, {**rows[0], "path": "gone.avi"}])
    recipe, items, rejected = find("table", tmp_path / "clips.csv", kind="video", modality="us")
    assert "no such file (line 5 of clips.csv)" in rejected["gone.avi"]
    clips = [one(recipe.read(item)) for item in items.values()]
    assert [(len(c.data), c.labels["ef"]) for c in clips] == [(T, 55.0), (T, None), (3, None)]
    assert [c.rate_hz for c in clips] == pytest.approx([25, 50, 12])
    assert recipe.preparation()(clips[0]).axes == "ctyx"
    write(tmp_path / "clips.csv", [{**rows[0], "mask_lv": "lv.nii.gz"}])
    with pytest.raises(RecipeError, match="masks of clips are read by recipes of their own"):
        find("table", tmp_path / "clips.csv", kind="video")


def test_clips_of_a_dicom_tree(tmp_path: Path) -> None:
    import pydicom

    (tmp_path / "first" / "study").mkdir(parents=True)
    write_echo_dicom(tmp_path / "first" / "study" / "IM_0001", truth(0).frames, 50, patient="p1")
    write_echo_dicom(tmp_path / "first" / "study" / "IM_0002", truth(1).frames, 25, patient="p1", syntax="rle")
    write_echo_dicom(tmp_path / "first" / "nobody.dcm", truth(1).frames, 25)
    other = pydicom.dcmread(write_echo_dicom(tmp_path / "first" / "ct.dcm", truth(1).frames[:1], 25, patient="p1"))
    other.Modality = "CT"
    other.save_as(tmp_path / "first" / "ct.dcm")
    (tmp_path / "notes.txt").write_text("no DICOM")
    recipe, items, rejected = find("dicom", tmp_path, kind="video")
    assert (recipe.modality, [i.ids.patient for i in items.values()]) == ("us", ["p1", "p1"])
    assert [one(recipe.read(i)).rate_hz for i in items.values()] == pytest.approx([50, 25])
    assert recipe.preparation()(one(recipe.read(next(iter(items.values()))))).axes == "ctyx"
    assert rejected == {
        "nobody.dcm": "nothing says whose it is (patient=id); try patient=study or patient=folder",
        "ct.dcm": "modality CT, not IVUS/US",
        "notes.txt": "it is not a DICOM file",
    }
    _, by_folder, _ = find("dicom", tmp_path, kind="video", patient="folder")
    assert {i.ids.patient for i in by_folder.values()} == {"first"} and len(by_folder) == 3
    with pytest.raises(RecipeError, match="no DICOM image"):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").write_text("no DICOM")
        find("dicom", tmp_path / "empty", kind="video")


def png(path: Path, pixels: Any) -> None:
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels), str(path))


# ------------------------------------------------------------------------------------------------ EchoNet-Pediatric
def ellipse(echo: SyntheticEcho, frame: int) -> list[tuple[float, float]]:
    """Corners (x, y) of the cavity, all around."""
    rows = trace_rows(echo, frame)[1:]
    return [*map(tuple, rows[:, :2]), *map(tuple, rows[::-1, 2:])]


@pytest.fixture
def pediatric(tmp_path: Path) -> Path:
    for view, number in (("A4C", 0), ("PSAX", 1)):
        (tmp_path / view / "Videos").mkdir(parents=True)
        echo = truth(number)
        write_echo_avi(tmp_path / view / "Videos" / f"CR{number}.avi", echo.frames, echo.rate_hz)
        clip = {"FileName": f"CR{number}.avi", "EF": "61.5", "Sex": "F", "Age": "7", "Weight": "22.5", "Height": "121"}
        write(tmp_path / view / "FileList.csv", [{**clip, "Split": "3"}])
        points = [(f, p) for f in (echo.ed_frame, echo.es_frame) for p in ellipse(echo, f)]
        rows = [{"FileName": f"CR{number}.avi", "X": x, "Y": y, "Frame": f} for f, (x, y) in points]
        write(tmp_path / view / "VolumeTracings.csv", [*rows, {**rows[0], "X": "", "Y": "", "Frame": "No Systolic"}])
    return tmp_path


def test_outlines_of_children_in_both_views(pediatric: Path) -> None:
    recipe, items, rejected = find("echonet_pediatric", pediatric)
    assert (list(items), rejected) == (["A4C_CR0", "PSAX_CR1"], {})
    for number, item in enumerate(items.values()):
        echo, recording = truth(number), one(recipe.read(item))
        assert (recording.labels["ef"], recording.labels["split"], recording.labels["age"]) == (61.5, "3", 7.0)
        assert {e.value: round(e.onset_s * 50) for e in recording.events} == {"ED": echo.ed_frame, "ES": echo.es_frame}
        drawn = recording.labels["lv"][echo.ed_frame] > 0
        assert 2 * (drawn & echo.lv[echo.ed_frame]).sum() / (drawn.sum() + echo.lv[echo.ed_frame].sum()) > 0.95
    assert list(find("echonet_pediatric", pediatric, view="PSAX")[1]) == ["PSAX_CR1"]


# ------------------------------------------------------------------------------------------------ CAMUS
@pytest.fixture
def camus(tmp_path: Path) -> Path:
    import nibabel

    folder, echo = tmp_path / "patient0001", truth(0)
    folder.mkdir()
    affine = np.diag([0.3, 0.4, 1.0, 1.0])
    for name, data in (("half_sequence", echo.frames), ("half_sequence_gt", echo.lv.astype(np.uint8))):
        for view in ("2CH", "4CH"):
            nibabel.save(nibabel.Nifti1Image(data.T, affine), folder / f"patient0001_{view}_{name}.nii.gz")
    (folder / "patient0001_4CH_half_sequence_gt.nii.gz").unlink()
    text = f"ED: {echo.ed_frame + 1}\nES: {echo.es_frame + 1}\nSex: F\nAge: 56\nImageQuality: Good\nEF: 56\n"
    text += "FrameRate: 47.2\n"
    (folder / "Info_2CH.cfg").write_text(text)
    return tmp_path


def test_half_sequences_with_their_masks(camus: Path) -> None:
    recipe, items, rejected = find("camus", camus)
    assert list(items) == ["patient0001_2CH"]
    assert "mask patient0001_4CH_half_sequence_gt.nii.gz is missing" in rejected["patient0001_4CH_half_sequence.nii.gz"]
    recording, echo = one(recipe.read(items["patient0001_2CH"])), truth(0)
    np.testing.assert_array_equal(recording.data, echo.frames)
    np.testing.assert_array_equal(recording.labels["heart"], echo.lv)
    assert (recording.rate_hz, recording.spacing_mm) == (47.2, pytest.approx((0.4, 0.3)))
    assert (recording.labels["ef"], recording.labels["quality"], recording.ids.patient) == (56.0, "Good", "patient0001")
    assert {e.value: round(e.onset_s * 47.2) for e in recording.events} == {"ED": echo.ed_frame, "ES": echo.es_frame}
    prepared = recipe.preparation()(recording)
    assert prepared.image.shape == (1, T, 256, 256)
    assert prepared.masks["heart"].any(axis=(1, 2)).all()
    _, both, _ = find("camus", camus, require_masks=False)
    unknown = one(recipe.read(both["patient0001_4CH"]))
    assert any("50 frames a second taken" in note for note in unknown.notes)


# ------------------------------------------------------------------------------------------------ EchoNet-LVH
def measured(clip: str, calc: str, value: str, frame: int, split: str = "TRAIN") -> dict[str, Any]:
    """A row of the table; two end points that no label needs."""
    place = {"X1": 40.0, "X2": 44.0, "Y1": 50.0, "Y2": 58.0, "Frames": T, "FPS": 50, "Width": 112, "Height": 112}
    return {"": 0, "HashedFileName": clip, "Calc": calc, "CalcValue": value, "Frame": frame, **place, "split": split}


@pytest.fixture
def lvh(tmp_path: Path) -> Path:
    for batch, number in (("Batch1", 0), ("Batch3", 1)):
        (tmp_path / batch).mkdir()
        write_echo_avi(tmp_path / batch / f"0X{number}.avi", truth(number).frames, 50)
    rows = [measured("0X0", "IVSd", "1.1", 4), measured("0X0", "LVIDd", "4.5", 4), measured("0X0", "LVPWd", "0.9", 4)]
    rows += [measured("0X0", "LVIDs", "3.1", 17), measured("0X0", "IVSd", "1.3", 25)]
    rows += [measured("0X1", "LVIDd", "5", T + 3, "Test"), measured("0XGONE", "IVSd", "1", 0, "val")]
    write(tmp_path / "MeasurementsList.csv", rows)
    write_echo_avi(tmp_path / "Batch3" / "0XSURPLUS.avi", truth(0).frames[:2], 50)
    return tmp_path


def test_walls_in_centimetres_and_in_which_frames_they_were_measured(lvh: Path) -> None:
    recipe, items, rejected = find("echonet_lvh", lvh)
    assert rejected == {
        "0XGONE.avi": "listed in MeasurementsList.csv but missing",
        "0XSURPLUS.avi": "not listed in MeasurementsList.csv",
    }
    recording = one(recipe.read(items["0X0"]))
    assert {k: recording.labels[k] for k in ("ivsd_cm", "lvidd_cm", "lvids_cm", "lvpwd_cm", "split")} == {
        "ivsd_cm": pytest.approx(1.2),  # of two measurements
        "lvidd_cm": 4.5,
        "lvids_cm": 3.1,
        "lvpwd_cm": 0.9,
        "split": "train",
    }
    assert [(round(e.onset_s * 50), e.value) for e in recording.events] == [
        *((4, "IVSd"), (4, "LVIDd"), (4, "LVPWd"), (17, "LVIDs"), (25, "IVSd")),
    ]
    prepared = recipe.preparation()(recording)
    assert [e.kind for e in prepared.events] == [TRACE] * 5
    other = one(recipe.read(items["0X1"]))
    assert (other.labels["lvidd_cm"], other.labels["ivsd_cm"], other.labels["split"]) == (5.0, None, "test")
    assert f"measured frame {T + 3} lies outside the {T} frames: taken as frame {T - 1}" in other.notes
    _, complete, refused = find("echonet_lvh", lvh, require_all=True)
    assert list(complete) == ["0X0"]
    assert refused["0X1.avi"] == "it has no IVSd, LVIDs, LVPWd in MeasurementsList.csv"


def test_a_table_of_measurements_without_its_columns_is_refused(lvh: Path) -> None:
    write(lvh / "MeasurementsList.csv", [{"HashedFileName": "0X0", "Calc": "IVSd"}])
    with pytest.raises(RecipeError, match="no column CalcValue, Frame, split"):
        find("echonet_lvh", lvh)


# ------------------------------------------------------------------------------------------------ RVENet
@pytest.fixture
def rvenet(tmp_path: Path) -> Path:
    (tmp_path / "dicoms").mkdir()
    rows = []
    for number, name in enumerate(("0001_AB_1", "0001_AB_2", "0002_CD_1", "loose")):
        write_echo_dicom(tmp_path / "dicoms" / f"{name}.dcm", truth(number % 2).frames, 40, patient="another")
        rows.append({"FileName": name, "RVEF": f"{45.5 + number}", "HR": "70", "FPS": "40", "Split": "validation"})
    rows += [{**rows[0], "FileName": "0009_XY_1"}]
    rows[0] |= {"RVEF": "", "Split": "Train"}
    write(tmp_path / "codebook.csv", [{**row, "Age": "60"} for row in rows])
    write(tmp_path / "another.csv", [{"a": 1}])
    return tmp_path


def test_clips_of_one_patient_are_known_by_their_name(rvenet: Path) -> None:
    recipe, items, rejected = find("rvenet", rvenet, labels={"age": "Age"})
    assert {r: i.ids.patient for r, i in items.items()} == {
        "0001_AB_1": "0001_AB",
        "0001_AB_2": "0001_AB",
        "0002_CD_1": "0002_CD",
    }
    assert "does not end in _NUMBER" in rejected["loose.dcm"]
    assert rejected["0009_XY_1.dcm"] == "listed in codebook.csv but missing"
    assert items["0001_AB_1"].labels == {"rvef": None, "heart_rate": 70.0, "split": "train", "age": 60.0}
    recording = one(recipe.read(items["0002_CD_1"]))
    assert (recording.labels["rvef"], recording.labels["split"], recording.rate_hz) == (47.5, "validation", 40.0)
    prepared = recipe.preparation()(recording)
    assert (prepared.rate_hz, prepared.image.shape[2:]) == (30.0, (112, 112))


def test_the_table_of_rvenet_must_be_one_and_hold_the_columns(rvenet: Path) -> None:
    with pytest.raises(RecipeError, match="no column Sex; there are FileName"):
        find("rvenet", rvenet, labels={"sex": "Sex"})
    (rvenet / "codebook.csv").rename(rvenet / "labels.csv")
    assert len(find("rvenet", rvenet)[1]) == 3, "under another name as well"
    write(rvenet / "twice.csv", table(rvenet / "labels.csv"))
    with pytest.raises(RecipeError, match="2 tables with the columns FileName and RVEF"):
        find("rvenet", rvenet)


# ------------------------------------------------------------------------------------------------ Sunnybrook over time
@pytest.fixture
def cine(tmp_path: Path) -> Path:
    """Slice 2 with all phases, slice 3 with two, slice 4 with one; labels of phases 1 and 8."""
    echo = truth(0)
    for place, phases in ((2, range(1, 21)), (3, (1, 8)), (4, (1,))):
        for phase in phases:
            name = f"SC-N-02-IM-0001-{20 * place + phase:04d}.dcm.png"
            png(tmp_path / "images" / "SC-N-02" / name, echo.frames[phase])
            if phase in (1, 8):
                area = np.zeros((112, 112), np.uint8)
                area[40 : 40 + 40 // phase, 40:60] = 255
                png(tmp_path / "labels" / "SC-N-02" / name, area)
    return tmp_path


def test_phases_of_a_slice_are_a_clip(cine: Path) -> None:
    recipe, items, rejected = find("sunnybrook", cine, kind="video")
    assert (recipe.kind, list(items)) == ("video", ["SC-N-02_slice02", "SC-N-02_slice03"])
    assert "slice 4 of SC-N-02 has a file of one phase alone" in rejected["SC-N-02-IM-0001-0081.dcm.png"]
    whole = one(recipe.read(items["SC-N-02_slice02"]))
    np.testing.assert_array_equal(whole.data, truth(0).frames[1:21])
    assert (whole.rate_hz, whole.spacing_mm, whole.labels["group"]) == (pytest.approx(20), (1.25, 1.25), "healthy")
    assert whole.labels["lv"].any(axis=(1, 2)).nonzero()[0].tolist() == [0, 7]
    assert [(e.value, e.onset_s) for e in whole.events] == [("ED", 0.0), ("ES", pytest.approx(7 / 20))]
    prepared = recipe.preparation()(whole)
    assert prepared.image.shape == (1, 20, 112, 112) and [e.value for e in prepared.events] == ["ED", "ES"]
    short = one(recipe.read(items["SC-N-02_slice03"]))
    assert (len(short.data), short.rate_hz) == (2, pytest.approx(20 / 7))
    assert "2 of 20 phases have a file" in short.notes
    assert [e.value for e in recipe.preparation()(short).events] == ["ED", "ES"]
    with pytest.raises(RecipeError, match="use volume or video"):
        load_recipe("sunnybrook", {"kind": "signal"})


def test_the_real_slices_have_two_phases(shared_data: Path) -> None:
    recipe, items, rejected = find("sunnybrook", shared_data / "sunnybrook_cmr_png", kind="video")
    assert (len(items), len(rejected)) == (60, 7)
    for item in list(items.values())[::12]:
        prepared = recipe.preparation()(one(recipe.read(item)))
        assert prepared.image.shape == (1, 2, 112, 112)
        areas = {e.value: int((prepared.masks["lv"][i] > 0).sum()) for i, e in enumerate(prepared.events)}
        assert areas["ED"] > areas["ES"] > 0
