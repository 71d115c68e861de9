"""What the page of a study is drawn from, and how its numbers are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.arms import WITHOUT_LABELS
from medssl.evaluation.metrics import info_of
from medssl.evaluation.verdict import format_value
from medssl.report.html import Html, tag

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Arrays", "Entry", "Study", "chooser", "count", "estimate", "load_study", "patients_of"]

Entry = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Study:
    """The files of a study.

    Attributes:
        folder: where they lie.
        summary: ``summary.json``.
        table: ``results.parquet``.
        pictures: ``examples.npz``; empty where there is none.
    """

    folder: Path
    summary: Entry
    table: pd.DataFrame
    pictures: Arrays

    @property
    def metric(self) -> str:
        """The headline."""
        return str(self.summary["metric"])

    @property
    def asked(self) -> str:
        """The task, or ``"retrieval"`` or ``"prompt"``: what the numbers are of."""
        return str(self.summary["task"] if self.fitted else self.summary["protocol"])

    @property
    def fitted(self) -> bool:
        """Whether models were fitted to label draws: retrieval and prompts have neither labels nor draws."""
        return self.summary["protocol"] not in WITHOUT_LABELS

    @property
    def arms(self) -> list[str]:
        """In the order of the plan, the simple baseline last."""
        return list(self.summary["encoders"])

    @property
    def budgets(self) -> list[Entry]:
        """In growing order."""
        return list(self.summary["budgets"])

    @cached_property
    def baselines(self) -> dict[str, str]:
        """Arm → what it is compared with."""
        return {c["encoder"]: c["baseline"] for c in self.summary["comparisons"]}

    def result(self, arm: str, budget: str, metric: str, name: str = "") -> Entry | None:
        """Estimate of an arm at a budget; of one class where it is named."""
        return next(
            (r for r in self.summary["results"]
             if (r["encoder"], r["budget"], r["metric"], r["class"]) == (arm, budget, metric, name)), None,
        )  # fmt: skip

    def comparison(self, arm: str, budget: str) -> Entry | None:
        """The headline comparison of an arm with its baseline."""
        return next((c for c in self.summary["comparisons"] if (c["encoder"], c["budget"]) == (arm, budget)), None)


def load_study(folder: Path) -> Study:
    """Read the files of ``STUDY``."""
    import pandas as pd

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    pictures: dict[str, NDArray[Any]] = {}
    if (folder / "examples.npz").is_file():
        with np.load(folder / "examples.npz", allow_pickle=False) as kept:
            pictures = {name: kept[name] for name in kept.files}
    return Study(folder, summary, pd.read_parquet(folder / "results.parquet"), pictures)


def patients_of(budget: Entry) -> str:
    """A budget in words."""
    n = budget["n_patients"]
    return f"{count(n)} labelled patient{'' if n == 1 else 's'}"


def count(n: float) -> str:
    """A number of patients; the mean over folds may be none.

    >>> count(8), count(21.333)
    ('8', '21.3')
    """
    return f"{round(n, 1):g}"


def chooser(group: str, budgets: Sequence[Entry], *more: object, last: bool = False) -> Html:
    """A menu that shows the blocks of one budget; hidden where there is no script, everything is visible then.

    Args:
        group: of the blocks (``data_group``).
        budgets: to choose from.
        more: further controls.
        last: the largest budget is shown first.
    """
    options = [
        tag("option", patients_of(b), value=b["asked"], selected="" if last and i == len(budgets) - 1 else None)
        for i, b in enumerate(budgets)
    ]
    choice = [tag("label", "Show ", tag("select", *options, data_choose=group))] if len(budgets) > 1 else []
    if not choice and not more:
        return Html("")
    return tag("div", *choice, *more, class_="controls", hidden="")


def estimate(r: Entry | None, metric: str) -> str:
    """Mean and interval."""
    if r is None or r["mean"] is None:
        return "–"
    mean = format_value(r["mean"], metric)
    if r["low"] is None:
        return mean
    low, high = (format_value(r[k], metric).removesuffix(info_of(metric).unit).strip() for k in ("low", "high"))
    return f"{mean} [{low}, {high}]"
