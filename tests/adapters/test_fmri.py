"""Runs of fMRI as series of regions: images through an atlas, ready series, confounds, repetition times."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from toy_fmri import AFFINE, SHAPE, bold, labels, means, write_image

from medssl.adapters.fmri import is_bold, read_fmri, run_name, stated_tr
from medssl.errors import ConfigError, UnreadableRecording


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    return write_image(tmp_path / "atlas.nii.gz", labels())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "bold.nii.gz", bold(), tr_s=2.0)


def one(path: Path, **options):
    (recording,) = read_fmri(path, **options).recordings
    return recording


def test_an_image_becomes_the_means_of_its_regions(image, atlas):
    run = one(image, atlas=atlas)
    assert (run.axes, run.rate_hz, run.channels) == ("ct", 0.5, ("1", "2", "5", "9"))
    np.testing.assert_allclose(run.data, means(bold(), labels()), rtol=1e-12)
    assert run.ids.recording == "bold"


def test_a_slope_and_an_intercept_are_applied(tmp_path, atlas):
    stored = np.rint(bold() * 10).astype(np.int16)
    made = nibabel.Nifti1Image(stored, AFFINE)
    made.header.set_xyzt_units("mm", "sec")
    made.header.set_zooms((*made.header.get_zooms()[:3], 2.0))
    nibabel.save(made, tmp_path / "plain.nii")
    raw = bytearray((tmp_path / "plain.nii").read_bytes())
    raw[112:120] = np.array([0.1, 5.0], dtype="<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "scaled.nii").write_bytes(bytes(raw))
    found = one(tmp_path / "scaled.nii", atlas=atlas).data
    np.testing.assert_allclose(found, means(stored * np.float64(np.float32(0.1)) + 5, labels()), rtol=1e-9)


def test_only_the_brain_counts(image, atlas, tmp_path):
    brain = np.ones(SHAPE, dtype=np.uint8)
    brain[1] = 0
    mask = write_image(tmp_path / "mask.nii.gz", brain)
    run = one(image, atlas=atlas, mask=mask)
    np.testing.assert_allclose(run.data, means(bold(), labels(), brain > 0), rtol=1e-12)


def test_a_region_without_voxels_keeps_its_place(image, atlas, tmp_path):
    brain = (labels() != 2).astype(np.uint8)
    run = one(image, atlas=atlas, mask=write_image(tmp_path / "mask.nii.gz", brain))
    assert run.channels == ("1", "2", "5", "9")
    assert np.isnan(run.data[1]).all()
    assert np.isfinite(run.data[[0, 2, 3]]).all()
    assert any("1 regions without voxels: 2" in note for note in run.notes)


def test_a_region_of_which_little_is_seen_is_invalid(image, atlas, tmp_path):
    brain = np.ones(SHAPE, dtype=np.uint8)
    brain[3, :, :] = brain[4, 3:, :] = 0  # two fifths of half of region 2 are left
    run = one(image, atlas=atlas, mask=write_image(tmp_path / "mask.nii.gz", brain))
    assert np.isnan(run.data[1]).all()
    assert any("less than 50% of their voxels: 2" in note for note in run.notes)


def test_a_picture_that_ends_inside_a_region_counts_what_it_cuts_off(atlas, tmp_path):
    cut = write_image(tmp_path / "cut.nii.gz", bold()[:2], tr_s=2.0)  # regions 2, 5, 9 lie beyond; half of 1 is there
    run = one(cut, atlas=atlas)
    assert np.isnan(run.data[1:]).all()
    assert np.isfinite(run.data[0]).all()


def test_voxels_that_are_not_finite_are_left_out_of_the_mean(atlas, tmp_path):
    values = bold()
    values[1, 1, 1, 3:6] = np.nan
    run = one(write_image(tmp_path / "nan.nii.gz", values, tr_s=2.0), atlas=atlas)
    inside = labels() == 1
    np.testing.assert_allclose(run.data[0], np.nanmean(values[inside], axis=0), rtol=1e-12)
    assert any("not finite" in note and "1" in note for note in run.notes)


@pytest.mark.parametrize("how", ["finer", "turned"])
def test_an_atlas_on_another_grid_comes_to_the_nearest_voxel(image, tmp_path, how):
    """Every voxel of the image takes the label that stands at its centre."""
    values, affine = labels(), AFFINE
    if how == "finer":
        values, affine = np.repeat(np.repeat(np.repeat(labels(), 3, 0), 3, 1), 3, 2), AFFINE.copy()
        affine[:3, :3] /= 3
        affine[:3, 3] -= (AFFINE[:3, :3] - affine[:3, :3]) @ np.ones(3) / 2
        assert np.allclose(affine @ [1, 1, 1, 1], AFFINE @ [0, 0, 0, 1])
    elif how == "turned":
        # turned by 90 degrees: voxel (i, j) holds what was at (7 - j, i)
        affine = AFFINE @ np.array([[0, -1, 0, 7], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        values = np.rot90(labels(), -1, (0, 1)).copy()
    run = one(image, atlas=write_image(tmp_path / f"{how}.nii.gz", values, affine))
    np.testing.assert_allclose(run.data, means(bold(), labels()), rtol=1e-12)


def test_an_oblique_atlas(image, tmp_path):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    affine = turn @ AFFINE
    expected = np.zeros(SHAPE, dtype=int)
    for voxel in np.ndindex(*SHAPE):
        there = np.floor((np.linalg.inv(affine) @ AFFINE @ [*voxel, 1])[:3] + 0.5).astype(int)
        if (there >= 0).all() and (there < SHAPE).all():
            expected[voxel] = labels()[tuple(there)]
    assert (expected != labels()).mean() > 0.02
    run = one(image, atlas=write_image(tmp_path / "oblique.nii.gz", labels(), affine))
    np.testing.assert_allclose(run.data, means(bold(), expected), rtol=1e-12)


def test_seeds_take_every_voxel_within_the_radius(image, tmp_path):
    (tmp_path / "seeds.tsv").write_text("x\ty\tz\tname\n0\t-1\t1.5\tleft\n6\t2\t1.5\tright\n300\t0\t0\tfar\n")
    run = one(image, atlas=tmp_path / "seeds.tsv", radius_mm=5)
    assert run.channels == ("left", "right", "far")
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    world = grid @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    for row, centre in enumerate(([0, -1, 1.5], [6, 2, 1.5])):
        near = np.linalg.norm(world - centre, axis=-1) <= 5
        np.testing.assert_allclose(run.data[row], bold()[near].mean(axis=0), rtol=1e-12)
    assert np.isnan(run.data[2]).all()


@pytest.mark.parametrize(("name", "regions"), [("power_2011", 264), ("dosenbach_2010", 160), ("seitzman_2018", 300)])
def test_coordinates_that_need_no_download(name, regions, tmp_path):
    wide = np.diag([9.0, 9.0, 9.0, 1.0])
    wide[:3, 3] = [-90, -126, -72]
    values = np.random.default_rng(0).normal(size=(21, 25, 20, 3)) + 100
    run = one(write_image(tmp_path / "wide.nii.gz", values, wide, tr_s=2.0), atlas=name, radius_mm=8)
    assert len(run.channels) == len(set(run.channels)) == regions
    assert np.isfinite(run.data).all(axis=1).mean() > 0.95


# Repetition times


def test_milliseconds_are_read_as_such(tmp_path, atlas):
    assert one(write_image(tmp_path / "ms.nii.gz", bold(), tr_s=2000.0, unit="msec"), atlas=atlas).rate_hz == 0.5


@pytest.mark.parametrize("tr_s", [0.0, 0.1, 30.0, 2000.0])
def test_a_repetition_time_that_cannot_be_is_refused(tmp_path, atlas, tr_s):
    file = write_image(tmp_path / "odd.nii.gz", bold(), tr_s=tr_s)
    with pytest.raises(UnreadableRecording, match="declare tr_s"):
        read_fmri(file, atlas=atlas)
    run = one(file, atlas=atlas, tr_s=2.0)
    assert run.rate_hz == 0.5
    assert any("the declared 2 s are used" in note for note in run.notes)
    assert (stated_tr(file), stated_tr(file, 2.0)) == (None, 2.0)


def test_header_and_sidecar_must_agree(image, atlas):
    sidecar = image.with_name("bold.json")
    sidecar.write_text(json.dumps({"RepetitionTime": 2.01}))
    assert one(image, atlas=atlas).rate_hz == pytest.approx(1 / 2.01)
    sidecar.write_text(json.dumps({"RepetitionTime": 1.0}))
    with pytest.raises(UnreadableRecording, match="its header states a repetition time of 2 s, its sidecar 1 s"):
        read_fmri(image, atlas=atlas)
    with pytest.raises(UnreadableRecording, match="tr_s=2"):
        read_fmri(image, atlas=atlas, tr_s=2.0)
    sidecar.write_text("{")
    with pytest.raises(UnreadableRecording, match=r"bold.json"):
        read_fmri(image, atlas=atlas)


def test_a_sidecar_helps_a_header_without(tmp_path, atlas):
    file = write_image(tmp_path / "zero.nii.gz", bold(), tr_s=0.0)
    file.with_name("zero.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    run = one(file, atlas=atlas)
    assert run.rate_hz == 0.5
    assert any("the sidecar's 2 s are used" in note for note in run.notes)


def test_series_of_bare_numbers_must_be_told(tmp_path):
    file = tmp_path / "rois.1D"
    np.savetxt(file, bold(20)[1, :, 0].T)
    with pytest.raises(UnreadableRecording, match="declare it with tr_s"):
        read_fmri(file)
    assert one(file, tr_s=2.5).rate_hz == 0.4
    with pytest.raises(ConfigError, match="tr_s=0"):
        read_fmri(file, tr_s=0)


# What is refused


def test_images_that_are_no_run(tmp_path, atlas):
    for shape in ((*SHAPE, 1), SHAPE):
        file = write_image(tmp_path / f"{len(shape)}.nii.gz", np.ones(shape))
        with pytest.raises(UnreadableRecording, match="several volumes"):
            read_fmri(file, atlas=atlas, tr_s=2.0)


def test_an_image_without_an_atlas(image):
    with pytest.raises(UnreadableRecording, match="needs an atlas"):
        read_fmri(image)
    with pytest.raises(ConfigError, match="power_2011"):
        read_fmri(image, atlas="schaefer")


def test_an_atlas_of_elsewhere(image, tmp_path):
    away = AFFINE.copy()
    away[:3, 3] += 500
    with pytest.raises(UnreadableRecording, match="another space"):
        read_fmri(image, atlas=write_image(tmp_path / "away.nii.gz", labels(), away))


def test_an_atlas_of_another_template(tmp_path):
    file = write_image(tmp_path / "sub-1_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz", bold(), tr_s=2.0)
    close = write_image(tmp_path / "tpl-MNI152NLin6Asym_dseg.nii.gz", labels())
    assert any("up to 4 mm apart" in note for note in one(file, atlas=close).notes)
    own = write_image(tmp_path / "tpl-OASIS30ANTs_dseg.nii.gz", labels())
    with pytest.raises(UnreadableRecording, match="OASIS30ANTs"):
        read_fmri(file, atlas=own)


def test_a_mask_on_another_grid(image, atlas, tmp_path):
    mask = write_image(tmp_path / "mask.nii.gz", np.ones((4, 4, 4), dtype=np.uint8))
    with pytest.raises(UnreadableRecording, match=r"mask.nii.gz lies on another grid"):
        read_fmri(image, atlas=atlas, mask=mask)


def test_a_truncated_file(image, atlas):
    image.write_bytes(image.read_bytes()[:-2000])
    with pytest.raises(UnreadableRecording, match="cut short"):
        read_fmri(image, atlas=atlas)


def test_confounds_of_another_length(image, atlas, tmp_path):
    (tmp_path / "c.tsv").write_text("csf\n" + "1.0\n" * 18)
    with pytest.raises(UnreadableRecording, match=r"18 rows \('csf'\), the run 20 volumes"):
        read_fmri(image, atlas=atlas, confounds=tmp_path / "c.tsv")
    (tmp_path / "c.tsv").write_text("csf\n" + "1.0\n" * 20)
    assert one(image, atlas=atlas, confounds=tmp_path / "c.tsv").confounds["csf"].shape == (20,)


def test_names_of_runs():
    assert [is_bold(n) for n in ("a.nii", "a.dtseries.nii", "a.npy")] == [True, False, False]
    assert run_name("x/sub-1_bold.nii.gz") == "sub-1_bold"
