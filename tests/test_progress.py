"""Progress of long work, off a terminal and on one."""

from __future__ import annotations

import io

import pytest

from medssl import progress
from medssl.progress import track


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_lines_come_every_few_seconds_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    with track(100, "reading", unit="files", stream=log) as bar:
        for i in range(20):
            now[0] += 1.0
            bar.advance(5, note=f"{i} rejected")
    lines = log.getvalue().splitlines()
    assert lines[0] == "reading: 25/100 files, 5/s, 0:15 left, 4 rejected"
    assert lines[-1] == "reading: 100/100 files, 5/s, 19 rejected"
    assert len(lines) == 5


def test_unknown_total_shows_no_time_left() -> None:
    log = io.StringIO()
    with track(None, "finding", stream=log) as bar:
        bar.advance(3)
    assert log.getvalue().startswith("finding: 3 items, ")
    assert "left" not in log.getvalue()


def test_a_bar_on_a_terminal() -> None:
    screen = Terminal()
    with track(4, "reading", unit="files", stream=screen) as bar:
        bar.advance(3, note="1 rejected")
    assert "3/4" in screen.getvalue() and "1 rejected" in screen.getvalue()
