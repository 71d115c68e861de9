"""One self-contained HTML page for a run, a study or a search."""

from __future__ import annotations

import json
from pathlib import Path

from medssl.errors import ConfigError

__all__ = ["report"]


def report(path: Path, out: Path | None = None) -> Path:
    """Write the page of a study, a run or a search: one HTML file that refers to no other file and not to the network.

    Args:
        path: of a study (``medssl evaluate``), a run (``medssl pretrain``, ``medssl finetune``) or a search.
        out: the HTML file; by default ``report.html`` in ``path``.

    Returns:
        Where it lies.

    Raises:
        ConfigError: ``path`` is none of them.
    """
    path = Path(path)
    file = path / "summary.json"
    if not file.is_file():
        raise ConfigError(
            f"'{path}' is no run or study (it has no summary.json); give the --out of `medssl pretrain`, `medssl "
            "finetune`, `medssl evaluate` or `medssl search`"
        )
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("kind")
    except ValueError as error:
        raise ConfigError(f"'{file}' is damaged ({error}); run the command that wrote it again") from error
    if kind == "study":
        from medssl.report.study_page import study_page

        page = study_page(path)
    elif kind == "representation":
        from medssl.report.representation import quality_page

        page = quality_page(path)
    elif kind == "search":
        from medssl.report.search_page import search_page

        page = search_page(path)
    else:
        from medssl.report.run_page import run_page

        page = run_page(path)
    target = Path(out) if out is not None else path / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.part")
    beside.write_text(page, encoding="utf-8")
    beside.replace(target)
    return target
