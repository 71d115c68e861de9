"""``medssl prepare --dry-run``: a verdict per file and the manifest that would be written; touches nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from medssl.adapters.recording import Rejected
from medssl.cohort.info import CohortInfo
from medssl.cohort.manifest import LABEL, LabelKinds
from medssl.cohort.plan import Plan, Task, inputs
from medssl.cohort.pool import Done
from medssl.cohort.worker import inspect_item
from medssl.progress import track

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DryRun", "show", "try_out"]

_COLUMNS = ("recording", "patient", "session", "trial", "axes", "shape", "spacing_mm", "rate_hz", "channels", "units")
_MORE = ("site", "scanner", "masks", "n_events", "notes", "source_sha256")


@dataclass(frozen=True)
class DryRun:
    """What a preparation would take and refuse.

    Attributes:
        plan: its settings.
        rows: (source, manifest row as read) of everything readable.
        rejected: the rest.
    """

    plan: Plan
    rows: Sequence[tuple[str, dict[str, Any]]]
    rejected: Sequence[Rejected]

    @property
    def manifest(self) -> pd.DataFrame:
        """The manifest it would write, as far as reading tells (shape and spacing are those of the source)."""
        import pandas as pd

        kinds = LabelKinds()
        for _, row in self.rows:
            kinds.add(row["labels"])
        labels = list(kinds.kinds())
        columns = (*_COLUMNS, *_MORE)
        values = [
            {**{c: row[c] for c in columns}, **{LABEL + n: row["labels"].get(n) for n in labels}}
            for _, row in self.rows
        ]
        return pd.DataFrame(values, columns=[*columns, *(LABEL + n for n in labels)])

    @property
    def info(self) -> CohortInfo:
        """Counts; no fingerprint, for nothing was prepared."""
        channels = {tuple(row["channels"]) for _, row in self.rows}
        return CohortInfo(
            kind=self.plan.recipe.kind,
            modality=self.plan.recipe.modality,
            recipe=self.plan.name,
            channels=next(iter(channels)) if len(channels) == 1 else (),
            preparation=self.plan.preparation,
            n_recordings=len(self.rows),
            n_patients=len({row["patient"] for _, row in self.rows}),
            n_rejected=len(self.rejected),
        )


def try_out(plan: Plan, run: Callable[..., Iterator[Done]]) -> DryRun:
    """Read every input once. ``run`` is ``fan_out`` with its number of workers set."""
    found = list(inputs(plan))
    outcomes: dict[str, dict[str, Any]] = {}
    job = plan.job()
    tasks = [task for task in found if isinstance(task, Task)]
    with track(len(tasks), "reading", unit="inputs") as progress:
        for done in run(inspect_item, tasks, arguments=lambda t: (job, t.item, t.name), cost=lambda t: t.memory_bytes):
            fault = [[done.task.item.source, str(done.error)]]
            outcomes[done.task.name] = done.result or {"rows": [], "rejected": fault}
            progress.advance()
    rows: list[tuple[str, dict[str, Any]]] = []
    rejected: list[Rejected] = []
    for entry in found:
        if isinstance(entry, Rejected):
            rejected.append(entry)
            continue
        outcome = outcomes[entry.name]
        rows += [(entry.item.source, row) for row in outcome["rows"]]
        rejected += [Rejected(*pair) for pair in outcome["rejected"]]
    return DryRun(plan, rows, rejected)


def show(result: DryRun, stream: TextIO | None = None) -> None:
    """Print a verdict per file, then the manifest's columns: a table on a terminal, tab-separated lines elsewhere."""
    out = stream or sys.stdout
    lines = [("take", source, _said(row)) for source, row in result.rows]
    lines += [("reject", source, reason) for source, reason in result.rejected]
    if out.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("verdict", "source", "what it is, or why not")
        for verdict, source, text in sorted(lines, key=lambda line: line[1]):
            table.add_row(verdict, source, text, style="red" if verdict == "reject" else "")
        Console(file=out).print(table)
    else:
        for line in sorted(lines, key=lambda line: line[1]):
            print("\t".join(line), file=out)
    print(f"\nmanifest that would be written ({len(result.rows)} rows):", file=out)
    print(result.manifest.to_string(max_rows=20, max_colwidth=28), file=out)
    taken, refused = len(result.rows), len(result.rejected)
    print(
        f"\n{taken} recordings of {result.info.n_patients} patients, {refused} inputs rejected; nothing written",
        file=out,
    )


def _said(row: dict[str, Any]) -> str:
    shape = "x".join(map(str, row["shape"]))
    parts = [f"{row['axes']} {shape}"]
    if row["rate_hz"]:
        parts.append(f"{row['rate_hz']:g} Hz")
    if row["spacing_mm"]:
        parts.append("x".join(f"{s:.3g}" for s in row["spacing_mm"]) + " mm")
    if row["masks"]:
        parts.append("masks " + ", ".join(row["masks"]))
    if row["notes"]:
        parts.append("notes: " + "; ".join(row["notes"]))
    return ", ".join(parts)
