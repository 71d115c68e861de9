"""Cells of a study: one model each, in a folder of its own, run once and never silently dropped.

    STUDY/cells/ENCODER/BUDGET/REPEAT[/FOLD]/cell.json    key, status ("finished" or "failed"), seconds, error
    …/per_case.parquet | predictions.parquet       what the model said about every test case
    …/summary.json, model/, …                      as every fine-tuning run leaves them

A cell's ``key`` is the hash of everything its result depends on; a finished cell with the same key is not run again,
and one with another key is refused rather than overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from medssl.cohort.pool import dask_client
from medssl.errors import ConfigError, MedSSLError
from medssl.progress import track

__all__ = ["BARE", "FOLD", "NO_BUDGET", "NO_LABELS", "Cell", "Outcome", "RunCell", "execute", "outcome_of", "run_cells"]

CELL = "cell.json"
FOLD = "fold"  # begins the name of a cell's folder where there are several test sets
NO_BUDGET = "none"  # of cells that use no labels to train with
NO_LABELS = "0"  # of those whose results are compared all the same
BARE = ("none", "untrained")  # sources of arms without pre-training: trained from scratch, frozen as initialised


@dataclass(frozen=True)
class Cell:
    """Everything a process needs to run one cell; plain data, so it travels to any process.

    Attributes:
        encoder: name of the arm.
        source: run directory of the encoder, ``"none"`` (from scratch) or ``"untrained"`` (frozen as initialised).
        budget: as asked: a number of patients, a fraction, or ``"all"``; ``"none"`` where nothing is trained.
        repeat: number of the label draw; the training seed too.
        folder: where it goes.
        fold: which part of the split it is tested on; 0 where there is one test set.
        options: everything else the run needs (cohort, task, target, split, protocol, settings, architecture).
        fingerprint: hash of the encoder's weights; empty when there are none.
    """

    encoder: str
    source: str
    budget: str
    repeat: int
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    fold: int = 0

    @property
    def in_parts(self) -> bool:
        """Whether the study tests several parts of its split in turn."""
        return self.folder.name.startswith(FOLD)

    @property
    def study(self) -> Path:
        """Folder of the study."""
        return self.folder.parents[4 if self.in_parts else 3]

    @property
    def name(self) -> str:
        """As people read it."""
        if self.budget == NO_BUDGET:
            return self.encoder
        part = f", fold {self.fold}" if self.in_parts else ""
        return f"{self.encoder}, {self.budget} patients, repeat {self.repeat}{part}"

    @property
    def key(self) -> str:
        """Hash of everything the result depends on: not of where the study or the encoder lies."""
        options = {k: v for k, v in self.options.items() if k not in ("cohort", "progress")}
        parts = {
            "source": self.source if self.source in BARE else "run",
            "fingerprint": self.fingerprint, "budget": self.budget, "repeat": self.repeat, "options": options,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        key: of the cell.
        status: ``"finished"`` or ``"failed"``.
        seconds: wall time.
        error: one sentence; empty when finished.
    """

    key: str
    status: str
    seconds: float
    error: str = ""

    @property
    def finished(self) -> bool:
        return self.status == "finished"


RunCell = Callable[[Cell], None]
"""Runs one cell and leaves its files in ``cell.folder``; must be importable by name (it travels to other processes)."""


