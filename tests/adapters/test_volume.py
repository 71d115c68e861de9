"""Volume files in every form the zoo has, and in forms made here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medssl.adapters.masks import read_mask
from medssl.adapters.recording import Recording, sha256_of
from medssl.adapters.volume import read_volume
from medssl.errors import UnreadableRecording


def _sibling(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


zoo = _sibling("zoo_table")
ENTRIES = zoo.entries("nifti_zoo")
PAIRS = {
    "ct_mr_multiorgan/example_ct_sm.nii.gz": "ct_mr_multiorgan/example_seg.nii.gz",
    "ct_mr_multiorgan/example_mr_sm.nii.gz": "ct_mr_multiorgan/example_seg_mr.nii.gz",
    "spinal_cord/t2.nii.gz": "spinal_cord/t2_seg-manual.nii.gz",
    "spinal_cord/t2s.nii.gz": "spinal_cord/t2s_gmseg_manual.nii.gz",
    "nrrd/breast1_image.nrrd": "nrrd/breast1_label.nrrd",
}
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def one(path: Path, **options: str) -> Recording:
    recordings, rejected = read_volume(path, **options)  # type: ignore[arg-type]
    assert not rejected
    return recordings[0]


@pytest.mark.parametrize("name", list(ENTRIES))
def test_zoo(name: str) -> None:
    row = zoo.nifti_row("nifti_zoo", name, ENTRIES[name])
    assert row.ok, row


@pytest.mark.parametrize(("image", "label"), PAIRS.items())
def test_image_and_label_overlap_after_reorientation(shared_data: Path, image: str, label: str) -> None:
    """Turned to RAS by nibabel from what the adapter gave, both name the same voxels."""

    def canonical(recording: Recording) -> nib.Nifti1Image:
        return nib.as_closest_canonical(nib.Nifti1Image(recording.data.transpose(2, 1, 0), zoo.file_affine(recording)))

    volume = canonical(one(shared_data / "nifti_zoo" / image))
    mask = canonical(read_mask(shared_data / "nifti_zoo" / label))
    assert volume.shape == mask.shape and nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    np.testing.assert_allclose(volume.affine, mask.affine, atol=1e-3)
    # Turned the wrong way round in any axis, the labels would explain the image worse than they do now.
    labels, values = np.asarray(mask.dataobj), np.asarray(volume.dataobj).astype(float)

    def spread(turned: np.ndarray) -> float:
        """Variance of the image inside its labels: small where each label holds one tissue."""
        known = turned > 0
        counts = np.bincount(turned[known])
        means = np.bincount(turned[known], values[known]) / np.maximum(counts, 1)
        return float(np.mean((values[known] - means[turned[known]]) ** 2))

    assert all(spread(labels) < spread(np.flip(labels, axis)) for axis in range(3))


def test_axes_are_z_y_x_with_the_affine_in_the_same_order(tmp_path: Path) -> None:
    data = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    path = save(tmp_path / "case_7.nii.gz", data)
    volume = one(path)
    assert volume.axes == "zyx" and volume.data.dtype == np.int16
    np.testing.assert_array_equal(volume.data, data.transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], AFFINE @ [1, 2, 3, 1])
    assert volume.spacing_mm == (3.0, 1.5, 2.0)
    assert (volume.source, volume.source_sha256, volume.ids.recording) == (str(path), sha256_of(path), "case_7")
    assert volume.notes == ()


def test_scaled_integers_become_float32(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.array([[[1, 2, 3]]], np.int16), AFFINE)
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "scaled.nii")
    raw = bytearray((tmp_path / "scaled.nii").read_bytes())
    stored = nib.load(tmp_path / "scaled.nii")
    assert stored.dataobj.slope == 0.5, raw[:4]
    volume = one(tmp_path / "scaled.nii")
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data.ravel(), np.asarray(stored.dataobj).ravel())


@pytest.mark.parametrize(("fourth", "axes"), [("time", "tzyx"), ("channel", "czyx")])
def test_the_fourth_axis(tmp_path: Path, fourth: str, axes: str) -> None:
    data = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_zooms((2, 1.5, 3, 2.5))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "four.nii")
    volume = one(tmp_path / "four.nii", fourth_axis=fourth)
    assert volume.axes == axes and volume.data.shape == (5, 4, 3, 2)
    np.testing.assert_array_equal(volume.data[4], data[..., 4].T)
    assert volume.rate_hz == (0.4 if fourth == "time" else None)
    assert len(volume.channels) == (0 if fourth == "time" else 5)


def test_values_that_are_not_finite_are_kept_and_noted(tmp_path: Path) -> None:
    data = np.ones((2, 2, 2), np.float32)
    data[0, 0, 0], data[1, 1, 1] = np.nan, np.inf
    volume = one(save(tmp_path / "holes.nii", data))
    assert np.isnan(volume.data[0, 0, 0]) and volume.notes == ("2 of 8 values are not finite (kept)",)


def test_float64_is_read_as_float32(tmp_path: Path) -> None:
    assert one(save(tmp_path / "wide.nii", np.ones((2, 2, 2)))).data.dtype == np.float32


def test_no_orientation_is_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), None)
    image.header.set_zooms((1, 2, 3))
    nib.save(image, tmp_path / "lost.nii")
    volume = one(tmp_path / "lost.nii")
    assert volume.spacing_mm == (3, 2, 1)
    assert volume.notes == ("no orientation in the header: x taken to grow to the left, y to anterior, z to superior",)


def test_disagreeing_sform_and_qform_are_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(np.diag([2, 1.5, 3, 1]), 1)
    nib.save(image, tmp_path / "two.nii")
    volume = one(tmp_path / "two.nii")
    np.testing.assert_allclose(zoo.file_affine(volume), AFFINE)
    assert "sform and qform" in volume.notes[0]


def test_a_plane_is_one_slice(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(6, dtype=np.uint8).reshape(2, 3), AFFINE)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "plane.nii")
    volume = one(tmp_path / "plane.nii")
    assert volume.data.shape == (1, 3, 2) and volume.notes == ("a 2-D image read as one slice",)


def test_damaged_bytes_are_read_or_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nii", np.arange(8, dtype=np.int16).reshape(2, 2, 2)).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(good)
        content[rng.integers(352)] = rng.integers(256)
        (tmp_path / "bad.nii").write_bytes(content)
        try:
            read_volume(tmp_path / "bad.nii")
        except UnreadableRecording:
            refused += 1
    assert 0 < refused < 200


def test_rgb_becomes_three_channels(tmp_path: Path) -> None:
    data = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    data["G"][1, 2, 3] = 200
    volume = one(save(tmp_path / "colour.nii", data))
    assert volume.axes == "czyx" and volume.channels == ("red", "green", "blue")
    assert volume.data[1, 3, 2, 1] == 200 and volume.data.sum() == 200


def test_metaimage_and_nrrd_agree_with_nifti(tmp_path: Path) -> None:
    import SimpleITK

    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    reference = one(save(tmp_path / "a.nii.gz", data))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    for name in ("a.nrrd", "a.mha", "a.mhd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        other = one(tmp_path / name)
        np.testing.assert_array_equal(other.data, reference.data)
        np.testing.assert_allclose(other.affine, reference.affine, atol=1e-5)


def damaged(tmp_path: Path, how: str) -> Path:
    good = save(tmp_path / "good.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    bad = tmp_path / "bad.nii.gz"
    content = good.read_bytes()
    if how == "cut":
        bad.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        bad.write_bytes(b"")
    elif how == "not gzip":
        bad.write_bytes(b"hello" * 200)
    elif how == "cut raw":
        bad = tmp_path / "bad.nii"
        nib.save(nib.load(good), bad)
        bad.write_bytes(bad.read_bytes()[:5000])
    elif how == "half a pair":
        nib.save(nib.Nifti1Pair(np.zeros((2, 2, 2), np.uint8), AFFINE), tmp_path / "bad.hdr")
        (tmp_path / "bad.img").unlink()
        bad = tmp_path / "bad.hdr"
    elif how == "singular":
        flat = AFFINE.copy()
        flat[:3, 2] = 0
        image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), AFFINE)
        image.header.set_sform(flat, 1)
        image.header["qform_code"] = 0
        image._affine = None
        nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None, image.header).to_filename(bad)
    elif how == "5-D":
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3, 3), np.uint8), AFFINE), bad)
    elif how == "complex":
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.complex64), AFFINE), bad)
    elif how == "unknown":
        bad = tmp_path / "bad.xyz"
        bad.write_bytes(b"whatever" * 40)
    elif how == "nrrd":
        bad = tmp_path / "bad.nrrd"
        bad.write_bytes(b"NRRD0004\ntype: short\n")
    return bad


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cut", "compressed data end early"),
        ("empty", "the file is empty"),
        ("not gzip", "not gzip-compressed|not a valid .nii file"),
        ("cut raw", "cut short"),
        ("half a pair", "its other half is missing: bad.img"),
        ("singular", "affine is singular"),
        ("5-D", "5-D data"),
        ("complex", "complex"),
        ("unknown", "no volume format ends like this; known: .nii"),
        ("nrrd", "it cannot be read"),
        ("absent", "does not exist"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, how: str, reason: str) -> None:
    with pytest.raises(UnreadableRecording, match=reason) as caught:
        read_volume(damaged(tmp_path, how))
    assert "\n" not in str(caught.value)
