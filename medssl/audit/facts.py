"""What is known of a recording without looking at it: the metadata that could give a label away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import Cohort

__all__ = ["Facts", "encode", "manifest_facts"]

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
_MOST_CATEGORIES = 200  # the rarer ones count as unknown
_MOST_NOTES = 20


@dataclass(frozen=True)
class Facts:
    """Metadata as numbers.

    Attributes:
        names: (D,) of the columns.
        x: (n, D) float64; NaN is unknown. Categories are numbered.
        categorical: (D,) whether a column's numbers are names.
        dropped: columns that say nothing, with the reason.
    """

    names: tuple[str, ...]
    x: NDArray[np.float64]
    categorical: NDArray[np.bool_]
    dropped: Mapping[str, str]

    def take(self, rows: NDArray[np.integer]) -> Facts:
        """The same columns of other rows, a row may come several times."""
        return Facts(self.names, self.x[rows], self.categorical, self.dropped)

    def with_number(self, name: str, values: NDArray[np.floating]) -> Facts:
        """One numeric column more."""
        x = np.column_stack([self.x, np.asarray(values, dtype=np.float64)])
        return Facts((*self.names, name), x, np.append(self.categorical, False), self.dropped)


def manifest_facts(cohort: Cohort) -> pd.DataFrame:
    """Facts of every recording of a cohort; one column each, text or numbers.

    Labels and masks are not among them, and neither is anything that is measured from the signal but the quality flags.
    """
    import pandas as pd

    m = cohort.manifest
    columns: dict[str, Any] = {name: m[name] for name in ("modality", "site", "scanner") if name in m}
    shapes = [list(s) for s in m["shape"]]
    if cohort.info.kind == "volume":
        columns |= {f"shape {axis}": [s[i] for s in shapes] for i, axis in enumerate("zyx")}
        columns |= _geometry(m)
    else:
        if cohort.info.kind == "video":
            columns |= {f"shape {axis}": [s[i] for s in shapes] for i, axis in enumerate("tyx")}
            sizes = [list(s) if s is not None else [np.nan] * 2 for s in m["spacing_mm"]]
            columns |= {f"spacing_mm {axis}": [s[i] for s in sizes] for i, axis in enumerate("yx")}
        seconds = m["n_samples"].astype(float) / m["rate_hz"].astype(float)
        columns |= {"n_samples": m["n_samples"], "duration_s": seconds, "rate_hz": m["rate_hz"]}
    columns |= {"channels": [", ".join(c) for c in m["channels"]], "n_channels": [len(c) for c in m["channels"]]}
    columns |= {"units": [", ".join(u) for u in m["units"]]}
    columns |= {name: m[name] for name in m.columns if name.startswith("quality_")}
    columns |= _notes([list(n) if n is not None else [] for n in m["notes"]])
    count = Counter(m["patient"])
    columns |= {"recordings of the patient": [count[p] for p in m["patient"]]}
    return pd.DataFrame({name: pd.Series(list(values)) for name, values in columns.items()})


def _geometry(manifest: pd.DataFrame) -> dict[str, Any]:
    """Voxel size, place of the first voxel and tilt of the grid."""
    spacing = [list(s) if s is not None else [np.nan] * 3 for s in manifest["spacing_mm"]]
    affine = np.array([list(a) if a is not None else [np.nan] * 16 for a in manifest["affine"]]).reshape(-1, 4, 4)
    length = np.linalg.norm(affine[:, :3, :3], axis=1)
    straight = np.abs(affine[:, :3, :3]).max(1) / np.where(length > 0, length, np.nan)
    found: dict[str, Any] = {f"spacing_mm {axis}": [s[i] for s in spacing] for i, axis in enumerate("zyx")}
    found |= {f"first voxel {axis} mm": np.round(affine[:, i, 3], 2) for i, axis in enumerate("xyz")}
    return found | {"tilt": np.round(straight.min(1), 4)}


def _notes(notes: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Each kind of note, numbers aside, as yes or no, and the numbers in it: they may tell of the raw file."""
    kinds = Counter(_NUMBER.sub("#", note) for own in notes for note in set(own))
    found: dict[str, Any] = {}
    for kind, _ in kinds.most_common(_MOST_NOTES):
        own = [next((n for n in notes_ if _NUMBER.sub("#", n) == kind), None) for notes_ in notes]
        found[f"note '{kind}'"] = [float(n is not None) for n in own]
        numbers = [[float(v) for v in _NUMBER.findall(n)] if n is not None else [] for n in own]
        for i in range(kind.count("#")):
            found[f"note '{kind}', number {i + 1}"] = [v[i] if i < len(v) else np.nan for v in numbers]
    return found


def encode(frame: pd.DataFrame, patients: Sequence[str] | NDArray[Any]) -> Facts:
    """Numbers for every column that can tell something.

    Dates become days, text becomes categories. Columns with one value, and texts that are different for nearly every
    patient (names of files, ids), are dropped: nothing can be learnt from them for others.
    """

    names, parts, categorical, dropped = [], [], [], {}
    n_patients = len(set(patients))
    for name in frame.columns:
        values = _numbers(frame[name])
        text = values is None
        if values is None:
            kinds = frame[name].astype("string").str.strip().mask(lambda s: s == "").value_counts()
            if len(kinds) > max(10, n_patients / 2):
                dropped[str(name)] = f"{len(kinds)} different texts for {n_patients} patients"
                continue
            code = {kind: i for i, kind in enumerate(sorted(kinds.index[:_MOST_CATEGORIES]))}
            values = frame[name].astype("string").str.strip().map(code).to_numpy(dtype=np.float64, na_value=np.nan)
        if len(np.unique(values[np.isfinite(values)])) + int(np.isnan(values).any()) < 2:
            dropped[str(name)] = "the same everywhere"
            continue
        names.append(str(name))
        parts.append(values)
        categorical.append(text)
    x = np.column_stack(parts) if parts else np.zeros((len(frame), 0))
    return Facts(tuple(names), x, np.array(categorical, dtype=bool), dropped)


def _numbers(column: pd.Series[Any]) -> NDArray[np.float64] | None:
    """A column as numbers, or days since 1970; None where it is text."""
    import pandas as pd

    known = column[column.notna() & (column.astype("string").str.strip() != "")]
    numbers = pd.to_numeric(column, errors="coerce")
    if pd.api.types.is_bool_dtype(column) or numbers.reindex(known.index).notna().all():
        values = np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.where(np.isfinite(values), values, np.nan)
    if not known.astype("string").str.fullmatch(r"\d{4}-\d{2}-\d{2}([T ].*)?|\d{8}|\d{1,2}[./]\d{1,2}[./]\d{4}").all():
        return None
    dates = pd.to_datetime(column, errors="coerce", format="mixed", dayfirst=True, utc=True)
    if dates.reindex(known.index).isna().any():
        return None
    return np.asarray((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1), dtype=np.float64)
