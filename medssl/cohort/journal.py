"""What a preparation has done so far, so that a killed one continues and a finished one can take new files.

``COHORT/.prepare/`` holds the settings, and a journal with one line for every finished item. A line is appended only
after the item's arrays stand in their place; a torn last line (the process was killed while writing it) is cut off.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from medssl.cohort.worker import WORK, Outcome
from medssl.errors import CohortError

__all__ = ["Journal", "claim", "write_text"]

_WRITTEN = ("cohort.json", "recordings.parquet", "events.parquet", "rejected.csv", "arrays")


def write_text(file: Path, text: str) -> None:
    """Write a file in one step: readers see the old or the new text, never half of one."""
    temporary = file.with_name(f".{file.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def claim(cohort: Path, settings: Mapping[str, Any], *, overwrite: bool) -> IO[str]:
    """Take a folder for a cohort with these settings; the returned lock is held until closed or the process ends.

    Raises:
        CohortError: the folder holds something else, a cohort with other settings, or another run is at work in it.
    """
    held = [p for p in cohort.iterdir() if p.name != "splits"] if cohort.is_dir() else []
    file = cohort / WORK / "settings.json"
    if held and not file.is_file() and not (cohort / "cohort.json").is_file() and not _only_work(held):
        raise CohortError(f"'{cohort}' is not empty and no cohort; give a new or empty folder")
    try:
        (cohort / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CohortError(f"'{cohort}' cannot be made a folder ({error.strerror}); give another one") from error
    lock = _lock(cohort)
    try:
        if overwrite:
            for name in _WRITTEN:
                _remove(cohort / name)
            for path in (cohort / WORK).iterdir():
                if path.name != "lock":
                    _remove(path)
        elif file.is_file():
            _same(cohort, json.loads(file.read_text(encoding="utf-8")), settings)
        elif (cohort / "cohort.json").is_file():
            raise CohortError(
                f"'{cohort}' was copied without its '{WORK}' folder and cannot be continued; give another folder, or "
                "--overwrite to replace it"
            )
        write_text(file, json.dumps(settings, indent=1, sort_keys=True) + "\n")
    except BaseException:
        lock.close()
        raise
    return lock


def _only_work(held: list[Path]) -> bool:
    return {p.name for p in held} <= {WORK}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock(cohort: Path) -> IO[str]:
    handle = (cohort / WORK / "lock").open("w", encoding="utf-8")
    try:
        import fcntl
    except ImportError:  # Windows: no advisory lock there; one run at a time is up to the user
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise CohortError(f"another `medssl prepare` is writing '{cohort}'; wait for it to end") from error
    return handle


def _same(cohort: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    old, new = _flat(old), _flat(new)
    differing = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    if differing:
        details = "; ".join(f"{k}: {_short(old.get(k))} there, {_short(new.get(k))} now" for k in differing[:3])
        raise CohortError(
            f"'{cohort}' was prepared with other settings ({details}); give another folder or --overwrite"
        )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, so that what differs can be named."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for part, inner in value.items() for k, v in _flat(inner, f"{name}.{part}".lstrip(".")).items()}


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."


class Journal:
    """Finished items by key, on disk; in memory only where each line stands.

    Args:
        file: ``journal.jsonl``; made when missing.
    """

    def __init__(self, file: Path) -> None:
        self._offsets: dict[str, int] = {}
        self._tried_again: set[str] = set()
        self._handle = file.open("a+b")
        self._handle.seek(0)
        end = 0
        while line := self._handle.readline():
            entry = _parsed(line)
            if entry is None:
                break
            self._offsets[entry["key"]] = end
            (self._tried_again.add if entry["crashed"] else self._tried_again.discard)(entry["key"])
            end += len(line)
        self._handle.truncate(end)

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def is_done(self, key: str) -> bool:
        """Whether the item is finished and need not be tried again (a crash may have been the machine's fault)."""
        return key in self._offsets and key not in self._tried_again

    def append(self, key: str, outcome: Outcome) -> None:
        """Note a finished item."""
        line = json.dumps({"key": key, **outcome}, separators=(",", ":")).encode() + b"\n"
        self._handle.seek(0, 2)
        self._offsets[key] = self._handle.tell()
        self._handle.write(line)
        self._handle.flush()

    def outcome(self, key: str) -> Outcome:
        """What was noted of an item."""
        self._handle.seek(self._offsets[key])
        entry: Outcome = json.loads(self._handle.readline())
        return entry

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry
