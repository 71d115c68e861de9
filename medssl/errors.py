"""Every error a user can cause, under one root.

    MedSSLError
    ├── UnreadableRecording     a raw file that cannot be read faithfully
    ├── CohortError             a cohort that is missing, damaged, or not what the caller needs
    ├── RecipeError             a recipe that is unknown or does not fit the source
    ├── SplitError              a split or budget that would leak, or cannot be met
    ├── ConfigError             an option with a wrong name, type or value
    ├── CheckpointError         weights that do not fit, or a run that cannot be resumed
    └── TrainingError           training that cannot start or must stop

A message is one sentence: what is wrong, where, and what to do next. The command line prints it without a
traceback and exits with 2 (``MEDSSL_DEBUG=1`` shows the traceback).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

__all__ = [
    "CheckpointError",
    "CohortError",
    "ConfigError",
    "MedSSLError",
    "RecipeError",
    "SplitError",
    "TrainingError",
    "UnreadableRecording",
    "unknown_name",
]


class MedSSLError(Exception):
    """Root of all errors that medssl raises on purpose."""


class UnreadableRecording(MedSSLError):  # noqa: N818 - the domain's word, used in manifests and reports
    """A raw recording that cannot be read faithfully.

    Args:
        reason: what is wrong with it, in a clause that can stand in ``rejected.csv``.
        path: the file or folder as the user gave it.
    """

    def __init__(self, reason: str, path: str | Path) -> None:
        super().__init__(reason, str(path))
        self.reason = reason
        self.path = str(path)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class CohortError(MedSSLError):
    """A cohort that is missing, damaged, or does not hold what the caller asked for."""


class RecipeError(MedSSLError):
    """A recipe that is unknown, or whose source does not look as it must."""


class SplitError(MedSSLError):
    """A split or label budget that would leak patients, or cannot be met."""


class ConfigError(MedSSLError):
    """An option with a wrong name, type or value."""


class CheckpointError(MedSSLError):
    """Weights that do not fit the model, or a run that cannot be resumed."""


class TrainingError(MedSSLError):
    """Training that cannot start, or that must stop."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a misspelt name: the nearest known one first, then all of them.

    >>> unknown_name("recipe", "mitbhi", ["ixi", "mitbih"])
    "unknown recipe 'mitbhi'; did you mean 'mitbih'? Known: ixi, mitbih"
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"unknown {kind} '{name}'{hint} Known: {', '.join(names)}"
