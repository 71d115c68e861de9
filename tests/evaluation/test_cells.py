"""Cells are run once, failures are kept, and a crash costs one cell only."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from medssl.errors import ConfigError, TrainingError
from medssl.evaluation.cells import Cell, outcome_of, run_cells


def note_run(cell: Cell) -> None:
    """Leave a trace of having run, and with how many threads."""
    import torch

    log = cell.folder.parents[2] / "log.txt"
    with log.open("a") as file:
        file.write(f"{cell.encoder}/{cell.budget}/{cell.repeat} {os.getpid()} {torch.get_num_threads()}\n")
    (cell.folder / "result.txt").write_text(cell.source)


def trouble(cell: Cell) -> None:
    """The first repeat fails as users make it fail, the second by a fault, the third is killed, the fourth works."""
    if cell.repeat == 0:
        raise TrainingError("the loss is not finite")
    if cell.repeat == 1:
        raise ZeroDivisionError("division by zero")
    if cell.repeat == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    note_run(cell)


def cells(out: Path, n: int = 4) -> list[Cell]:
    return [
        Cell("scratch", "none", "2", repeat, out / "cells" / "scratch" / "2" / str(repeat), {"task": "segmentation"})
        for repeat in range(n)
    ]


def runs(out: Path) -> list[str]:
    log = out / "cells" / "log.txt"
    return log.read_text().splitlines() if log.exists() else []


def test_a_finished_cell_is_not_run_again(tmp_path: Path) -> None:
    some = cells(tmp_path)
    run_cells(some[:3], note_run, progress=False)
    outcomes = run_cells(some, note_run, progress=False)
    assert len(runs(tmp_path)) == 4
    assert len(outcomes) == 4 and all(o.finished for o in outcomes.values())


def test_a_failed_cell_is_recorded_and_tried_again(tmp_path: Path) -> None:
    some = cells(tmp_path)[:1]
    (failed,) = run_cells(some, trouble, progress=False).values()
    assert (failed.status, failed.error) == ("failed", "the loss is not finite")
    assert outcome_of(some[0]) == failed
    (fine,) = run_cells(some, note_run, progress=False).values()
    assert fine.finished


def test_a_cell_of_other_settings_is_refused(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, 1)
    run_cells([cell], note_run, progress=False)
    for other in (replace(cell, options={"task": "regression"}), replace(cell, fingerprint="other weights")):
        with pytest.raises(ConfigError, match="other settings"):
            run_cells([other], note_run, progress=False)
    moved = replace(cell, options={**cell.options, "cohort": "/elsewhere"})
    assert run_cells([moved], note_run, progress=False)[cell.folder].finished, "where the data lie does not matter"


def test_processes_share_the_threads_and_survive_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = list(run_cells(cells(tmp_path), trouble, jobs=2).values())
    by_repeat = {folder.name: o for folder, o in run_cells(cells(tmp_path)[3:], note_run, progress=False).items()}
    assert by_repeat["3"].finished
    errors = sorted(o.error for o in outcomes if not o.finished)
    assert len(errors) == 3
    assert any("ZeroDivisionError" in e for e in errors)
    assert any("signal 9" in e and "memory" in e for e in errors)
    assert len(runs(tmp_path)) == 1
    assert "3 failed" in capsys.readouterr().err


@pytest.mark.slow
def test_dask_runs_the_cells_too(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    outcomes = run_cells(cells(tmp_path, 2), note_run, jobs=2, scheduler="local", progress=False)
    assert len(outcomes) == 2 and all(o.finished for o in outcomes.values())


def test_a_scheduler_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match="nonsense"):
        run_cells(cells(tmp_path, 1), note_run, scheduler="nonsense", progress=False)
