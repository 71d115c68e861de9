"""``RUN/metrics.csv``: what happened at which step, without gaps or duplicates across kills and continuations."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from medssl.training.callbacks import Fit, GradientGuard, Module, between_steps
from medssl.training.data import Loader
from medssl.training.run import write_atomic

__all__ = ["MetricsFile", "MetricsLog", "read_metrics"]


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Rows of a run's ``metrics.csv``, each without its empty fields; a row cut short by a kill is left out."""
    file = run / "metrics.csv"
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(complete))]


class MetricsFile:
    """A growing CSV with one row a step; a new column makes the file be written again with it.

    Args:
        run: the run directory.
        upto: rows of later steps (of a part that was lost with a kill) are dropped.
    """

    def __init__(self, run: Path, *, upto: int) -> None:
        self.file = run / "metrics.csv"
        self.rows = [row for row in read_metrics(run) if row["step"] <= upto]
        self.columns = list(dict.fromkeys(k for row in self.rows for k in row)) or ["step"]
        self._rewrite()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append values of a step; they join the row of that step when it is the last one."""
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1] |= dict(values)
            self._extend_columns()
            self._rewrite()
            return
        self.rows.append({"step": float(step), **values})
        if self._extend_columns():
            self._rewrite()
        else:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(self._line(self.rows[-1]))

    def _extend_columns(self) -> bool:
        new = [k for k in self.rows[-1] if k not in self.columns]
        self.columns += new
        return bool(new)

    def _rewrite(self) -> None:
        write_atomic(self.file, ",".join(self.columns) + "\n" + "".join(self._line(row) for row in self.rows))

    def _line(self, row: Mapping[str, float]) -> str:
        # repr keeps every digit: two runs can be compared for equality through their files
        cells = ("" if k not in row else str(int(row[k])) if k == "step" else repr(row[k]) for k in self.columns)
        return ",".join(cells) + "\n"


class MetricsLog(Callback):
    """Writes every logged value, averaged over ``every`` steps, with rate and data wait.

    Columns beside the method's own terms: ``lr``, ``grad_norm`` (of the last step), ``skipped`` (steps left out for
    their gradient so far), ``samples_per_s``, ``data_wait`` (share of the time spent waiting for data).

    Args:
        run: the run directory.
        every: steps a row.
        guard: where gradient norm and skipped steps come from.
    """

    def __init__(self, run: Path, *, every: int, guard: GradientGuard) -> None:
        self.run = run
        self.every = every
        self.guard = guard
        self.latest: dict[str, float] = {}
        self._file: MetricsFile | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._samples = 0
        self._since = self._waited = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The unfinished averages."""
        return {"sums": {k: v.cpu() for k, v in self._sums.items()}, "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The unfinished averages of the interrupted run."""
        self._sums, self._counts = dict(state_dict["sums"]), dict(state_dict["counts"])

    def on_train_start(self, trainer: Fit, pl_module: Module) -> None:
        """Open the file; rows beyond the present step belong to a lost part."""
        if trainer.is_global_zero:
            self._file = MetricsFile(self.run, upto=trainer.global_step)
        self._restart(trainer)

    def _restart(self, trainer: Fit) -> None:
        self._since, self._samples = time.perf_counter(), 0
        loader = trainer.train_dataloader
        self._waited = loader.waited_s if isinstance(loader, Loader) else 0.0

    def on_train_batch_end(self, trainer: Fit, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the batch to the averages; write a row when it is time."""
        for name, value in trainer.callback_metrics.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._samples += len(batch["row"]) * trainer.world_size
        step = trainer.global_step
        last = step >= trainer.max_steps  # not when stopped early: the continued run averages on, as if never stopped
        if between_steps(trainer, batch_idx) and (step % self.every == 0 or last):
            self._write(trainer, step)

    def _write(self, trainer: Fit, step: int) -> None:
        loader = trainer.train_dataloader
        waited = loader.waited_s - self._waited if isinstance(loader, Loader) else 0.0
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        row = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        row["grad_norm"] = math.nan if self.guard.norm is None else float(self.guard.norm)
        row["skipped"] = float(self.guard.skipped)
        row["samples_per_s"], row["data_wait"] = self._samples / elapsed, min(1.0, waited / elapsed)
        self.latest = row
        self._sums, self._counts = {}, {}
        self._restart(trainer)
        self.add(trainer, step, row)

    def add(self, trainer: Fit, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step to the file and to every other logger."""
        if self._file is not None:
            self._file.add(step, values)
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=step)
