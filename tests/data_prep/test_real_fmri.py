"""Recipes of fMRI on parts of ABIDE and of Haxby's data set: every file, and nilearn beside our own parcellation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from medssl.adapters.fmri import read_fmri
from medssl.cohort import Cohort
from medssl.cohort.recipe import Item, load_recipe
from medssl.cohort.verify import cohort_verify
from medssl.cohort.writer import prepare


@pytest.fixture(scope="module")
def abide(shared_data) -> Path:
    return shared_data / "fmri_abide_cc200"


@pytest.fixture(scope="module")
def haxby(shared_data) -> Path:
    return shared_data / "fmri_haxby_bold" / "sub001"


@pytest.fixture(scope="module")
def atlas(haxby, tmp_path_factory) -> Path:
    """Four voxels of the brain at a time make 33 regions of this one person."""
    brain = nibabel.load(haxby / "masks" / "25mm" / "brain.nii.gz")
    inside = np.asarray(brain.dataobj) > 0
    labels = np.zeros(inside.shape, dtype=np.int16)
    labels[inside] = 1 + np.arange(inside.sum()) // 4
    file = tmp_path_factory.mktemp("atlas") / "fours.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, brain.affine), file)
    return file


def test_every_run_of_abide_is_read_as_its_readme_says(abide):
    recipe = load_recipe("abide")
    items = [found for found in recipe.find(abide) if isinstance(found, Item)]
    assert len(items) == 107 == len(list(abide.glob("*/*.gz")))
    assert Counter(i.labels["diagnosis"] for i in items) == {"autism": 53, "control": 54}
    assert Counter(i.labels["sex"] for i in items) == {"M": 91, "F": 16}
    sites = {"UCLA_1": 26, "NYU": 25, "OHSU": 16, "TRINITY": 14, "KKI": 14, "CALTECH": 12}
    assert Counter(i.site for i in items) == sites
    assert sum(i.labels["fiq"] is None for i in items) == 2  # -9999
    lengths, zeros = set(), {}
    for item in items:
        (run,) = recipe.read(item).recordings
        assert (run.data.shape[0], run.channels[0], run.channels[-1], run.notes) == (200, "#1", "#200", ())
        lengths.add(run.data.shape[1])
        zeros[item.ids.recording] = int((~run.data.any(axis=1)).sum())
    assert (min(lengths), max(lengths)) == (78, 176)
    assert zeros["Caltech_0051478"] == 118
    assert sum(n > 0 for n in zeros.values()) == 4


def test_one_run_is_what_numpy_reads(abide):
    file = abide / "NYU" / sorted(f.name for f in (abide / "NYU").iterdir())[0]
    (run,) = read_fmri(file, tr_s=2.0).recordings
    plain = pd.read_csv(file, sep="\t").to_numpy()
    np.testing.assert_allclose(run.data.T, plain, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_all_of_abide_becomes_a_sound_cohort(abide, tmp_path):
    prepare("abide", abide, tmp_path / "cohort", workers=0, keep_ids=True)
    cohort_verify(tmp_path / "cohort")
    cohort = Cohort(tmp_path / "cohort")
    assert (len(cohort), cohort.info.n_rejected, len(cohort.info.channels)) == (103, 4, 200)
    assert cohort.info.rate_hz == pytest.approx(1 / 3)
    reasons = Counter(
        reason.split(":")[0].split("(")[0] for reason in pd.read_csv(tmp_path / "cohort" / "rejected.csv").reason
    )
    assert reasons == {"too much motion": 3, "118 of 200 regions are invalid ": 1}
    assert Counter(cohort.manifest.label_diagnosis) == {"control": 52, "autism": 51}
    seconds = cohort.manifest.n_samples * 3.0
    assert (seconds.min(), seconds.max()) == (195, 381)
    for row in range(0, len(cohort), 20):
        x = cohort.reader(row).read_all("image") * np.array(cohort.manifest.input_scale[row])[:, None]
        valid = np.array(cohort.manifest.input_scale[row]) > 0
        np.testing.assert_allclose(x[valid].std(axis=1, ddof=1), 1, atol=1e-3)


def test_haxby_is_parcellated_as_by_nilearn(haxby, atlas):
    from nilearn.maskers import NiftiLabelsMasker

    mask = haxby / "masks" / "25mm" / "brain.nii.gz"
    files = sorted(haxby.glob("BOLD/*/bold_25mm.nii.gz"))
    assert len(files) == 9
    masker = NiftiLabelsMasker(str(atlas), mask_img=str(mask), standardize=None, resampling_target="data")
    for file in files:
        table = file.with_name("bold_moest.txt")
        (run,) = read_fmri(file, atlas=atlas, mask=mask, confounds=table, motion="fsl").recordings
        assert (run.data.shape, run.rate_hz) == ((33, 121), 0.4)
        np.testing.assert_allclose(run.data.T, masker.fit_transform(str(file)), rtol=0, atol=1e-9)


def test_a_series_of_one_slice(haxby):
    (run,) = read_fmri(haxby / "BOLD" / "task001_run001" / "bold_1slice.nii.gz", atlas="power_2011").recordings
    assert run.data.shape == (264, 121)
    assert 0 < np.isfinite(run.data).all(axis=1).sum() < 40  # a slice crosses few regions


def test_all_runs_of_haxby_become_a_cohort_without_much_motion(haxby, atlas, tmp_path):
    options = {
        "kind": "fmri",
        "glob": "**/bold_25mm.nii.gz",
        "pattern": r"(?P<patient>sub\d+)/BOLD/(?P<recording>task001_run\d+)/bold_25mm\.nii\.gz",
        "masks": {"brain": "{patient}/masks/25mm/brain.nii.gz"},
        "confounds": "{patient}/BOLD/{recording}/bold_moest.txt",
        "motion": "fsl",
        "atlas": str(atlas),
    }
    prepare("folder", haxby.parent, tmp_path / "cohort", options=options, workers=0, keep_ids=True)
    cohort_verify(tmp_path / "cohort")
    table = Cohort(tmp_path / "cohort").manifest.set_index("recording")
    assert len(table) == 9
    assert table.n_samples.to_dict() == {f"task001_run00{i}": 121 if i < 9 else 120 for i in range(1, 10)}
    assert table.quality_mean_fd.between(0.08, 0.14).all()  # degrees taken for radians would make it 50 times as much