def outcome_of(cell: Cell) -> Outcome | None:
    """What an earlier call left, or None.

    Raises:
        ConfigError: the folder holds a finished cell of other settings.
    """
    try:
        known = Outcome(**json.loads((cell.folder / CELL).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    if known.finished and known.key != cell.key:
        raise ConfigError(
            f"'{cell.folder}' was made with other settings, data or encoder weights; give another --out, or delete "
            "that folder to run the cell again"
        )
    return known


def execute(cell: Cell, run_cell: RunCell) -> Outcome:
    """Run one cell in this process; whatever goes wrong is recorded, so that the others can go on."""
    if cell.folder.is_dir():
        shutil.rmtree(cell.folder)  # what a failed or killed attempt left
    cell.folder.mkdir(parents=True)
    start = time.monotonic()
    try:
        with (cell.folder / "log.txt").open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            run_cell(cell)
    except MedSSLError as error:
        return _record(cell, Outcome(cell.key, "failed", time.monotonic() - start, str(error)))
    except Exception as error:  # a fault of ours must not cost the user the other cells; it is reported with its type
        if os.environ.get("MEDSSL_DEBUG") == "1":
            raise
        return _record(cell, Outcome(cell.key, "failed", time.monotonic() - start, f"{type(error).__name__}: {error}"))
    return _record(cell, Outcome(cell.key, "finished", time.monotonic() - start))


def _record(cell: Cell, outcome: Outcome) -> Outcome:
    from medssl.training.run import write_json

    write_json(cell.folder / CELL, asdict(outcome))
    return outcome


def run_cells(
    cells: Sequence[Cell], run_cell: RunCell, *, jobs: int = 1, scheduler: str | None = None, progress: bool = True
) -> dict[Path, Outcome]:
    """Run every cell that is not finished yet.

    Args:
        cells: of the whole study.
        run_cell: what runs one.
        jobs: processes; they share the processor's threads. 1 runs in this process.
        scheduler: address of a Dask scheduler, or ``"local"`` for a cluster on this machine, instead of processes.
        progress: show progress.

    Returns:
        Outcome of every cell, old and new.
    """
    outcomes = {cell.folder: outcome_of(cell) for cell in cells}
    todo = [cell for cell in cells if not ((known := outcomes[cell.folder]) and known.finished)]
    done = {folder: known for folder, known in outcomes.items() if known and known.finished}
    if not todo:
        return done
    if scheduler is not None:
        source = _by_dask(todo, run_cell, scheduler, jobs)
    elif jobs > 1:
        source = _by_processes(todo, run_cell, jobs)
    else:
        source = ((cell, execute(cell, run_cell)) for cell in todo)
    failures = 0
    if not progress:
        return done | {cell.folder: outcome for cell, outcome in source}
    with track(len(todo), "study", unit="cells") as bar:
        for cell, outcome in source:
            failures += not outcome.finished
            done[cell.folder] = outcome
            note = f"{cell.name}: " + (f"{outcome.seconds:.0f} s" if outcome.finished else f"FAILED ({outcome.error})")
            bar.advance(note=note + (f"; {failures} failed" if failures else ""))
    return done


def _by_processes(todo: Sequence[Cell], run_cell: RunCell, jobs: int) -> Iterator[tuple[Cell, Outcome]]:
    """One process a cell: a crash or a kill for memory costs that cell only, and memory goes back after each."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:  # torch is then imported once, not once a cell
        context.set_forkserver_preload(["medssl.evaluation.running", "medssl.training.finetune"])
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting = list(todo)
    running: dict[BaseProcess, Cell] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                process = context.Process(target=_in_process, args=(cell, run_cell, threads))
                process.start()
                running[process] = cell
            ready = multiprocessing.connection.wait([p.sentinel for p in running])
            for process in [p for p in running if p.sentinel in ready]:
                process.join()
                yield running[process], _outcome_after(running.pop(process), process.exitcode)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def _in_process(cell: Cell, run_cell: RunCell, threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    execute(cell, run_cell)


def _outcome_after(cell: Cell, exitcode: int | None) -> Outcome:
    """What the process wrote, or why it could not."""
    try:
        return Outcome(**json.loads((cell.folder / CELL).read_text(encoding="utf-8")))
    except FileNotFoundError:
        why = (
            f"the process was killed by signal {-exitcode}"
            if exitcode and exitcode < 0
            else f"it exited with {exitcode}"
        )
        hint = " (out of memory? use fewer --jobs or a smaller batch)" if exitcode == -9 else ""
        cell.folder.mkdir(parents=True, exist_ok=True)
        return _record(cell, Outcome(cell.key, "failed", 0.0, why + hint))


def _by_dask(todo: Sequence[Cell], run_cell: RunCell, scheduler: str, jobs: int) -> Iterator[tuple[Cell, Outcome]]:
    with dask_client(scheduler, jobs) as client:
        futures = {client.submit(execute, cell, run_cell, pure=False): cell for cell in todo}
        as_completed: Any = importlib.import_module("distributed").as_completed
        for future in as_completed(list(futures)):
            cell = futures[future]
            if future.status == "finished":
                yield cell, future.result()
            else:  # the worker died
                cell.folder.mkdir(parents=True, exist_ok=True)
                yield cell, _record(cell, Outcome(cell.key, "failed", 0.0, f"the worker was lost ({future.status})"))
