"""Synthetic fMRI: what is true of it must show in it."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medssl.adapters.fmri import read_fmri
from medssl.cohort.fmri_cleaning import clean
from medssl.cohort.fmri_motion import expanded, framewise_displacement
from medssl.errors import ConfigError
from medssl.synth import (
    FMRI_SITES,
    FmriPerson,
    FmriSite,
    draw_fmri_person,
    make_fmri_world,
    simulate_fmri,
    write_abide,
    write_fmriprep,
)

WORLD = make_fmri_world(regions=20)
LONG = FmriSite("X", "X", 1.0, 1500, 0.2, 0.0)


def still(group, world=WORLD):
    """A person like the mean of the group who lies almost still."""
    networks = world.coupling.shape[1]
    return FmriPerson(group, 20.0, "M", np.zeros((networks, networks)), 0.3)


def simulate(seed, group="control", *, world=WORLD, site=LONG):
    return simulate_fmri(np.random.default_rng(seed), world, still(group, world), site=site)


def cleaned(run):
    return clean(run.data.T, tr_s=run.tr_s, confounds=expanded(run.motion), filter="none").T


def edges(matrix):
    return matrix[np.tril_indices(len(matrix), -1)]


def test_every_state_shows_its_own_connectivity():
    run = simulate(0)
    series = cleaned(run)
    for state in range(3):
        found = edges(np.corrcoef(series[:, run.states == state]))
        likeness = [np.corrcoef(found, edges(WORLD.correlation("control", k)))[0, 1] for k in range(3)]
        assert int(np.argmax(likeness)) == state
        assert likeness[state] > 0.9


def test_groups_differ_in_one_pair_of_networks():
    first, second = WORLD.network == 0, WORLD.network == 1
    between = np.ix_(first, second)
    strength = {
        group: np.mean([np.corrcoef(cleaned(simulate(seed, group)))[between].mean() for seed in range(2)])
        for group in ("autism", "control")
    }
    assert strength["control"] - strength["autism"] > 0.15
    same = make_fmri_world(regions=20, effect=0.0)
    np.testing.assert_allclose(same.coupling_of("autism"), same.coupling_of("control"), atol=1e-12)


def test_a_site_adds_its_own_to_all_regions():
    quiet = replace(LONG, volumes=600)
    loud = replace(quiet, shared=0.9)
    means = [edges(np.corrcoef(cleaned(simulate(0, site=site)))).mean() for site in (quiet, loud)]
    assert means[1] - means[0] > 0.15


def test_motion_leaves_spikes_that_censoring_finds():
    restless = replace(still("control"), restlessness=3.0)
    run = simulate_fmri(np.random.default_rng(0), WORLD, restless, site=replace(LONG, volumes=600))
    moved = framewise_displacement(run.motion) > 0.5
    assert 3 <= moved.sum() <= 60
    size = np.abs(run.data).mean(axis=0)
    assert size[moved].mean() > 2 * size[~moved].mean()
    assert framewise_displacement(simulate(0).motion).mean() < framewise_displacement(run.motion).mean() / 3


def test_states_last_for_tens_of_seconds():
    states = simulate(0).states
    assert set(states) == {0, 1, 2}
    assert 15 < len(states) / (np.diff(states) != 0).sum() < 120


def test_the_same_seed_gives_the_same_run():
    np.testing.assert_array_equal(simulate(3).data, simulate(3).data)
    assert not np.array_equal(simulate(3).data, simulate(4).data)


def test_worlds_that_cannot_be():
    with pytest.raises(ConfigError, match="at least 2 networks"):
        make_fmri_world(regions=3, networks=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_files_as_abide_has_them(tmp_path):
    write_abide(tmp_path / "a", patients=11, regions=20)
    with (tmp_path / "a" / "phenotypic.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["DX_GROUP"] for row in rows) == {"1": 6, "2": 5}
    assert {row["SITE_ID"] for row in rows} == {site.name for site in FMRI_SITES}
    assert any(row["FIQ"] == "-9999" for row in rows)
    files = {row["FILE_ID"]: next((tmp_path / "a").glob(f"*/{row['FILE_ID']}_rois_cc200.1D")) for row in rows}
    (run,) = read_fmri(files[rows[0]["FILE_ID"]], tr_s=2.0).recordings
    assert (run.data.shape, run.channels[-1]) == ((20, 176), "#20")
    (ninth,) = read_fmri(files[rows[9]["FILE_ID"]], tr_s=2.0).recordings
    assert np.flatnonzero(~ninth.data.any(axis=1)).tolist() == [9]


def test_a_patient_does_not_depend_on_how_many_there_are(tmp_path):
    few, more = (contents(write_abide(tmp_path / str(n), patients=n, regions=20)) for n in (2, 3))
    assert all(more[name] == content for name, content in few.items() if name != "phenotypic.csv")
    with pytest.raises(ConfigError, match="at least one"):
        write_abide(tmp_path / "none", patients=0)


def test_files_as_fmriprep_has_them(tmp_path):
    site = replace(FMRI_SITES[0], volumes=40)
    write_fmriprep(tmp_path, patients=1, regions=10, site=site)
    place = tmp_path / "derivatives" / "fmriprep" / "sub-01" / "func"
    stem = "sub-01_task-rest_space-MNI152NLin2009cAsym_desc-"
    read = read_fmri(
        place / f"{stem}preproc_bold.nii.gz",
        atlas=tmp_path / "atlas" / "blocks.nii.gz",
        mask=place / f"{stem}brain_mask.nii.gz",
        confounds=place / "sub-01_task-rest_desc-confounds_timeseries.tsv",
    )
    (run,) = read.recordings
    assert (run.data.shape, run.channels[0], run.rate_hz, run.notes) == ((10, 40), "block1", 0.5, ())
    assert {"trans_x", "rot_z", "csf", "white_matter", "global_signal"} <= set(run.confounds)
    world = make_fmri_world(regions=10)
    rng = np.random.default_rng([0, 0])
    true = simulate_fmri(rng, world, draw_fmri_person(rng, world, group="autism"), site=site)
    line = np.linspace(-1, 1, 40)
    for found, wanted in zip(run.data, true.data, strict=True):  # blocks show their region, but for drift and noise
        assert np.corrcoef(found - np.polyval(np.polyfit(line, found - 10 * wanted, 1), line), wanted)[0, 1] > 0.9
