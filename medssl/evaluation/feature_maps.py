"""Where recordings lie in each arm's frozen features, in two dimensions: for looking at, no claim rests on it.

Keys of ``STUDY/examples.npz``: ``map_recording``, ``map_patient``, ``map_site``, ``map_label`` and ``map_tested``, all
(n,), and ``map/ARM`` (n, 2) float32 with ``map_kind/ARM``, "t-SNE" or "PCA". Rows that are NaN were not finite.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.cells import Cell
from medssl.evaluation.planning import FLOOR, Plan
from medssl.evaluation.sampling import spread

if TYPE_CHECKING:
    from medssl.training.targets import Target

__all__ = ["MOST_POINTS", "feature_maps", "flattened", "map_labels"]

MOST_POINTS = 500
LEAST_FOR_TSNE = 20  # recordings; below, the two main directions show as much
PERPLEXITY = 30


def feature_maps(plan: Plan) -> dict[str, NDArray[Any]]:
    """Maps of every encoder over at most 500 recordings with the target, half of them of test patients at most.

    What goes wrong with one arm costs that arm its map, no more.
    """
    from medssl.evaluation.frozen import target_of

    cells = list({c.encoder: c for c in reversed(plan.cells) if c.source != FLOOR}.values())
    if not cells or not (Path(plan.facts["cohort"]["path"]) / "cohort.json").is_file():
        return {}
    out: dict[str, NDArray[Any]] = {}
    for cell in cells:
        try:
            target = target_of(cell)
            rows, tested, x = _features(cell, target)
            out[f"map/{cell.encoder}"], kind = flattened(x)
        except Exception:  # said by the measures beside the results, which need the same features
            if os.environ.get("MEDSSL_DEBUG") == "1":
                raise
            continue
        out[f"map_kind/{cell.encoder}"] = np.array(kind)
        out |= _about(target, rows, tested)
    return out


def _features(cell: Cell, target: Target) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32]]:
    """(rows, whether tested, features): those of development patients are known from the measures already."""
    from medssl.evaluation.frozen import features_key, frozen_encoder, keep_features
    from medssl.evaluation.quality import development_rows, recording_features
    from medssl.evaluation.representation_study import STUDY_ROWS
    from medssl.splits import Split

    split = Split.load(target.cohort.path, cell.options["split"])
    patients: NDArray[Any] = target.cohort.manifest["patient"].to_numpy(dtype=object)
    test = np.unique(target.rows[target.items_of(split.test)])
    test = test[spread(patients[test], MOST_POINTS // 2)]
    known = development_rows(target, split, STUDY_ROWS)
    chosen = spread(patients[known], MOST_POINTS - len(test))

    def compute() -> NDArray[np.float32]:
        whole = replace(
            target, source="label", rows=test, y=np.zeros(len(test), dtype=np.int64), onset_s=None, duration_s=None,
            patients=patients[test], level="recording",
        )  # fmt: skip
        return frozen_encoder(cell, target).features(whole, np.arange(len(test)), windows=1)

    tested = keep_features(cell, "tested", features_key(cell, rows=test.tolist(), windows=1), compute)
    x = np.concatenate([tested, recording_features(cell, target, known, windows=1)[chosen]])
    rows = np.concatenate([test, known[chosen]])
    return rows, np.arange(len(rows)) < len(test), x


def flattened(x: NDArray[np.floating]) -> tuple[NDArray[np.float32], str]:
    """(n, 2) positions and how they came about: t-SNE with a fixed seed, or PCA where there are few recordings."""
    x = np.asarray(x, dtype=np.float64)
    whole = np.isfinite(x).all(axis=1)
    out = np.full((len(x), 2), np.nan, dtype=np.float32)
    z = x[whole] - x[whole].mean(0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    main = (u * s)[:, :50]
    if whole.sum() < LEAST_FOR_TSNE or main.shape[1] < 2 or not s[0] > 0:
        flat = np.zeros((len(main), 2))
        flat[:, : main.shape[1]] = main[:, :2]
        out[whole] = flat
        return out, "PCA"
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(main) - 1) / 3)
    out[whole] = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(main)
    return out, "t-SNE"


def _about(target: Target, rows: NDArray[np.int64], tested: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    manifest = target.cohort.manifest.iloc[rows]
    sites = manifest["site"].fillna("").astype(str) if "site" in manifest else [""] * len(rows)
    return {
        "map_recording": manifest["recording"].to_numpy(dtype=str),
        "map_patient": manifest["patient"].to_numpy(dtype=str),
        "map_site": np.array([s or "unknown" for s in sites], dtype=str),
        "map_label": np.array(map_labels(target, rows), dtype=str),
        "map_tested": tested,
    }


def map_labels(target: Target, rows: NDArray[np.int64]) -> list[str]:
    """One word a recording: its class, its rarest label or event, or the third of the range its number lies in."""
    if target.source == "mask" or target.task == "regression":
        return _thirds(_numbers(target, rows))
    counts = np.zeros((len(target.cohort.manifest), len(target.classes)), dtype=np.int64)
    if target.multilabel:
        np.add.at(counts, target.rows, target.y.astype(np.int64))
    else:
        np.add.at(counts, (target.rows, target.y), 1)
    rarest = np.argsort(counts.sum(0), kind="stable")
    found = counts[np.ix_(rows, rarest)] > 0
    return [target.classes[rarest[int(f.argmax())]] if f.any() else "none" for f in found]


def _numbers(target: Target, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Number of each recording: the mean of its target, or the volume of its mask in ml."""
    manifest = target.cohort.manifest.iloc[rows]
    if target.source == "mask":
        spacing = [np.prod(s) if s is not None else 1.0 for s in manifest["spacing_mm"]]
        voxels = [sum(json.loads(v).get(target.name, {}).values()) for v in manifest["mask_voxels"]]
        return np.array(voxels, dtype=np.float64) * np.array(spacing, dtype=np.float64) / 1000
    return np.array([float(target.y[target.rows == r].mean()) for r in rows])


def _thirds(values: NDArray[np.float64]) -> list[str]:
    low, high = np.quantile(values, (1 / 3, 2 / 3))
    first, second = (f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}" for v in (low, high))
    names = (f"up to {first}", f"{first} to {second}", f"above {second}")
    return [names[int(v > low) + int(v > high)] for v in values]
