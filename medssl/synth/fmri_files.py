"""Synthetic fMRI as files: series of regions as ABIDE's, and 4-D images with confounds as fMRIPrep's."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.fmri_confounds import MOTION
from medssl.cohort.fmri_cleaning import clean
from medssl.cohort.fmri_motion import expanded, framewise_displacement
from medssl.errors import ConfigError
from medssl.synth.fmri import (
    FMRI_SITES,
    FmriSite,
    FmriWorld,
    SyntheticFmri,
    draw_fmri_person,
    make_fmri_world,
    simulate_fmri,
)

__all__ = ["write_abide", "write_fmriprep"]

BAND_HZ = (0.01, 0.1)
SPACE = "MNI152NLin2009cAsym"
_GRID = (10, 12, 10)
_VOXEL_MM = 8.0
_FIRST_ID = 50_950


def write_abide(
    folder: Path | str, *, patients: int = 12, seed: int = 0, regions: int = 40, effect: float = 0.5
) -> Path:
    """Writes ``SITE/FILE_ID_rois_cc200.1D`` and ``phenotypic.csv`` as ABIDE preprocessed has them.

    With its peculiarities: names of sites in another spelling in the names of files, a header that begins with ``#``,
    lengths and repetition times that differ by site, 1 for autism and 2 for control, -9999 for unknown, and a region of
    zeros in every tenth run. Series are band-passed and free of motion, as that pipeline leaves them.

    Args:
        folder: made if missing.
        patients: one run each; groups in turn, sites in turn after both.
        seed: the same seed gives the same bytes; a patient does not depend on how many there are.
        regions, effect: see :func:`medssl.synth.fmri.make_fmri_world`.

    Raises:
        ConfigError: less than one patient.
    """
    world, folder = _begun(folder, patients, regions, effect, seed), Path(folder)
    rows: list[dict[str, Any]] = []
    for number in range(patients):
        site = FMRI_SITES[number // 2 % len(FMRI_SITES)]
        run, row, displacement = _person(world, number, seed, site)
        confounds = expanded(run.motion)
        series = clean(run.data.T, tr_s=run.tr_s, confounds=confounds, band_hz=BAND_HZ) * 20
        if number % 10 == 9:
            series[:, number % regions] = 0.0
        name = f"{site.prefix}_{_FIRST_ID + number:07d}"
        (folder / site.prefix).mkdir(exist_ok=True)
        header = "\t".join(f"#{i}" for i in range(1, regions + 1))
        lines = ["\t".join(f"{v:.6f}" for v in volume) for volume in series]
        (folder / site.prefix / f"{name}_rois_cc200.1D").write_text("\n".join([header, *lines]) + "\n")
        identity = {"SUB_ID": _FIRST_ID + number, "SITE_ID": site.name, "FILE_ID": name}
        rows.append({**identity, **row, "func_mean_fd": f"{displacement.mean():.6f}"})
    _table(folder / "phenotypic.csv", rows, ",")
    return folder


def write_fmriprep(
    folder: Path | str,
    *,
    patients: int = 4,
    seed: int = 0,
    regions: int = 20,
    effect: float = 0.5,
    site: FmriSite = FMRI_SITES[0],
) -> Path:
    """Writes small 4-D images with confounds, masks and sidecars in fMRIPrep's layout, and an atlas.

    Args:
        folder: made if missing; ``derivatives/fmriprep/sub-*/func/``, ``participants.tsv``, and ``atlas/blocks.nii.gz``
            with ``blocks.tsv``.
        patients: one run each.
        seed: the same seed gives the same voxels; a patient does not depend on how many there are.
        regions, effect: see :func:`medssl.synth.fmri.make_fmri_world`.
        site: of all runs.

    Raises:
        ConfigError: less than one patient, or more regions than the picture has blocks.
    """
    if not 2 <= regions <= 40:
        raise ConfigError(f"regions {regions}: 2 to 40 fit into the picture")
    world, folder = _begun(folder, patients, regions, effect, seed), Path(folder)
    labels, brain = _blocks(regions)
    affine = np.diag([_VOXEL_MM, _VOXEL_MM, _VOXEL_MM, 1.0])
    affine[:3, 3] = -_VOXEL_MM * (np.array(_GRID) - 1) / 2
    (folder / "atlas").mkdir(exist_ok=True)
    _image(folder / "atlas" / "blocks.nii.gz", labels, affine)
    _table(folder / "atlas" / "blocks.tsv", [{"index": i, "name": f"block{i}"} for i in range(1, regions + 1)], "\t")
    people: list[dict[str, Any]] = []
    for number in range(patients):
        run, row, _ = _person(world, number, seed, site)
        subject = f"sub-{number + 1:02d}"
        place = folder / "derivatives" / "fmriprep" / subject / "func"
        place.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, number, 2])
        stem = f"{subject}_task-rest"
        start = place / f"{stem}_space-{SPACE}"
        _image(Path(f"{start}_desc-preproc_bold.nii.gz"), _voxels(rng, run, labels, brain), affine, run.tr_s)
        _image(Path(f"{start}_desc-brain_mask.nii.gz"), brain.astype(np.uint8), affine)
        Path(f"{start}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": run.tr_s, "TaskName": "rest"}))
        _confounds(place / f"{stem}_desc-confounds_timeseries.tsv", rng, run)
        group = "autism" if row["DX_GROUP"] == 1 else "control"
        people.append({"participant_id": subject, "group": group, "age": row["AGE_AT_SCAN"], "site": site.name})
    _table(folder / "participants.tsv", people, "\t")
    return folder


def _begun(folder: Path | str, patients: int, regions: int, effect: float, seed: int) -> FmriWorld:
    if patients < 1:
        raise ConfigError(f"patients {patients}: at least one is needed")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return make_fmri_world(regions=regions, networks=min(5, regions // 2), effect=effect, seed=seed)


def _person(
    world: FmriWorld, number: int, seed: int, site: FmriSite
) -> tuple[SyntheticFmri, dict[str, Any], NDArray[np.float64]]:
    """A run, the person's columns of ABIDE's table, and the displacement."""
    rng = np.random.default_rng([seed, number])
    person = draw_fmri_person(rng, world, group=("autism", "control")[number % 2])
    run = simulate_fmri(rng, world, person, site=site)
    row = {
        "DX_GROUP": 1 if person.group == "autism" else 2,
        "AGE_AT_SCAN": f"{person.age:.2f}",
        "SEX": 1 if person.sex == "M" else 2,
        "FIQ": -9999 if number % 7 == 6 else round(float(rng.normal(108, 14))),
        "EYE_STATUS_AT_SCAN": 1 + number % 2,
    }
    return run, row, framewise_displacement(run.motion)


def _blocks(regions: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Labels of the regions (blocks of 2 x 3 x 2 voxels, one voxel apart from the edge), and the brain around them."""
    labels = np.zeros(_GRID, dtype=np.int16)
    corners = [(x, y, z) for x in range(1, 9, 2) for y in range(1, 10, 3) for z in range(1, 9, 2)]
    for label, (x, y, z) in enumerate(corners[:regions], start=1):
        labels[x : x + 2, y : y + 3, z : z + 2] = label
    brain = np.zeros(_GRID, dtype=bool)
    brain[1:-1, 1:-1, 1:-1] = True
    return labels, brain


