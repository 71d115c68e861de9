"""Masks come back where they belong, in the geometry of their source."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from medssl.adapters.masks import read_mask, resample_labels_to, write_mask
from medssl.adapters.recording import Recording
from medssl.adapters.volume import read_volume
from medssl.errors import MedSSLError, UnreadableRecording

OBLIQUE = np.array([[-0.2, 1.9, 0.1, 30], [1.4, 0.3, 0.2, -20], [0.1, -0.2, 3.0, 7], [0, 0, 0, 1]])


def recording(shape: tuple[int, ...], affine: np.ndarray) -> Recording:
    return Recording(data=np.zeros(shape, np.int16), axes="zyx", affine=affine)


def blob(shape: tuple[int, ...]) -> np.ndarray:
    """Label 1 in a ball, label 2 in a box."""
    z, y, x = np.indices(shape)
    labels = (((z - shape[0] / 2) ** 2 + (y - shape[1] / 2) ** 2 + (x - shape[2] / 2) ** 2) < 16).astype(np.uint8)
    labels[:3, :4, :5] = 2
    return labels


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_written_masks_have_the_geometry_of_the_source(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "source.nii.gz"
    nib.save(nib.Nifti1Image(rng.integers(0, 99, (5, 6, 7, 1)).astype(np.int16), OBLIQUE), source)
    like = read_volume(source).recordings[0]
    labels = rng.integers(0, 3, like.data.shape).astype(np.int64)
    # SimpleITK wants orthogonal axes, which this affine has not quite: MetaImage and NRRD get an orthogonal one
    if suffix in (".nrrd", ".mha"):
        like = like.with_(affine=np.diag([2.0, 3.0, 4.0, 1.0])[[2, 1, 0, 3]])
    path = tmp_path / "sub" / f"mask{suffix}"
    write_mask(path, labels, like, names={1: "liver", 2: "spleen"})
    back = read_mask(path)
    np.testing.assert_array_equal(back.data, labels)
    np.testing.assert_allclose(back.affine, like.affine, atol=1e-5)
    assert back.data.dtype == np.uint8
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing half-written is left
    if suffix.startswith(".nii"):
        image = nib.load(path)
        assert image.shape == nib.load(source).shape[:3]
        np.testing.assert_allclose(image.affine, nib.load(source).affine, atol=1e-6)
        assert b"liver" in image.header.extensions[0].get_content()


def test_masks_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    like = recording((2, 3, 4), np.eye(4))
    with pytest.raises(ValueError, match="do not fit a grid"):
        write_mask(tmp_path / "a.nii", np.zeros((4, 3, 2), np.uint8), like)
    with pytest.raises(ValueError, match="do not fit a grid"):
        write_mask(tmp_path / "a.nii", np.zeros((2, 3, 4), np.float32), like)
    with pytest.raises(MedSSLError, match=r"written as \.nii"):
        write_mask(tmp_path / "a.png", np.zeros((2, 3, 4), np.uint8), like)
    with pytest.raises(MedSSLError, match="not read from DICOM"):
        write_mask(tmp_path / "a.dcm", np.zeros((2, 3, 4), np.uint8), like)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (np.array([[[0.0, 1.0, 300.0]]], np.float32), np.uint16),
        (np.array([[[0.0, -1.0, 2.0]]], np.float32), np.int32),
        (np.array([[[0.0, 0.5, 1.0]]], np.float32), "not whole numbers"),
        (np.array([[[0.0, np.nan, 1.0]]], np.float32), "not whole numbers"),
    ],
)
def test_masks_are_whole_numbers(tmp_path: Path, values: np.ndarray, verdict: type | str) -> None:
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "m.nii")
    if isinstance(verdict, str):
        with pytest.raises(UnreadableRecording, match=verdict):
            read_mask(tmp_path / "m.nii")
        return
    mask = read_mask(tmp_path / "m.nii")
    assert mask.data.dtype == verdict and mask.data.ravel().tolist() == values.ravel().tolist()
    assert any("cast to whole numbers" in note for note in mask.notes)


def test_labels_on_the_same_grid_stay_as_they_are() -> None:
    labels = blob((9, 10, 11))
    np.testing.assert_array_equal(resample_labels_to(labels, OBLIQUE, recording(labels.shape, OBLIQUE)), labels)


def test_flips_and_swaps_of_axes_are_exact() -> None:
    """The grid turned to canonical, the labels carried back: nothing moves."""
    labels = blob((9, 10, 11))
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    turned = labels.transpose(2, 0, 1)[::-1]
    step = affine[:, [2, 0, 1, 3]].copy()
    step[:3, 3] += step[:3, 0] * (turned.shape[0] - 1)
    step[:3, 0] *= -1
    np.testing.assert_array_equal(resample_labels_to(turned, step, recording(labels.shape, affine)), labels)
    scores = np.stack([turned == k for k in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(resample_labels_to(scores, step, recording(labels.shape, affine)), labels)


def test_probabilities_come_back_from_a_coarser_grid() -> None:
    """A smooth ball on a 2 mm grid, wanted on 1 mm: the border is that of the true ball to within half a voxel."""
    coarse_affine, fine = np.diag([2.0, 2.0, 2.0, 1.0]), recording((40, 40, 40), np.eye(4))
    centre, radius = np.array([19.3, 20.1, 18.7]), 11.0

    def distance(count: int, step: float) -> np.ndarray:
        return np.linalg.norm(np.moveaxis(np.indices((count,) * 3) * step, 0, -1) - centre, axis=-1)

    inside = np.clip(0.5 + (radius - distance(20, 2.0)) / 4, 0, 1).astype(np.float32)
    result = resample_labels_to(np.stack([1 - inside, inside]), coarse_affine, fine)
    truth = distance(40, 1.0)
    assert np.all(result[truth < radius - 0.5] == 1) and np.all(result[truth > radius + 0.5] == 0)


def test_outside_of_the_prepared_grid_is_background() -> None:
    """After a foreground crop the prepared grid is smaller than the source."""
    crop = np.ones((4, 4, 4), np.uint8)
    shifted = np.eye(4)
    shifted[:3, 3] = 3
    result = resample_labels_to(crop, shifted, recording((10, 10, 10), np.eye(4)))
    assert result.sum() == 64 and np.all(result[3:7, 3:7, 3:7] == 1)


def test_slabs_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, like = blob((12, 11, 10)), recording((14, 9, 13), OBLIQUE)
    moved = OBLIQUE.copy()
    moved[:3, 3] += 1.3
    whole = resample_labels_to(labels, moved, like)
    monkeypatch.setattr("medssl.adapters.masks._SLAB", 1)
    np.testing.assert_array_equal(resample_labels_to(labels, moved, like), whole)
    assert whole.any()


def test_only_labels_and_scores_are_taken() -> None:
    with pytest.raises(ValueError, match="integers or"):
        resample_labels_to(np.zeros((3, 3, 3), np.float32), np.eye(4), recording((3, 3, 3), np.eye(4)))


@pytest.mark.parametrize(
    "name",
    [
        "series/mr_hippocampus_crop_derived",
        "series/mr_siemens_mosaic_2vols",
        "series/mr_cine_sax_2slices_8phases",
        "series/ct_label_implicit_vr_flipped_axes",
    ],
)
def test_dicom_seg_round_trip(shared_data: Path, tmp_path: Path, name: str) -> None:
    like = read_volume(shared_data / "dicom_zoo" / name).recordings[0]
    shape = tuple(like.data.shape[axis] for axis in like.spatial_axes)
    labels = np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)
    write_mask(tmp_path / "mask.dcm", labels, like, names={1: "head", 2: "body", 3: "tail"})
    back = read_mask(tmp_path / "mask.dcm")
    np.testing.assert_array_equal(back.data, labels)
    np.testing.assert_allclose(back.affine, like.affine, atol=1e-3)
    assert back.labels["segments"] == ["1: head", "2: body", "3: tail"]
    assert back.ids.patient == like.ids.patient and back.ids.session == like.ids.session


def test_a_dicom_seg_without_its_empty_slices_comes_back_whole(shared_data: Path, tmp_path: Path) -> None:
    like = read_volume(shared_data / "dicom_zoo" / "series" / "mr_hippocampus_crop_derived").recordings[0]
    labels = np.zeros(like.data.shape, np.uint8)
    labels[12:15, 10:20, 5:9], labels[18, 30:33, 5:9] = 1, 2
    write_mask(tmp_path / "mask.dcm", labels, like)
    back = read_mask(tmp_path / "mask.dcm")
    assert back.data.shape[0] == 7 and back.notes == ("3 slices without any frame read as empty",)
    assert back.affine is not None
    np.testing.assert_array_equal(resample_labels_to(back.data, back.affine, like), labels)


def test_overlapping_segments_become_channels(shared_data: Path, tmp_path: Path) -> None:
    """Two copies of the liver under two segment numbers."""
    source = dcmread(shared_data / "dicom_zoo" / "multiframe" / "seg_liver_1bit" / "liver.dcm")
    groups = source.PerFrameFunctionalGroupsSequence
    twice = [groups[0], groups[1], deepcopy(groups[0])]
    twice[2].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2
    source.PerFrameFunctionalGroupsSequence = twice
    frame = len(source.PixelData) // 3
    source.PixelData = source.PixelData[: 2 * frame] + source.PixelData[:frame]
    source.save_as(tmp_path / "two.dcm")
    (two,), rejected = read_volume(tmp_path / "two.dcm")
    assert not rejected and two.axes == "czyx" and two.channels == ("segment 1", "segment 2")
    np.testing.assert_array_equal(two.data[0, 0], two.data[1, 0])
    with pytest.raises(UnreadableRecording, match="one label a voxel"):
        read_mask(tmp_path / "two.dcm")


def test_dicom_seg_needs_a_source_it_can_name(shared_data: Path, tmp_path: Path) -> None:
    like = read_volume(shared_data / "dicom_zoo" / "series" / "ct_body_j2k_no_series_uid").recordings[0]
    with pytest.raises(MedSSLError, match="lacks StudyInstanceUID"):
        write_mask(tmp_path / "mask.dcm", np.zeros(like.data.shape, np.uint8), like)


def test_an_empty_dicom_seg_is_written(shared_data: Path, tmp_path: Path) -> None:
    like = read_volume(shared_data / "dicom_zoo" / "series" / "mr_hippocampus_crop_derived").recordings[0]
    write_mask(tmp_path / "mask.dcm", np.zeros(like.data.shape, np.uint8), like)
    assert not read_mask(tmp_path / "mask.dcm").data.any()
