"""Training curves: of the cells of a study, of the runs its encoders come from, or of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.report.charts import Series, legend, line_chart
from medssl.report.html import Html, details, figure, section, tag

__all__ = ["curve", "run_curves", "training_section"]

MOST_POINTS = 300


def training_section(study: Path, summary: Mapping[str, Any]) -> Html:
    """Loss of the cells with the most labels, and the pre-training runs where they can still be reached."""
    budget = summary["budgets"][-1]["asked"]
    runs = {arm: study / "cells" / arm / budget / "0" for arm in summary["encoders"]}
    cells = _lines({arm: _rows(run) for arm, run in runs.items()}, "loss")
    parts = []
    while cells and not cells[-1].x:  # the simple baseline comes last and is not trained by steps
        cells.pop()
    if cells:
        chart = line_chart(cells, title="Training loss", x_label="step", y_label="loss")
        parts += [
            legend([s.name for s in cells]),
            figure(chart, "Training loss with the most labels, first repeat."),
        ]
    for arm, about in summary["encoders"].items():
        rows = _rows(Path(str(about["source"])))
        if rows:
            parts.append(details(f"Pre-training of {arm}", run_curves(rows)))
    return section("Training", *parts, id_="training") if parts else Html("")


def run_curves(rows: Sequence[Mapping[str, float]]) -> Html:
    """Loss, RankMe and whatever else a run logged, one chart each."""
    names = list(dict.fromkeys(k for row in rows for k in row if k != "step"))
    first = [n for n in ("loss", "validation", "rankme", "quality_encoder_rankme", "position_accuracy") if n in names]
    rest = [n for n in names if n not in first]
    main = tag("div", *(curve(rows, n) for n in first), class_="grid")
    return Html(
        main
        + (details("Other logged values", tag("div", *(curve(rows, n) for n in rest), class_="grid")) if rest else "")
    )


_MEANING = {
    "loss": "Training loss.",
    "rankme": "RankMe: how many directions the embeddings use. A fall towards 1 is a collapse; compare within one run "
    "only.",
    "validation": "Score on the validation patients of the budget; the best step is kept.",
    "position_accuracy": "Share of random crops that the method placed in the right cell; compare with position_chance "
    "below.",
    "position_chance": "What naming the likeliest cell would reach.",
    "pair_accuracy": "Share of views whose nearest other view is their own partner.",
    "quality_encoder_rankme": "RankMe of the encoder's features of a fixed set of recordings without augmentation.",
    "quality_encoder_rankme_centred": "The same without the features' mean, which hides directions after a ReLU.",
    "quality_projector_rankme": "RankMe of the projector's output for the same recordings.",
    "quality_alignment": "Squared distance of augmented views of a recording; compare with quality_strangers.",
    "quality_strangers": "Squared distance of different recordings.",
    "quality_lidar": "LiDAR: directions that tell recordings apart from their own augmentations.",
    "grad_norm": "Length of the gradient before clipping.",
    "data_wait": "Share of the time spent waiting for data.",
}


def curve(rows: Sequence[Mapping[str, float]], name: str) -> Html:
    """One logged value over the steps."""
    lines = _lines({name: rows}, name)
    chart = line_chart(lines, title=name, x_label="step", y_label=name)
    return figure(chart, _MEANING.get(name, name))


def _lines(runs: Mapping[str, Sequence[Mapping[str, float]]], column: str) -> list[Series]:
    series = []
    for name, rows in runs.items():
        known = [(row["step"], row[column]) for row in rows if column in row]
        known = known[:: max(1, len(known) // MOST_POINTS)]
        series.append(Series(name, [x for x, _ in known], [y for _, y in known], markers=len(known) == 1))
    return series if any(s.x for s in series) else []  # empty ones stay: colours go by place


def _rows(run: Path) -> list[dict[str, float]]:
    if not (run / "metrics.csv").is_file():
        return []
    from medssl.training.metrics_log import read_metrics

    return read_metrics(run)
