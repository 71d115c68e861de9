"""What does a study cost beside its models? Cells of ``evaluate`` beside the same models trained by ``finetune`` alone.

Run ``python benchmarks/study.py`` (some minutes on a CPU) or with ``--quick``. Nothing is asserted. Each round trains
the same models (draws and seeds, synthetic patients, the demo's settings) once by themselves and once as a study, in
turns. What stands around the cells of a study: its plan, the simple baseline, label-free measures of the arms,
statistics and pictures; it does not grow with the steps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from medssl.cli import main as medssl
from medssl.synth.ecg import write_ecg
from medssl.synth.volumes import write_volumes

__all__ = ["Round", "Task", "main", "one_round", "tasks"]

MODELS = 3  # of a round


class Task(NamedTuple):
    """What is trained."""

    name: str
    cohort: Path
    arguments: tuple[str, ...]


class Round(NamedTuple):
    """Seconds a model: by itself, as a cell, and of the study around the cells."""

    alone: float
    cell: float
    around: float


def run(*words: object) -> None:
    """One command in this process, silent."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = medssl([str(w) for w in words])
    if code:
        raise SystemExit(f"medssl {' '.join(map(str, words))} failed: {said.getvalue()[-400:]}")


def tasks(folder: Path, steps: int) -> list[Task]:
    """The two cohorts of the demo, prepared and split."""
    write_ecg(folder / "raw_ecg", patients=24, seed=0, seconds=30)
    write_volumes(folder / "raw_volumes", patients=24, seed=0)
    made = []
    for name, raw, recipe, more, config, task, target in (
        ("beats", "raw_ecg", "mitbih", (), "demo_beats", "classification", "aami"),
        ("organs", "raw_volumes", "msd", ("--options", "modality=ct"), "demo_segmentation", "segmentation", "labels"),
    ):
        run("prepare", recipe, folder / raw, folder / name, *more)
        run("cohort", "split", folder / name, "--test", "0.33")
        arguments = ("--config", config, "--cohort", str(folder / name), "--task", task, "--target", target,
                     "--settings.max_steps", str(steps), "--settings.progress", "false")  # fmt: skip
        made.append(Task(name, folder / name, arguments))
    return made


def one_round(task: Task, out: Path) -> Round:
    """The same models twice."""
    start = time.perf_counter()
    for draw in range(MODELS):
        run("finetune", *task.arguments, "--budget", "all", "--draw", draw, "--seed", draw, "--out", out / f"{draw}")
    alone = time.perf_counter() - start
    start = time.perf_counter()
    run("evaluate", *task.arguments, "--encoders", "scratch=none", "--budgets", "all", "--repeats", MODELS,
        "--out", out / "study")  # fmt: skip
    whole = time.perf_counter() - start
    files = (out / "study" / "cells" / "scratch").rglob("cell.json")
    cells = [json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in files]
    assert len(cells) == MODELS
    return Round(alone / MODELS, sum(cells) / MODELS, (whole - sum(cells)) / MODELS)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps and rounds")
    parser.add_argument("--steps", type=int, default=300, help="of every model")
    given = parser.parse_args()
    steps, rounds = (30, 2) if given.quick else (given.steps, 5)
    print("| task | steps | alone, s a model | as a cell, s | cell / alone (least to most) | around it, s a model |\n"
          "|---|---|---|---|---|---|")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks(Path(folder), steps):
            one_round(task, Path(folder) / f"{task.name}_warm")
            found = [one_round(task, Path(folder) / f"{task.name}_{i}") for i in range(rounds)]
            ratios = [r.cell / r.alone for r in found]
            alone, cell, around = (statistics.median(values) for values in zip(*found, strict=True))
            print(f"| {task.name} | {steps} | {alone:.2f} | {cell:.2f} | {statistics.median(ratios):.3f} "
                  f"({min(ratios):.3f} to {max(ratios):.3f}) | {around:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
