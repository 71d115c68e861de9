"""Lengths and spectra of runs must not tell the label of their connectivity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medssl.audit.leakage import leakage
from medssl.audit.phase_null import NAMES, phase_null_findings, spread_of_chance
from medssl.cohort import Cohort
from medssl.cohort.writer import prepare
from medssl.splits import split
from medssl.training.targets import resolve_target

RECIPE = Path(__file__).parent / "toy_lengths_recipe.py"


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cohort]:
    """Noise of 24 patients in two groups: of one length, or the one group twice as long as the other."""
    made = {}
    for name, lengths in {"even": (90, 90), "uneven": (60, 140)}.items():
        folder = tmp_path_factory.mktemp(name)
        raw = folder / "raw"
        raw.mkdir()
        rng = np.random.default_rng(3)
        for patient in range(24):
            np.save(raw / f"p{patient:02d}_{'ab'[patient % 2]}.npy", rng.normal(size=(lengths[patient % 2], 12)))
        prepare(str(RECIPE), raw, folder / "cohort", workers=0, keep_ids=True)
        split(folder / "cohort", test=4, stratify="group")
        made[name] = Cohort(folder / "cohort")
    return made


def test_a_run_without_two_regions_that_vary_is_unknown(cohorts: dict[str, Cohort], tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    silent = np.zeros((90, 12))
    silent[:, 0] = np.random.default_rng(0).normal(size=90)
    np.save(raw / "p00_a.npy", silent)
    prepare(
        str(RECIPE), raw, tmp_path / "cohort", workers=0, keep_ids=True, preparation={"max_invalid": 1.0},
    )  # fmt: skip
    assert np.isnan(spread_of_chance(Cohort(tmp_path / "cohort"), 0, 0)).all()


def findings_of(cohort: Cohort) -> tuple[list[str], str, dict[str, float]]:
    target = resolve_target(cohort, "classification", "group")
    found, said, figures = phase_null_findings(target, sorted(set(target.patients)), permutations=19, seed=0)
    return [f.message for f in found], said, figures


def test_chance_correlations_of_short_runs_spread_wider(cohorts: dict[str, Cohort]) -> None:
    cohort = cohorts["uneven"]
    spread = np.array([spread_of_chance(cohort, row, 0) for row in range(24)])
    short = np.array([cohort.reader(row).shape[0] for row in range(24)]) < 100
    assert spread.shape == (24, len(NAMES)) and short.sum() == 12
    assert spread[short, -1].min() > spread[~short, -1].max()
    assert spread[~short, -1].mean() == pytest.approx(1 / np.sqrt(139), rel=0.15), "of white noise"
    np.testing.assert_array_equal(spread[3], spread_of_chance(cohort, 3, 0))


def test_lengths_that_differ_between_the_groups_are_found(cohorts: dict[str, Cohort]) -> None:
    messages, said, figures = findings_of(cohorts["uneven"])
    assert len(messages) == 1 and "lengths and spectra of the series" in messages[0] and "even them out" in messages[0]
    assert "24 runs" in said and figures["score"] > 0.9


def test_runs_that_are_alike_tell_nothing(cohorts: dict[str, Cohort]) -> None:
    messages, said, figures = findings_of(cohorts["even"])
    assert not messages and figures["score"] < 0.8 and "group" in said


def test_the_audit_of_functional_mri_holds_it(cohorts: dict[str, Cohort], tmp_path: Path) -> None:
    report = leakage(cohort=cohorts["uneven"].path, target="group", permutations=19, out=tmp_path / "audit.json")
    assert "phase null" in report.checks and any(f.check == "phase null" for f in report.findings)
    assert report.measures["phase null"]["score"] > 0.9
