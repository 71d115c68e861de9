"""``kill -9`` in the middle of ``prepare``: nothing half-written counts, and the same call again ends the same way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medssl.cohort import Cohort
from medssl.cohort.verify import cohort_verify
from medssl.cohort.writer import prepare
from medssl.errors import CohortError

TOY = Path(__file__).parent.parent / "cohort" / "toy_recipe.py"
SCRIPT = """
import sys
from medssl.cohort.writer import prepare
if __name__ == "__main__":
    recipe, source, cohort, workers, stored = sys.argv[1:]
    options = {"slow_s": 0.05, "stored": stored}
    prepare(recipe, source, cohort, options=options, workers=int(workers), keep_ids=True)
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")


def source(folder: Path, shape: tuple[int, ...]) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        np.save(folder / f"p{i // 3}_r{i}.npy", rng.normal(0, 400, shape).astype(np.float32))
    return folder


def journal(cohort: Path) -> list[str]:
    file = cohort / ".prepare" / "journal.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def start(folder: Path, cohort: Path, workers: int, stored: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(TOY), str(folder), str(cohort), str(workers), stored]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)


def kill_after(process: subprocess.Popen[bytes], cohort: Path, finished: int) -> None:
    """Kill the parent alone, once some items are done; its workers must end by themselves."""
    limit = time.monotonic() + 60
    while len(journal(cohort)) < finished and time.monotonic() < limit:
        assert process.poll() is None, "prepare ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("workers", "stored", "shape"), [(2, "volume", (1, 16, 33, 40)), (0, "signal", (2, 500))])
def test_killed_and_repeated_equals_uninterrupted(
    tmp_path: Path, workers: int, stored: str, shape: tuple[int, ...]
) -> None:
    folder, cohort, whole = source(tmp_path / "raw", shape), tmp_path / "killed", tmp_path / "whole"
    process = start(folder, cohort, workers, stored)
    kill_after(process, cohort, finished=4)
    with pytest.raises(CohortError, match="interrupted"):
        Cohort(cohort)
    wait_for_end_of_group(process.pid)
    done = len(journal(cohort))
    with (cohort / ".prepare" / "journal.jsonl").open("a") as file:
        file.write('{"key": "torn li')  # as if killed within the write

    options = {"slow_s": 0.05, "stored": stored}
    resumed = prepare(TOY, folder, cohort, options=options, workers=0, keep_ids=True)
    assert [json.loads(line)["key"] for line in journal(cohort)[:done]], "finished items were thrown away"
    assert len(journal(cohort)) == 24, "finished items were prepared again"
    uninterrupted = prepare(TOY, folder, whole, options=options, workers=0, keep_ids=True)
    assert resumed == uninterrupted
    assert cohort_verify(cohort).fingerprint == uninterrupted.fingerprint
    files = {p: sorted(str(f.relative_to(p)) for f in (p / "arrays").rglob("*")) for p in (cohort, whole)}
    assert files[cohort] == files[whole]


def wait_for_end_of_group(group: int) -> None:
    """Orphaned workers end when their parent does; none may go on writing."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("workers outlived the killed prepare by 20 s")


def test_killed_while_finishing_ends_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = source(tmp_path / "raw", (2, 500))
    options = {"stored": "signal"}
    wanted = prepare(TOY, folder, tmp_path / "whole", options=options, workers=0, keep_ids=True)

    class Killed(BaseException):
        """Stands for the end of the process."""

    def killed(*_: object, **__: object) -> None:
        raise Killed

    for step in ("write_manifest", "write_events", "write_text", "_clean"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(f"medssl.cohort.finish.{step}", killed)
            prepare(TOY, folder, tmp_path / step, options=options, workers=0, keep_ids=True)
        assert prepare(TOY, folder, tmp_path / step, options=options, workers=0, keep_ids=True) == wanted
        cohort_verify(tmp_path / step)