def _voxels(
    rng: np.random.Generator, run: SyntheticFmri, labels: NDArray[np.int16], brain: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """(X, Y, Z, T): a brain of about 1000 units, of which one percent is signal, a drift, and noise in every voxel."""
    volumes = run.data.shape[1]
    signal = np.concatenate([np.zeros((1, volumes)), run.data])[labels]
    drift = 15 * np.linspace(-1, 1, volumes) * rng.normal(1, 0.3, (*_GRID, 1))
    values = 1000 + 10 * signal + drift + rng.normal(0, 5, (*_GRID, volumes))
    return np.rint(values * brain[..., None]).astype(np.int16)


def _confounds(file: Path, rng: np.random.Generator, run: SyntheticFmri) -> None:
    """The columns of fMRIPrep that matter here, without a value in the first row where it has none."""
    drift = np.linspace(-1, 1, len(run.motion))
    columns = {name: run.motion[:, i] for i, name in enumerate(MOTION)}
    columns |= {
        "csf": 900 + 15 * drift + rng.normal(0, 2, len(drift)),
        "white_matter": 800 + 15 * drift + rng.normal(0, 2, len(drift)),
        "global_signal": 950 + 15 * drift + 5 * run.data.mean(axis=0),
        "framewise_displacement": framewise_displacement(run.motion),
        "trans_x_derivative1": np.diff(run.motion[:, 0], prepend=0.0),
        "cosine00": np.cos(np.pi * (np.arange(len(drift)) + 0.5) / len(drift)),
    }
    unknown = ("framewise_displacement", "trans_x_derivative1")
    rows = [
        {name: "n/a" if not i and name in unknown else f"{column[i]:.8g}" for name, column in columns.items()}
        for i in range(len(drift))
    ]
    _table(file, rows, "\t")


def _image(file: Path, values: NDArray[Any], affine: NDArray[np.float64], tr_s: float | None = None) -> None:
    import nibabel

    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    if tr_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    nibabel.save(image, file)


def _table(file: Path, rows: Sequence[Mapping[str, Any]], separator: str) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=separator, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
