"""Confounds of an fMRI run: fMRIPrep's tables, and motion parameters as other programs write them.

Whatever the file, motion comes out under fMRIPrep's names ``trans_x`` ... ``rot_z`` in millimetres and radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.text_numbers import read_numbers
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["CONVENTIONS", "MOTION", "read_confounds"]

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
"""Names of the six motion parameters: millimetres, then radians."""

_DEGREE = float(np.pi / 180)
CONVENTIONS: Mapping[str, tuple[tuple[str, ...], float]] = {
    "fsl": (("rot_x", "rot_y", "rot_z", "trans_x", "trans_y", "trans_z"), 1.0),
    "spm": (MOTION, 1.0),
    "hcp": (MOTION, _DEGREE),
    "afni": (("rot_z", "rot_x", "rot_y", "trans_z", "trans_x", "trans_y"), _DEGREE),
}
"""Program → the order of its first six columns, and radians in one of its units of rotation: FSL's ``.par`` (MCFLIRT),
SPM's ``rp_*.txt``, HCP's ``Movement_Regressors.txt``, AFNI's ``3dvolreg`` (roll, pitch, yaw, dS, dL, dP)."""


def read_confounds(path: Path | str, *, motion: str = "") -> dict[str, NDArray[np.float64]]:
    """Reads one table of confounds, a row a volume.

    Args:
        path: fMRIPrep's ``*_desc-confounds_timeseries.tsv`` (or the older ``*_regressors.tsv``), any table with a
            header, or bare columns of which the first six are motion parameters.
        motion: the program that wrote bare columns, one of :data:`CONVENTIONS`; never guessed, since degrees taken for
            radians make 57 times the motion.

    Returns:
        Name → (T,) float64. fMRIPrep's first rows of derivatives and displacements, which have no value, are 0.

    Raises:
        UnreadableRecording: not such a table, a value missing elsewhere, or bare columns without ``motion``.
        ConfigError: an unknown convention.
    """
    if motion and motion not in CONVENTIONS:
        raise ConfigError(f"motion '{motion}' is unknown; use one of {', '.join(CONVENTIONS)}")
    path = Path(path)
    table = read_numbers(path)
    if table.names and not motion:
        return {name: _complete(name, column, path) for name, column in zip(table.names, table.values.T, strict=True)}
    if not motion:
        raise UnreadableRecording(
            f"{table.values.shape[1]} columns without a header: say who wrote them with motion, one of "
            f"{', '.join(CONVENTIONS)}",
            path,
        )
    if table.values.shape[1] < 6:
        raise UnreadableRecording(f"{table.values.shape[1]} columns are no six motion parameters", path)
    order, radians = CONVENTIONS[motion]
    columns = {name: _complete(name, table.values[:, i], path) for i, name in enumerate(order)}
    return {name: columns[name] * (radians if name.startswith("rot") else 1.0) for name in MOTION}


def _complete(name: str, column: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """The column without its NaN at first: differences of the first volume are not known, and taken as none."""
    missing = np.flatnonzero(~np.isfinite(column))
    if not missing.size:
        return column
    if missing.size > 1 or missing[0] > 0:
        row = int(missing[missing > 0][0])
        raise UnreadableRecording(f"column '{name}' has no number at volume {row + 1}", path)
    filled = column.copy()
    filled[0] = 0.0
    return filled
