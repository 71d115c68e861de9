"""Which confounds are regressed out: the sets of the field, from fMRIPrep's column names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.fmri_confounds import MOTION
from medssl.cohort.fmri_motion import expanded, framewise_displacement
from medssl.errors import ConfigError

__all__ = ["CONFOUND_SETS", "confound_matrix", "displacement_of", "non_steady_volumes"]

Columns = Mapping[str, NDArray[np.float64]]

CONFOUND_SETS = ("none", "motion", "simple", "scrubbing", "compcor", "gsr")
"""``motion``: 24 regressors (six parameters, their differences, the squares of both). ``simple``: these, ``csf`` and
``white_matter``. ``scrubbing``: the same with four regressors each of the latter; only with censoring. ``compcor``: 24
of motion and all ``a_comp_cor_*``. ``gsr``: ``simple`` and ``global_signal``. (Ciric et al., NeuroImage 154:174, 2017.)
"""

_TISSUES = ("csf", "white_matter")


def confound_matrix(table: Columns, which: str | Sequence[str]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The regressors of a set.

    fMRIPrep's ``cosine*`` columns are never among them: low frequencies are removed by the filter, and not twice.
    Differences and squares are computed here, as fMRIPrep does, so that hand-made tables may leave them out.

    Args:
        table: name → (T,).
        which: one of :data:`CONFOUND_SETS`, or names of columns to take as they stand.

    Returns:
        (T, K) and the K names; K is 0 for ``"none"``.

    Raises:
        ConfigError: columns that the set needs are not in the table.

    >>> table = {name: np.zeros(9) for name in (*MOTION, "csf", "white_matter")}
    >>> confound_matrix(table, "simple")[0].shape
    (9, 26)
    """
    if isinstance(which, str):
        four, single = _bases(table, which)
    else:
        four, single = [], list(which)
    lacking = [name for name in (*four, *single) if name not in table]
    if lacking:
        there = ", ".join(list(table)[:12]) or "none"
        raise ConfigError(f"confounds {which} need the columns {', '.join(lacking[:8])}, which are not there ({there})")
    parts = [expanded(np.stack([table[n] for n in four], axis=1))] if four else []
    parts += [np.stack([table[n] for n in single], axis=1)] if single else []
    length = len(next(iter(table.values()))) if table else 0
    names = [f"{n}{suffix}" for suffix in ("", "_derivative1", "_power2", "_derivative1_power2") for n in four]
    return (np.concatenate(parts, axis=1) if parts else np.zeros((length, 0))), (*names, *single)


def _bases(table: Columns, which: str) -> tuple[list[str], list[str]]:
    """Columns that come with difference and squares, and columns that stand alone."""
    if which == "none":
        return [], []
    if which == "scrubbing":
        return [*MOTION, *_TISSUES], []
    if which == "compcor":
        components = [name for name in table if re.fullmatch(r"a_comp_cor_\d+", name)]
        return [*MOTION], components or ["a_comp_cor_00"]
    return [*MOTION], {"motion": [], "simple": [*_TISSUES], "gsr": [*_TISSUES, "global_signal"]}[which]


def displacement_of(table: Columns) -> NDArray[np.float64] | None:
    """(T,) framewise displacement in mm: from motion parameters, else the table's own column, else None."""
    if all(name in table for name in MOTION):
        return framewise_displacement(np.stack([table[name] for name in MOTION], axis=1))
    return table.get("framewise_displacement")


def non_steady_volumes(table: Columns) -> int:
    """Volumes at the beginning that fMRIPrep marks as taken before the steady state.

    >>> non_steady_volumes({"non_steady_state_outlier00": np.array([1, 0, 0.]), "csf": np.zeros(3)})
    1
    """
    marks = [column > 0 for name, column in table.items() if name.startswith("non_steady_state_outlier")]
    flagged = np.logical_or.reduce(marks) if marks else np.zeros(1, dtype=bool)
    return len(flagged) if flagged.all() else int(np.argmin(flagged))
