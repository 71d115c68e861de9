"""Speed and memory on this machine, beside reference libraries: runs the scripts of ``benchmarks/``."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from medssl.errors import ConfigError, unknown_name

__all__ = ["bench"]


def bench(*, only: str = "", quick: bool = False) -> None:
    """Print one table a benchmark (medians and spread; nothing is asserted).

    Args:
        only: name of one benchmark; all of them when empty.
        quick: fewer repetitions, for a first look.
    """
    scripts = _scripts()
    if only and only not in scripts:
        raise ConfigError(unknown_name("benchmark", only, scripts))
    before = sys.argv, sys.path
    for name, file in scripts.items():
        if only in {"", name}:
            print(f"\n## {name}\n", flush=True)
            sys.argv = [str(file), *(["--quick"] if quick else [])]
            sys.path = [str(file.parent), *before[1]]  # as when Python runs the script: it imports those beside it
            try:
                runpy.run_path(str(file), run_name="__main__")
            finally:
                sys.argv, sys.path = before


def _scripts() -> dict[str, Path]:
    folder = Path(__file__).resolve().parent
    for place in (folder / "_resources" / "benchmarks", folder.parent / "benchmarks"):
        if place.is_dir():
            return {f.stem: f for f in sorted(place.glob("*.py")) if not f.stem.startswith("_")}
    raise ConfigError("the benchmarks are missing from this installation; reinstall medssl")
