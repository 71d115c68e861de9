"""DICOM series built here, one property at a time; and every folder of the zoo of real ones."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medssl.adapters.dicom import list_series, read_dicom
from medssl.errors import UnreadableRecording


def _sibling(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


zoo = _sibling("zoo_table")
ENTRIES = zoo.entries("dicom_zoo")
FOLDERS = [name for name, entry in ENTRIES.items() if "files" in entry]
REFERENCES = [name for name, entry in ENTRIES.items() if "files" not in entry]

SERIES, STUDY = generate_uid(), generate_uid()
Write = Callable[..., Path]


@pytest.fixture
def write_slice(tmp_path: Path) -> Write:
    """Writes one 6x5 CT slice; keyword arguments set or (None) remove header values."""

    def write(name: str, z: float = 0.0, *, pixels: np.ndarray | None = None, **header: Any) -> Path:
        path = tmp_path / name
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        values = np.full((6, 5), round(z), np.int16) + np.arange(5, dtype=np.int16) if pixels is None else pixels
        standard: dict[str, Any] = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "PatientID": "P1",
            "PatientName": "Never^Read",
            "StudyInstanceUID": STUDY,
            "SeriesInstanceUID": SERIES,
            "Modality": "CT",
            "Manufacturer": "Acme",
            "ManufacturerModelName": "One",
            "ImagePositionPatient": [10.0, -20.0, z],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.7, 0.5],
            "SliceThickness": 3.0,
            "Rows": values.shape[0],
            "Columns": values.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleSlope": 1,
            "RescaleIntercept": -1000,
            "FrameOfReferenceUID": STUDY,
        }
        for keyword, value in {**standard, **header}.items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset.PixelData = np.asarray(values, np.int16).tobytes()
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(write_slice: Write, tmp_path: Path) -> None:
    for name, z, number in (("b", 4.0, 1), ("a", 0.0, 9), ("d", 2.0, 5), ("c", 6.0, 3)):
        write_slice(name, z, InstanceNumber=number)
    (one,), rejected = read_dicom(tmp_path)
    assert not rejected
    assert one.data[:, 0, 0].tolist() == [-1000, -998, -996, -994]
    assert (one.axes, one.units, one.data.dtype) == ("zyx", ("HU",), np.int16)
    assert one.spacing_mm == pytest.approx((2.0, 0.7, 0.5))  # of positions, not of SliceThickness
    assert one.notes == ()
    # columns z, y, x; DICOM's LPS turned to RAS
    expected = [[0, 0, -0.5, -10], [0, -0.7, 0, 20], [2, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(one.affine, expected, atol=1e-12)
    assert (one.ids.patient, one.ids.session, one.ids.recording) == ("P1", STUDY, SERIES)
    assert one.scanner == "Acme One" and one.labels == {"dicom_modality": "CT"}
    assert "Never" not in repr(one)


def test_each_slice_has_its_own_rescale(write_slice: Write, tmp_path: Path) -> None:
    for z in range(3):
        write_slice(f"{z}", float(z), RescaleSlope=0.5 + z, RescaleIntercept=z, Modality="PT", Units="BQML")
    (one,), _ = read_dicom(tmp_path)
    stored = np.arange(3)[:, None] + np.arange(5)
    np.testing.assert_allclose(one.data[:, 0], stored * (0.5 + np.arange(3))[:, None] + np.arange(3)[:, None])
    assert (one.data.dtype, one.units) == (np.float32, ("BQML",))


def test_a_missing_slice_is_refused_with_the_gap(write_slice: Write, tmp_path: Path) -> None:
    for z in (0, 2, 4, 8, 10):
        write_slice(f"s{z:02d}.dcm", float(z))
    recordings, (refusal,) = read_dicom(tmp_path)
    assert not recordings
    assert refusal.reason == (
        "slices are missing: 1 between s04.dcm and s08.dcm (4.00 mm apart), where 2.00 mm is regular"
    )


def test_uneven_gaps_are_refused_with_gaps_and_files(write_slice: Write, tmp_path: Path) -> None:
    for z in (0.0, 2.0, 3.3, 8.0):
        write_slice(f"s{z}", z)
    _, (refusal,) = read_dicom(tmp_path)
    assert refusal.reason == "uneven gaps between slices (2.00, 1.30, 4.70 mm): s0.0, s2.0, s3.3, s8.0"


def test_rounded_positions_are_regular(write_slice: Write, tmp_path: Path) -> None:
    for i in range(8):
        write_slice(f"{i}", round(i * 0.625, 2))
    (one,), _ = read_dicom(tmp_path)
    assert one.spacing_mm is not None and one.spacing_mm[0] == pytest.approx(0.625, abs=1e-3)
    assert any("taken as evenly" in note for note in one.notes)


def test_gantry_tilt_stays_in_the_affine(write_slice: Write, tmp_path: Path) -> None:
    tilt = np.radians(20.0)
    for i in range(3):
        write_slice(
            f"{i}",
            5.0 * i,  # the table moves along z while the slices are tilted
            ImageOrientationPatient=[1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))],
        )
    (one,), rejected = read_dicom(tmp_path)
    assert not rejected and one.notes == ("gantry tilt of 20.0 degrees: slices are sheared, and so is the affine",)
    assert one.affine is not None
    np.testing.assert_allclose(one.affine[:3, 0], [0, 0, 5], atol=1e-9)
    np.testing.assert_allclose(one.affine @ [2, 0, 0, 1], [-10, 20, 10, 1], atol=1e-9)


def test_slices_that_drift_sideways_are_refused(write_slice: Write, tmp_path: Path) -> None:
    for i in range(4):
        write_slice(f"{i}", 2.0 * i, ImagePositionPatient=[10.0 + (3.0 if i == 2 else 0.0), -20.0, 2.0 * i])
    _, (refusal,) = read_dicom(tmp_path)
    assert "out of line by up to 3.0 mm" in refusal.reason


def test_copies_are_left_out_with_a_note(write_slice: Write, tmp_path: Path) -> None:
    for z in range(3):
        write_slice(f"{z}", float(z), InstanceNumber=z)
    write_slice("again", 1.0, InstanceNumber=7)  # the same pixels under another UID and number
    (tmp_path / "copy").write_bytes((tmp_path / "2").read_bytes())  # the very same file
    (one,), rejected = read_dicom(tmp_path)
    assert not rejected and one.data.shape == (3, 6, 5)
    assert one.notes == ("duplicate files left out: copy", "identical images left out: again")


def test_a_broken_copy_does_not_cost_the_good_one(write_slice: Write, tmp_path: Path) -> None:
    for z in range(3):
        write_slice(f"x{z}", float(z))
    (tmp_path / "a_truncated").write_bytes((tmp_path / "x1").read_bytes()[:-20])
    (one,), (refusal,) = read_dicom(tmp_path)
    assert one.data.shape == (3, 6, 5)
    assert refusal.source.endswith("a_truncated") and "less than expected" in refusal.reason


def test_an_unreadable_slice_is_a_missing_slice(write_slice: Write, tmp_path: Path) -> None:
    for z in range(5):
        path = write_slice(f"x{z}", float(z))
        if z == 2:
            path.write_bytes(path.read_bytes()[:-20])
    recordings, rejected = read_dicom(tmp_path)
    assert not recordings and len(rejected) == 2
    assert "slices are missing: 1 between x1 and x3" in rejected[1].reason
    assert rejected[1].reason.endswith("(could not be read: x2)")


@pytest.mark.parametrize(
    ("key", "values", "times"),
    [
        ("TriggerTime", [30.0, 430.0, 230.0], [0.03, 0.23, 0.43]),
        ("AcquisitionTime", ["120000", "120004", "120002"], [0.0, 2.0, 4.0]),
        ("TemporalPositionIdentifier", [1, 3, 2], None),
        ("InstanceNumber", [1, 3, 2], None),
    ],
)
def test_phases_become_a_time_axis(
    write_slice: Write, tmp_path: Path, key: str, values: list[Any], times: list[float] | None
) -> None:
    for phase, value in enumerate(values):
        for z in (0, 5):
            pixels = np.full((6, 5), 10 * phase + z, np.int16)
            write_slice(f"{z}_{phase}", float(z), pixels=pixels, RescaleIntercept=0, **{key: value})
    (one,), rejected = read_dicom(tmp_path)
    assert not rejected and one.axes == "tzyx"
    assert one.data[..., 0, 0].tolist() == [[0, 5], [20, 25], [10, 15]]
    if times is None:
        assert one.frame_times is None and one.rate_hz is None
    else:
        np.testing.assert_allclose(one.frame_times, times)
        assert one.rate_hz == pytest.approx(1 / (times[1] - times[0]))


def test_different_images_that_nothing_tells_apart_are_refused(write_slice: Write, tmp_path: Path) -> None:
    for z in range(2):
        for k in range(2):
            write_slice(f"{z}{k}", float(z), pixels=np.full((6, 5), k, np.int16))
    recordings, (refusal,) = read_dicom(tmp_path)
    assert not recordings and "nothing in the headers tells them apart" in refusal.reason


def test_a_rescanned_slice_is_refused_by_name(write_slice: Write, tmp_path: Path) -> None:
    for z in range(3):
        write_slice(f"{z}", float(z), InstanceNumber=z)
    write_slice("rescan", 1.0, InstanceNumber=9, pixels=np.full((6, 5), 77, np.int16))
    recordings, (refusal,) = read_dicom(tmp_path)
    assert not recordings and "1 to 2 different images a position" in refusal.reason and "rescan" in refusal.reason


def test_what_belongs_apart_is_kept_apart(write_slice: Write, tmp_path: Path) -> None:
    """Orientations, echoes, stacks and matrix sizes inside one series; patients that share a series UID."""
    for z in range(3):
        write_slice(f"axial{z}", float(z))
        write_slice(f"sagittal{z}", 0.0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[z, 0, 0])
        write_slice(f"echo{z}", float(z), EchoTime=80.0)
        write_slice(f"small{z}", float(z), pixels=np.zeros((4, 4), np.int16))
        write_slice(f"other{z}", float(z), PatientID="P2")
    recordings, rejected = read_dicom(tmp_path)
    assert not rejected and len(recordings) == 5
    assert {one.data.shape[0] for one in recordings} == {3}
    assert sorted(one.ids.patient for one in recordings) == ["P1"] * 4 + ["P2"]
    assert {one.ids.recording for one in recordings if one.ids.patient == "P1"} == {
        f"{SERIES}-{i}" for i in (1, 2, 3, 4)
    }


def test_without_uids_the_folder_is_the_series(write_slice: Write, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for z in range(2):
            write_slice(f"{folder}/{z}", float(z), SeriesInstanceUID=None, StudyInstanceUID=None, PatientID=None)
    recordings, _ = read_dicom(tmp_path)
    assert [one.ids.recording for one in recordings] == ["one", "two"]
    assert all("grouped by folder" in one.notes[0] for one in recordings)


def test_everything_else_in_a_folder_is_accounted_for(write_slice: Write, tmp_path: Path) -> None:
    for z in range(2):
        write_slice(f"{z}", float(z))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    write_slice("secondary", 0.0, ImagePositionPatient=None, Modality="OT")
    write_slice("xray", 0.0, ImagePositionPatient=None, Modality="DX")
    write_slice("spacing", 0.0, PixelSpacing=None)
    recordings, rejected = read_dicom(tmp_path)
    assert len(recordings) == 1
    assert {Path(r.source).name: r.reason for r in rejected} == {
        "notes.txt": "it is not a DICOM file",
        "empty": "it is not a DICOM file",
        "secondary": "it has no ImagePositionPatient: not a slice of a volume",
        "xray": "a projection image (DX): not a volume",
        "spacing": "it has no usable PixelSpacing: its size in millimetres is unknown",
    }


def test_listing_series_reads_no_pixels(write_slice: Write, tmp_path: Path) -> None:
    for z in range(2):
        path = write_slice(f"{z}", float(z))
        path.write_bytes(path.read_bytes()[:-30])
    (series,), rejected = list_series(tmp_path)
    assert not rejected
    assert (series.patient, series.series, [file.path.name for file in series.files]) == ("P1", SERIES, ["0", "1"])


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRecording, match="does not exist"):
        read_dicom(tmp_path / "nowhere")
    with pytest.raises(UnreadableRecording, match="holds no files"):
        read_dicom(tmp_path)


def test_damaged_bytes_are_read_or_refused(write_slice: Write, tmp_path: Path) -> None:
    good = write_slice("x", 0.0).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(150):
        content = bytearray(good)
        for at in rng.integers(132, len(good), 4):
            content[at] = rng.integers(256)
        (tmp_path / "x").write_bytes(content)
        recordings, rejected = read_dicom(tmp_path)
        assert len(recordings) + len(rejected) == 1
        outcomes.append(bool(recordings))
    assert any(outcomes) and not all(outcomes)


@pytest.mark.parametrize("name", FOLDERS)
def test_zoo_pixels(name: str) -> None:
    """Stored values of every file have the hash that other decoders got."""
    assert [row for row in zoo.file_rows(name, ENTRIES[name]) if not row.ok] == []


@pytest.mark.parametrize("name", FOLDERS)
def test_zoo_volumes(name: str) -> None:
    """Every folder gives the right volumes in the right place, or the right refusals."""
    row = zoo.folder_row(name, ENTRIES[name])
    assert row.ok, row


@pytest.mark.parametrize("name", [n for n in FOLDERS if ENTRIES[n].get("slice_gaps_mm") and n not in zoo.SPECIAL])
def test_zoo_slices(name: str) -> None:
    """Number, spacing and order of slices."""
    row = zoo.geometry_row(name, ENTRIES[name])
    assert row.ok, row


@pytest.mark.parametrize("name", REFERENCES)
def test_zoo_references(name: str) -> None:
    """The NIfTI beside a series: read as nibabel does, and voxel by voxel equal to the series."""
    row = zoo.nifti_row("dicom_zoo", name, ENTRIES[name])
    assert row.ok, row
    if "_ref/" in name:
        row = zoo.reference_row(name)
        assert row.ok, row


def test_lossy_syntaxes_agree_in_hounsfield_units(shared_data: Path) -> None:
    folder = shared_data / "dicom_zoo" / "syntaxes" / "ct_one_slice"
    truth = read_dicom(next(folder.glob("*LittleEndianImplicit*"))).recordings[0].data.astype(float)
    # mean differences; at 8 bits one step is 32 HU, and padding is clipped
    for pattern, tolerance in (
        ("*JPEG2000Transfer*", 3),
        ("*JPEGLSLossy*", 3),
        ("*Process2_4*", 5),
        ("*Process1T*", 32),
    ):
        (one,), rejected = read_dicom(next(folder.glob(pattern)))
        assert not rejected and any("lossily" in note for note in one.notes)
        assert np.abs(one.data - truth).mean() < tolerance, pattern


def test_ct_and_its_label_map_lie_on_one_grid(shared_data: Path) -> None:
    from medssl.adapters.masks import read_mask

    series = shared_data / "dicom_zoo" / "series"
    (ct,), _ = read_dicom(series / "ct_body_j2k_no_series_uid")
    mask = read_mask(series / "ct_body_j2k_no_series_uid_seg" / "example_seg_dicom.nii.gz")
    labels = zoo.onto(mask, zoo.file_affine(ct), ct.data.shape[::-1]).transpose(2, 1, 0)
    liver, lungs_air = ct.data[labels == 5], ct.data[labels == 0]
    assert 20 < np.median(liver) < 160 and np.median(lungs_air) < -500


def test_siemens_mosaic_times(shared_data: Path) -> None:
    (one,), _ = read_dicom(shared_data / "dicom_zoo" / "series" / "mr_siemens_mosaic_2vols")
    assert one.axes == "tzyx" and one.rate_hz == pytest.approx(1 / 3.2)


def test_cine_times_are_those_after_the_trigger(shared_data: Path) -> None:
    (one,), _ = read_dicom(shared_data / "dicom_zoo" / "series" / "mr_cine_sax_2slices_8phases")
    np.testing.assert_allclose(one.frame_times, [0.010, 0.073, 0.136, 0.199, 0.262, 0.325, 0.388, 0.452])
