"""Label-free measures of all arms of a study: as a protocol of its own, and beside the results of the others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import MedSSLError, TrainingError
from medssl.evaluation.agreement import agreement
from medssl.evaluation.cells import Cell, RunCell, run_cells
from medssl.evaluation.frozen import target_of
from medssl.evaluation.planning import FLOOR, Plan
from medssl.evaluation.quality import MOST_ROWS, development_rows, measures_of, recording_features
from medssl.evaluation.results import COLUMNS, POOLED, prediction_rows
from medssl.evaluation.verdict import format_value
from medssl.training.run import environment, write_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["arm_measures", "measure_table", "run_representation"]

STUDY_ROWS = 512
_NUMBERS = (
    "rankme", "rankme_centred", "alpha_req", "participation", "top1_share", "dead_dims", "std_l2", "uniformity",
    "alignment", "lidar",
)  # fmt: skip


def arm_measures(plan: Plan) -> dict[str, dict[str, Any]]:
    """Measures of every encoder of an ordinary study: the middle of at most 512 recordings of development patients.

    Features are computed once an arm and kept in ``STUDY/features``. What goes wrong with one arm is said in its place
    (``error``): a study does not fail for it.
    """
    from medssl.splits import Split

    found: dict[str, dict[str, Any]] = {}
    for cell in {c.encoder: c for c in reversed(plan.cells) if c.source != FLOOR}.values():
        try:
            target = target_of(cell)
            rows = development_rows(target, Split.load(target.cohort.path, cell.options["split"]), STUDY_ROWS)
            x = recording_features(cell, target, rows, windows=1)
            found[cell.encoder] = measures_of(x, target.cohort.manifest["patient"].to_numpy(dtype=object)[rows])
        except Exception as error:
            if os.environ.get("MEDSSL_DEBUG") == "1":
                raise
            text = str(error) if isinstance(error, MedSSLError) else f"{type(error).__name__}: {error}"
            found[cell.encoder] = {"error": text}
    return {arm: found[arm] for arm in plan.layout.arms if arm in found}


def run_representation(
    plan: Plan, run: RunCell, *, jobs: int = 1, scheduler: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Run the cells of ``--protocol representation`` and write the study's files; returns ``summary.json``."""
    import pandas as pd

    outcomes = run_cells(plan.cells, run, jobs=jobs, scheduler=scheduler, progress=progress)
    finished = [c for c in plan.cells if outcomes[c.folder].finished]
    failed = [{"encoder": c.encoder, "error": outcomes[c.folder].error} for c in plan.cells if c not in finished]
    if not finished:
        raise TrainingError(f"no encoder could be measured; the first: {failed[0]['error']}")
    measures: dict[str, dict[str, Any]] = {}
    tables: list[pd.DataFrame] = []
    for cell in finished:
        measures[cell.encoder] = json.loads((cell.folder / "summary.json").read_text(encoding="utf-8"))["measures"]
        tables.append(_rows(cell, measures[cell.encoder], plan))
    _write(pd.concat(tables, ignore_index=True), plan.out / "results.parquet")
    summary: dict[str, Any] = {
        "format_version": 1, "kind": "representation", "status": "finished", **plan.facts,
        "representation": measures, "agreement": _agreement(finished), "failed": failed,
        "seconds": float(sum(o.seconds for o in outcomes.values())),
    }  # fmt: skip
    summary["verdict"] = _sentences(summary)
    summary["environment"] = environment([])
    write_json(plan.out / "summary.json", summary)
    return summary


