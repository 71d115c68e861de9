"""What of a study fits into a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_studies import make_plan

from medssl.errors import ConfigError
from medssl.evaluation import costs
from medssl.evaluation.cells import execute
from medssl.evaluation.costs import Design, fitting_design


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (100, Design(("1", "2", "8", "all"), 7)),
        (2 * 4 * 6, Design(("1", "2", "8", "all"), 6)),
        (2 * 4 * 5, Design(("1", "2", "8", "all"), 5)),
        (2 * 3 * 5, Design(("1", "2", "all"), 5)),
        (2 * 2 * 5, Design(("1", "all"), 5)),
        (2 * 2 * 3, Design(("1", "all"), 3)),
        (2 * 2, Design(("1", "all"), 1)),
        (2, Design(("1",), 1)),
    ],
)
def test_repeats_beyond_five_go_first_then_budgets_in_between(minutes: float, expected: Design, tmp_path: Path) -> None:
    """Two arms, a minute a model."""
    plan = make_plan(tmp_path, repeats=7, budgets=("1", "2", "8", "all"))
    assert fitting_design(plan, 60, minutes=minutes, jobs=1) == expected


def test_two_jobs_do_twice_as_much(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, repeats=5, budgets=("1", "all"))
    assert fitting_design(plan, 60, minutes=10, jobs=2) == Design(("1", "all"), 5)


def test_what_is_finished_costs_nothing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, repeats=2, budgets=("1", "all"))
    for cell in plan.cells[:6]:
        execute(cell, lambda _: None)
    assert fitting_design(plan, 60, minutes=2, jobs=1) == Design(("1", "all"), 2)


def test_too_little_time_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, repeats=5, budgets=("1", "all"))
    with pytest.raises(ConfigError, match=r"takes about 10 min \(300 s a model\); give --time-budget 10"):
        fitting_design(plan, 300, minutes=1, jobs=1)


def test_the_price_is_that_of_a_step_and_of_what_is_paid_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Five seconds to start, two a step, ten for testing, one for a look; the cells take ten steps with five looks."""
    from medssl.evaluation import running
    from medssl.training.run import write_json

    def pretend(cell: Any) -> None:
        steps = cell.options["settings"]["max_steps"]
        cell.folder.mkdir(parents=True)
        people = {"n_validation_patients": 2, "n_test_patients": 20}
        write_json(cell.folder / "summary.json", {"seconds": {"train": 5 + 2 * steps, "test": 10}, **people})

    monkeypatch.setattr(running, "run_cell", pretend)
    plan = make_plan(tmp_path, options={"settings": {"max_steps": 10, "validate_every": 2}})
    assert costs.seconds_of_a_cell(plan) == pytest.approx(5 + 20 + 10 + 4)
    assert not (tmp_path / ".probe").exists()
    (cell,) = plan.cells[:1]
    execute(cell, lambda _: None)
    assert costs.seconds_of_a_cell(plan) < 1, "a finished cell says it better"
