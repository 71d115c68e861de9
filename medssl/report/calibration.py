"""Reliability plots: whether an answer that is 80 % sure is right in four cases out of five."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.report.html import Html, figure, section, tag
from medssl.report.plots import reliability_chart
from medssl.report.study_data import Entry, Study, chooser, patients_of

__all__ = ["calibration_section"]


def calibration_section(study: Study) -> Html:
    """One plot an arm and budget; empty where no probabilities were kept."""
    blocks = []
    for b in study.budgets:
        charts = [_chart(study, arm, i, b) for i, arm in enumerate(study.arms)]
        charts = [c for c in charts if c]
        if charts:
            blocks.append(tag("div", tag("h3", patients_of(b)), tag("div", *charts, class_="grid"),
                              data_group="calibration", data_value=b["asked"]))  # fmt: skip
    if not blocks:
        return Html("")
    answers = "every label's probability" if study.summary["multilabel"] else "the probability of the answer given"
    text = tag(
        "p", f"How often answers of a confidence ({answers}) are right, over all test cases and repeats. On the line a "
        "model knows how sure it may be; below it, it is surer than it should be. Bars: number of answers. ECE: mean "
        "distance from the line, weighted with the number of answers.",
    )  # fmt: skip
    return section(
        "Calibration", text, chooser("calibration", study.budgets, last=True), *blocks, id_="calibration"
    )  # fmt: skip


def _chart(study: Study, arm: str, index: int, budget: Entry) -> Html:
    sums: NDArray[Any] | None = study.pictures.get(f"calibration/{arm}/{budget['asked']}")
    if sums is None or not sums[0].any():
        return Html("")
    n, confidence, right = (np.asarray(row, dtype=np.float64) for row in sums)
    ece = float(np.abs(confidence - right).sum() / n.sum())
    safe = np.maximum(n, 1)
    chart = reliability_chart(
        n.tolist(), (confidence / safe).tolist(), (right / safe).tolist(), index=index, ece=ece,
        title=f"Calibration of {arm}, {patients_of(budget)}",
    )  # fmt: skip
    return figure(chart, f"{arm} · ECE {ece:.3f} · {n.sum():.0f} answers")