def _rows(cell: Cell, measures: dict[str, Any], plan: Plan) -> pd.DataFrame:
    """Rows of ``results.parquet``; adds the neighbours' pooled metrics to ``measures["knn"]``."""
    import pandas as pd

    known = [(n, float(measures[n])) for n in _NUMBERS if measures.get(n) is not None]
    counts = dict.fromkeys(("alignment", "lidar"), measures["viewed_recordings"])
    flat = [(POOLED, n, "", v, counts.get(n, measures["n_recordings"])) for n, v in known]
    table = pd.DataFrame(flat, columns=["patient", "metric", "class", "value", "n_items"])
    if measures["knn"] is not None:
        answers = pd.read_parquet(cell.folder / "predictions.parquet")
        own = prediction_rows(answers, plan.layout.info)
        pooled = own[(own["patient"] == POOLED) & (own["class"] == "")]
        measures["knn"]["metrics"] = dict(zip(pooled["metric"], pooled["value"].astype(float), strict=True))
        table = pd.concat([table, own], ignore_index=True)
    about = {"encoder": cell.encoder, "budget": cell.budget, "level": plan.facts["level"]}
    table = table.assign(**about, repeat=0, fold=0, failed=False)
    return table[list(COLUMNS)].astype({"n_items": np.int64, "value": np.float64})


def _write(table: pd.DataFrame, file: Path) -> None:
    beside = file.with_name(f".{file.name}.part")
    table.to_parquet(beside, index=False)
    beside.replace(file)


def _agreement(cells: Sequence[Cell]) -> dict[str, Any] | None:
    """Between the spaces of the finished arms, on the recordings that all of them encoded to finite numbers."""
    from medssl.splits import Split

    target = target_of(cells[0])
    rows = development_rows(target, Split.load(target.cohort.path, cells[0].options["split"]), MOST_ROWS)
    windows = int(cells[0].options["settings"]["test_windows"])
    features: dict[str, NDArray[np.float32]] = {
        c.encoder: recording_features(c, target, rows, windows=windows) for c in cells
    }
    whole = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in features.values()])
    manifest = target.cohort.manifest.iloc[rows[whole]]
    sites = manifest["site"].fillna("").astype(str).to_numpy(dtype=object)
    owners = manifest["patient"].to_numpy(dtype=object)
    return agreement({a: x[whole] for a, x in features.items()}, owners, sites if len(set(sites)) > 1 else owners)


def _sentences(summary: Mapping[str, Any]) -> str:
    """What was measured; no claim about which encoder is better rests on it."""
    measures = summary["representation"]
    first = next(iter(measures.values()))
    ranks = ", ".join(f"{a} {m['rankme']:.3g}" for a, m in measures.items())
    text = (
        f"Measured without labels on {first['n_recordings']} recordings of {first['n_patients']} development patients. "
        f"RankMe: {ranks} (compare encoders of one method, architecture and width only)."
    )
    known = {a: m["knn"]["metrics"] for a, m in measures.items() if m["knn"] is not None}
    if known:
        from medssl.evaluation.metrics import info_of
        from medssl.evaluation.metrics.catalogue import HEADLINE

        metric = HEADLINE[summary["task"]]
        values = ", ".join(f"{a} {format_value(v[metric], metric)}" for a, v in known.items())
        text += f" Nearest neighbours of other patients reach {info_of(metric).title}: {values}."
    if summary["failed"]:
        text += f" {len(summary['failed'])} could not be measured."
    return text


def measure_table(summary: Mapping[str, Any]) -> str:
    """The measures as lines of text, one encoder a line."""
    from medssl.evaluation.metrics.catalogue import HEADLINE

    metric = HEADLINE[summary["task"]]
    head = ["encoder", "RankMe", "centred", "α-ReQ", "R²", "uniformity", "participation", "top-1", "dead", "alignment",
            "LiDAR", f"kNN {metric}"]  # fmt: skip
    lines = [head]
    for arm, m in summary["representation"].items():
        knn = (m["knn"] or {}).get("metrics", {}).get(metric)
        values = [m["rankme"], m["rankme_centred"], m["alpha_req"], m["alpha_r2"], m["uniformity"], m["participation"],
                  m["top1_share"], m["dead_dims"], m["alignment"], m["lidar"], knn]  # fmt: skip
        lines.append([arm, *("–" if v is None else f"{v:.3g}" for v in values)])
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True)))
        for row in lines
    )
