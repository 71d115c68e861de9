"""Whether length and spectra of series tell a label that connectivity is said to tell.

Runs of one site are as long as each other and sampled alike, and chance correlations are the larger the fewer volumes
there are. Connectivity of series with random phases, region by region, has nothing but that left: what it tells is no
property of the brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.audit.facts import Facts
from medssl.audit.findings import Finding
from medssl.audit.shortcuts import look_for_shortcuts, manageable, renumbered, shortcut_finding
from medssl.audit.target import problem_of

if TYPE_CHECKING:
    from medssl.cohort import Cohort
    from medssl.training.targets import Target

__all__ = ["phase_null_findings", "spread_of_chance"]

SHARES = (0.1, 0.5, 0.9, 0.99)
NAMES = (*(f"{share:.0%} quantile of |r|" for share in SHARES), "SD of r")


def phase_null_findings(
    target: Target, development: Sequence[str], *, permutations: int, seed: int
) -> tuple[list[Finding], str, dict[str, Any]]:
    """Predict a label from the spread of correlations that phase-randomised series have by chance.

    Args:
        target: one label a recording of functional MRI.
        development: patients that may be learnt from.
        permutations: of patients' facts, for the p value; 0 for none.
        seed: of phases, folds and permutations.

    Returns:
        Findings; in words what was done; the figures.
    """
    items = target.items_of(development)
    whole = problem_of(target, items)
    rows, classes, left_out = manageable(whole, seed)
    problem = renumbered(whole, rows, classes)
    x = np.array([spread_of_chance(target.cohort, int(row), seed) for row in target.rows[items][rows]])
    facts = Facts(NAMES, x, np.zeros(len(NAMES), dtype=np.bool_), {})
    found = look_for_shortcuts(problem, facts, permutations=permutations, seed=seed)
    size = f"{len(rows)} runs" + (f" ({left_out})" if left_out else "")
    if found is None:
        return [], f"left out: there are too few patients ({size})", {}
    said = f"'{target.name}' from correlations of phase-randomised series; {size}: {found}"
    finding = shortcut_finding(found, target.name, "lengths and spectra of the series (phases randomised)")
    return [] if finding is None else [replace(finding, check="phase null")], said, found.to_plain()


def spread_of_chance(cohort: Cohort, row: int, seed: int) -> NDArray[np.float64]:
    """How far correlations of a run spread once the phases of its regions are random: quantiles of \\|r\\|, SD of r.

    NaN (unknown) where fewer than two regions have a signal.
    """
    import torch

    from medssl.training.windows import Recordings
    from medssl.views.connectivity import correlation, lower_triangle, phase_randomised, valid_regions

    recordings = Recordings(cohort, channels=None, rows=np.array([row]), cache_gb=0)
    x = torch.from_numpy(recordings.network_input(row, recordings.read(row, (0,), recordings.shape(row))))
    x = x[valid_regions(x)]
    if len(x) < 2:
        return np.full(len(NAMES), np.nan)
    generator = torch.Generator().manual_seed(seed + row)
    edges = lower_triangle(correlation(phase_randomised(x, generator, together=False))).double().numpy()
    return np.array([*np.quantile(np.abs(edges), SHARES), edges.std()])
