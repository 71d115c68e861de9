"""Progress of long work: a bar with rate and time left on a terminal, plain lines every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

__all__ = ["Progress", "track"]

_EVERY_S = 5.0


class Progress(Protocol):
    """What ``track`` hands out."""

    def advance(self, n: int = 1, *, note: str | None = None) -> None:
        """``n`` more are done; ``note`` replaces the text at the end of the line (``"3 rejected"``)."""


class _Lines:
    """Plain lines for logs and pipes."""

    def __init__(self, total: int | None, description: str, unit: str, stream: TextIO) -> None:
        self.total, self.description, self.unit, self.stream = total, description, unit, stream
        self.done, self.note = 0, ""
        self.started = self.said = time.monotonic()

    def advance(self, n: int = 1, *, note: str | None = None) -> None:
        self.done += n
        self.note = self.note if note is None else note
        if time.monotonic() - self.said >= _EVERY_S:
            self.say()

    def say(self) -> None:
        self.said = time.monotonic()
        rate = self.done / max(self.said - self.started, 1e-9)
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{of} {self.unit}", f"{rate:.3g}/s"]
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        if self.note:
            parts.append(self.note)
        print(f"{self.description}: {', '.join(parts)}", file=self.stream, flush=True)


class _Bar:
    """A rich bar."""

    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task

    def advance(self, n: int = 1, *, note: str | None = None) -> None:
        self.bar.update(self.task, advance=n, **({} if note is None else {"note": note}))


@contextmanager
def track(
    total: int | None, description: str, *, unit: str = "items", stream: TextIO | None = None
) -> Iterator[Progress]:
    """Show the progress of ``total`` things (None: unknown) on ``stream`` (standard error by default).

    >>> import io
    >>> log = io.StringIO()
    >>> with track(2, "reading", unit="files", stream=log) as progress:
    ...     progress.advance(2, note="none rejected")
    >>> log.getvalue().startswith("reading: 2/2 files")
    True
    """
    out = stream or sys.stderr
    if not out.isatty():
        lines = _Lines(total, description, unit, out)
        yield lines
        lines.say()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = ["{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn(unit), _rate_column()]
    with RichProgress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=Console(file=out)
    ) as bar:
        yield _Bar(bar, bar.add_task(description, total=total, note=""))


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    return Rate()


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
