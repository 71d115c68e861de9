"""The run directory: what was asked for, on what, and what came of it.

RUN/config.yaml        complete; ``medssl pretrain --config RUN/config.yaml --out ANOTHER`` repeats the run
RUN/environment.json   versions, device, git state, cohort fingerprints, split hashes
RUN/metrics.csv        one row every ``log_every`` steps
RUN/checkpoints/       last.ckpt (and those kept for good)
RUN/encoder/           the exported encoder (pre-training) or RUN/model/ (fine-tuning)
RUN/summary.json       the result; its ``status`` is "finished" once the run is complete
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medssl import __version__
from medssl.cohort.info import CohortInfo
from medssl.configurable import spec
from medssl.errors import CheckpointError, TrainingError

__all__ = [
    "environment",
    "is_finished",
    "locked",
    "read_config",
    "read_summary",
    "refuse_existing",
    "write_atomic",
    "write_config",
    "write_json",
]

_PACKAGES = ("torch", "lightning", "monai", "numpy", "scipy", "pandas", "tensorstore", "safetensors")


def write_atomic(file: Path, text: str) -> None:
    """Write a text file so that a reader (or a kill) never meets half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN becomes null, so that any reader takes it."""
    write_atomic(file, json.dumps(_without_nan(spec(value)), indent=1, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


def write_config(run: Path, arguments: Mapping[str, Any]) -> None:
    """Write ``config.yaml``: every argument of the verb, defaults included."""
    import yaml

    write_atomic(run / "config.yaml", yaml.safe_dump(spec(arguments), sort_keys=False, allow_unicode=True))


def read_config(run: Path) -> dict[str, Any]:
    """What ``write_config`` wrote.

    Raises:
        CheckpointError: there is no run.
    """
    import yaml

    file = run / "config.yaml"
    if not file.is_file():
        raise CheckpointError(
            f"'{run}' is no run (it has no config.yaml); give the --out of an earlier `medssl pretrain`"
        )
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"'{file}' is damaged; it must hold the options of the run")
    return config


def read_summary(run: Path) -> dict[str, Any]:
    """``summary.json`` as it stands; empty when there is none yet."""
    try:
        summary: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return summary


def is_finished(run: Path) -> bool:
    """Whether the run in this folder came to its end."""
    return read_summary(run).get("status") == "finished"


def refuse_existing(run: Path, *, verb: str) -> None:
    """Refuse a folder that holds another run.

    Raises:
        TrainingError: the message names the way on.
    """
    if is_finished(run) and verb == "pretrain":
        raise TrainingError(
            f"'{run}' holds a finished run; give another --out, or extend it with `medssl resume {run} --max-steps N`"
        )
    if is_finished(run):
        raise TrainingError(f"'{run}' holds a finished run; give another --out or delete it")
    if (run / "config.yaml").exists() and verb == "pretrain":
        raise TrainingError(
            f"'{run}' holds an unfinished run; continue it with `medssl resume {run}`, or give another --out"
        )
    if run.exists() and not run.is_dir():
        raise TrainingError(f"--out '{run}' is a file; give a folder")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run for this process. The lock goes with the process, so a kill leaves none behind.

    Raises:
        TrainingError: another process works in this folder.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"'{run}' cannot be made a folder ({error.strerror}); give another --out") from error
    with (run / ".lock").open("a") as handle:
        try:
            import fcntl
        except ImportError:  # Windows: an open file cannot be locked this way; the check is left out
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(f"another process is working in '{run}'; wait for it, or give another --out") from error
        yield


def environment(cohorts: Sequence[tuple[Path, CohortInfo]], **more: Any) -> dict[str, Any]:
    """What the result depends on beside the options."""
    import torch

    versions = {"medssl": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "git": _git_state(),
        "cohorts": [{"path": str(p), "fingerprint": info.fingerprint} for p, info in cohorts],
        **more,
    }


def _git_state() -> str | None:
    """Commit of the working directory (with ``+`` when files differ from it); None outside a repository."""
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
