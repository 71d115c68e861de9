"""The results of a model card: with intervals where the run is one cell of a study, else the run's own numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.export.source import cell_of

if TYPE_CHECKING:
    from medssl.export.source import Source

__all__ = ["result_lines", "study_of"]

Facts = Mapping[str, Any]

COUNTS = ("n/", "tp/", "fp/", "fn/")


def study_of(run: Path) -> dict[str, Any] | None:
    """Summary of the study that ``run`` is a cell of; None where it is none, or the study is not finished."""
    cell = cell_of(run)
    if cell is None:
        return None
    try:
        summary = json.loads((cell[0] / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and summary.get("kind") == "study" else None


def result_lines(source: Source, summary: Facts, study: Facts | None) -> list[str]:
    """Markdown.

    Args:
        source: what was exported.
        summary: of the run; may be empty.
        study: of ``study_of``.
    """
    if source.part == "encoder" and "task" not in summary:
        return _of_pretraining(summary)
    lines = _of_run(summary)
    cell = cell_of(source.run)
    if not study or cell is None:
        return lines
    arm, budget, *_ = cell[1]
    return [*lines, "", *_of_study(arm, budget, study)]


def _of_pretraining(summary: Facts) -> list[str]:
    """No labels, no results: only what the run measured of its features."""
    rank = summary.get("rankme")
    looked = f"RankMe of the last look: {rank:.3g}." if isinstance(rank, float) else "RankMe was not measured."
    return [
        f"An encoder has no results of its own. {looked} Whether it helps a task, `medssl evaluate` tells; no study is "
        "stored with it."
    ]


def _of_run(summary: Facts) -> list[str]:
    metrics = {k: v for k, v in (summary.get("metrics") or {}).items() if not k.startswith(COUNTS)}
    if not metrics:
        return ["No results are stored by this run."]
    from medssl.evaluation.verdict import format_value

    rows = [f"| {name} | {format_value(value, name)} |" for name, value in metrics.items()]
    return [
        f"This model on {summary.get('n_test_patients', 'an unknown number of')} test patients "
        f"({summary.get('n_test_items', '?')} decisions, level {summary.get('level') or 'not stored'}). One run has no "
        "interval over label draws and seeds.",
        "", "| metric | value |", "|---|---|", *rows,
    ]  # fmt: skip


def _of_study(arm: str, budget: str, study: Facts) -> list[str]:
    """What the study found of models trained as this one was, over its repeats."""
    found = [
        r for r in study.get("results", ())
        if r["encoder"] == arm and str(r["budget"]) == budget and not r["class"]
    ]  # fmt: skip
    if not found:
        return [f"The study around this run has no results of {arm} with budget {budget}."]
    from medssl.evaluation.verdict import format_value

    rows = [
        f"| {r['metric']} | {format_value(r['mean'], r['metric'])} | {_interval(r)} | "
        f"{format_value(r.get('sd_repeats'), r['metric'])} | {r['n_patients']} |"
        for r in found
    ]
    lines = [
        f"The study it belongs to, {arm} with {budget} labelled patients over {found[0]['n_repeats']} draws and seeds "
        "(the averages are of all these models, not of this one):",
        "", "| metric | mean | 95 % interval | SD over repeats | test patients |", "|---|---|---|---|---|", *rows, "",
    ]  # fmt: skip
    return [*lines, *_comparison(study, arm, budget), str(study.get("verdict") or "The study has no verdict.")]


def _comparison(study: Facts, arm: str, budget: str) -> list[str]:
    from medssl.evaluation.verdict import format_value

    for c in study.get("comparisons", ()):
        if c["encoder"] == arm and str(c["budget"]) == budget:
            p = c.get("p_holm")
            said = "n/a" if p is None else f"{p:.3g}"
            return [
                f"Against {c['baseline']}: {format_value(c['difference'], c['metric'])} in {c['metric']} (95 % "
                f"interval {_interval(c)}; p = {said} after Holm).",
                "",
            ]
    return []


def _interval(row: Facts) -> str:
    if row.get("low") is None or row.get("high") is None:
        return "none"
    return f"{row['low']:.3g} to {row['high']:.3g}"
