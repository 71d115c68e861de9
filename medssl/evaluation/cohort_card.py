"""What a cohort looks like: spread of geometry, rate and length, and why inputs were refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["cohort_card"]

BINS = 12
MOST_NAMES = 12


def cohort_card(cohort: Path) -> dict[str, Any]:
    """Plain data from the manifest and the list of refused inputs; empty where there is no manifest.

    Returns:
        ``histograms``: title → ``edges``, ``counts`` (where all recordings agree one bin of no width); ``counts``: what
        (site, scanner) → name → recordings; ``rejected``: reason → inputs. The most frequent twelve names of each.
    """
    file = cohort / "recordings.parquet"
    if not file.is_file():
        return {}
    import pandas as pd

    manifest = pd.read_parquet(file)
    histograms = {title: _histogram(values) for title, values in _columns(manifest).items() if len(values)}
    counts = {}
    for column in ("site", "scanner"):
        if column in manifest:
            names = manifest[column].fillna("").replace("", "unknown")
            if names.nunique() > 1:
                counts[column] = _most(names)
    rejected = cohort / "rejected.csv"
    reasons = pd.read_csv(rejected) if rejected.is_file() else pd.DataFrame()
    refused = _most(reasons["reason"].astype(str).str.slice(0, 120)) if "reason" in reasons else {}
    return {"histograms": histograms, "counts": counts, "rejected": refused}


def _columns(manifest: pd.DataFrame) -> Mapping[str, list[float]]:
    """Title → one number a recording that has it."""
    out: dict[str, list[float]] = {}
    if "n_samples" in manifest and manifest["n_samples"].notna().any():
        out["Duration (s)"] = (manifest["n_samples"] / manifest["rate_hz"]).dropna().tolist()
        out["Sampling rate (Hz)"] = manifest["rate_hz"].dropna().tolist()
        out["Channels"] = [float(len(c)) for c in manifest["channels"]]
        return out
    spacing = [s for s in manifest["spacing_mm"] if s is not None]
    for axis, name in enumerate("zyx"):
        out[f"Voxel size along {name} (mm)"] = [float(s[axis]) for s in spacing]
    for axis, name in enumerate("zyx"):
        out[f"Extent along {name} (voxels)"] = [float(s[axis]) for s in manifest["shape"]]
    return out


def _histogram(values: list[float]) -> dict[str, list[float]]:
    if max(values) - min(values) <= 1e-6 * max(abs(v) for v in values):
        return {"edges": [values[0], values[0]], "counts": [len(values)]}
    counts, edges = np.histogram(values, bins=BINS)
    return {"edges": [float(e) for e in edges], "counts": [int(c) for c in counts]}


def _most(names: pd.Series[Any]) -> dict[str, int]:
    return {str(k): int(v) for k, v in names.value_counts().head(MOST_NAMES).items()}
