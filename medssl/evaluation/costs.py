"""What a study costs, measured before it starts, and what of it fits into a given time."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medssl.errors import ConfigError
from medssl.evaluation.cells import Cell, outcome_of

if TYPE_CHECKING:
    from medssl.evaluation.planning import Plan

__all__ = ["Design", "fitting_design", "seconds_of_a_cell"]

PROBE_STEPS = (2, 6)
WORTH = 5  # repeats that are kept at the price of budgets in between


@dataclass(frozen=True)
class Design:
    """What is left of a plan.

    Attributes:
        budgets: as asked.
        repeats: of each.
    """

    budgets: tuple[str, ...]
    repeats: int


def seconds_of_a_cell(plan: Plan) -> float:
    """Mean over the finished fine-tuning cells of the study; without any, from a few steps with the most labels."""
    known = [o.seconds for c in plan.cells if _trains(c) and (o := outcome_of(c)) is not None and o.finished]
    return float(np.mean(known)) if known else _probe([c for c in plan.cells if _trains(c)][-1])


def _trains(cell: Cell) -> bool:
    from medssl.evaluation.arms import FLOOR

    return cell.source != FLOOR


def _probe(cell: Cell) -> float:
    """Two very short trainings: the difference is the price of a step, the rest is paid once."""
    from medssl.evaluation.running import run_cell
    from medssl.training.run import read_summary

    asked, took = cell.options["settings"], []
    for steps in PROBE_STEPS:
        folder = cell.study / ".probe"
        shutil.rmtree(folder, ignore_errors=True)
        settings = {**asked, "max_steps": steps, "patience": 0, "validate_every": steps}  # one look at the end
        with contextlib.redirect_stdout(io.StringIO()):  # its score means nothing
            run_cell(replace(cell, folder=folder, options={**cell.options, "settings": settings}))
        took.append(read_summary(folder))
        shutil.rmtree(folder)
    train, test = [t["seconds"]["train"] for t in took], took[0]["seconds"]["test"]
    step = max(0.0, train[1] - train[0]) / (PROBE_STEPS[1] - PROBE_STEPS[0])
    once = max(0.0, train[0] - PROBE_STEPS[0] * step) + test
    looks = int(asked["max_steps"]) / (asked["validate_every"] or max(1, int(asked["max_steps"]) // 10)) - 1
    look = test * took[0]["n_validation_patients"] / max(1, took[0]["n_test_patients"])
    return float(once + step * int(asked["max_steps"]) + max(0.0, looks) * look)


def fitting_design(plan: Plan, seconds: float, *, minutes: float, jobs: int) -> Design:
    """The largest part of a plan that fits into a time, arms untouched.

    Repeats beyond 5 go first, then the budgets in between, then repeats, and last all budgets but the smallest.

    Args:
        plan: of the study; what is finished costs nothing.
        seconds: of one cell.
        minutes: the time there is.
        jobs: cells at the same time.

    Raises:
        ConfigError: not even one repeat of the smallest budget fits.
    """
    budgets, repeats = tuple(plan.layout.budgets), plan.layout.repeats
    left = [c for c in plan.cells if _trains(c) and not ((o := outcome_of(c)) and o.finished)]

    def price(design: Design) -> float:
        return sum(c.budget in design.budgets and c.repeat < design.repeats for c in left) * seconds / jobs / 60

    for design in _designs(budgets, repeats):
        if price(design) <= minutes:
            return design
    least = price(Design(budgets[:1], 1))
    raise ConfigError(
        f"one repeat of the smallest budget takes about {least:.0f} min ({seconds:.0f} s a model); give --time-budget "
        f"{np.ceil(least):.0f} or more, fewer arms, or fewer --settings.max_steps"
    )


def _designs(budgets: tuple[str, ...], repeats: int) -> Iterator[Design]:
    """From the whole to the least."""
    enough = min(repeats, WORTH)
    for r in range(repeats, enough, -1):
        yield Design(budgets, r)
    for kept in _thinned(budgets):
        yield Design(kept, enough)
    ends = tuple(dict.fromkeys((budgets[0], budgets[-1])))
    for r in range(enough - 1, 0, -1):
        yield Design(ends, r)
    for r in range(enough, 0, -1):
        yield Design(budgets[:1], r)


def _thinned(budgets: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All budgets, then ever fewer of those between the smallest and the largest, the largest going first."""
    left = list(budgets)
    yield tuple(left)
    while len(left) > 2:
        left.pop(-2)
        yield tuple(left)
