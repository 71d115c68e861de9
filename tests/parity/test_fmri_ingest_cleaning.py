"""Parcellation, cleaning and motion against ``fmri_ingest.npz``, which was made with nilearn 0.14.1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medssl.adapters.fmri import read_fmri
from medssl.cohort.fmri_cleaning import clean
from medssl.cohort.fmri_motion import framewise_displacement

Golden = Mapping[str, np.ndarray]

TOLERANCE = 1e-8


@pytest.fixture(scope="module")
def vectors(golden: Callable[[str], Golden]) -> Golden:
    return golden("fmri_ingest")


@pytest.fixture(scope="module")
def image(vectors: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden image as a file."""
    file = tmp_path_factory.mktemp("golden") / "bold.nii.gz"
    made = nibabel.Nifti1Image(vectors["image"], vectors["affine"])
    made.header.set_xyzt_units("mm", "sec")
    made.header.set_zooms((*made.header.get_zooms()[:3], float(vectors["t_r"])))
    nibabel.save(made, file)
    return file


def test_means_of_labels(vectors: Golden, image: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(vectors["labels"], vectors["affine"]), tmp_path / "atlas.nii.gz")
    (run,) = read_fmri(image, atlas=tmp_path / "atlas.nii.gz").recordings
    assert run.channels == tuple(str(i) for i in vectors["label_ids"])
    np.testing.assert_allclose(run.data.T, vectors["roi_mean"], rtol=0, atol=TOLERANCE)


def test_means_of_spheres(vectors: Golden, image: Path, tmp_path: Path) -> None:
    rows = ["x,y,z", *(",".join(map(str, centre)) for centre in vectors["sphere_coords"])]
    (tmp_path / "seeds.csv").write_text("\n".join(rows) + "\n")
    (run,) = read_fmri(image, atlas=tmp_path / "seeds.csv", radius_mm=float(vectors["sphere_radius"])).recordings
    np.testing.assert_allclose(run.data.T, vectors["sphere_mean"], rtol=0, atol=TOLERANCE)


def test_cleaning(vectors: Golden) -> None:
    high, low, tr = (float(vectors[name]) for name in ("high_pass", "low_pass", "t_r"))
    series, confounds = vectors["roi_mean"], vectors["confounds"]
    kept = np.isin(np.arange(len(series)), vectors["sample_mask"])
    cosine = {"filter": "cosine", "band_hz": (high, None), "remove_trend": False}
    cases = {
        "clean_detrend_z": {"filter": "none"},
        "clean_confounds_only": {"filter": "none", "confounds": confounds},
        "clean_full": {"band_hz": (high, low), "confounds": confounds},
        "clean_scrubbed": {"band_hz": (high, low), "confounds": confounds, "kept": kept},
        "clean_cosine": cosine,
        "clean_cosine_conf": {**cosine, "confounds": vectors["confounds_white"]},
    }
    for name, settings in cases.items():
        found = clean(series, tr_s=tr, **settings)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, vectors[name], rtol=0, atol=TOLERANCE, err_msg=name)


def test_framewise_displacement(vectors: Golden) -> None:
    np.testing.assert_allclose(framewise_displacement(vectors["motion"]), vectors["fd_power"], rtol=0, atol=TOLERANCE)
