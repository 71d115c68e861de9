"""What there is to choose from: methods, encoders, objectives, views, recipes, configs."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any, Literal

from medssl import resources
from medssl.configurable import Configurable

__all__ = ["listing", "members", "rows"]

Kind = Literal["methods", "encoders", "objectives", "views", "recipes", "configs", "pipelines"]


def listing(what: Kind) -> None:
    """Print every member of one kind with the first line of its documentation.

    Args:
        what: which kind.
    """
    found = rows(what) + (members() if what == "encoders" else [])
    found.sort(key=lambda row: row[0])
    width = max((len(name) for name, _ in found), default=0)
    for name, summary in found:
        print(f"{name:<{width}}  {summary}")


def rows(what: Kind) -> list[tuple[str, str]]:
    """Pairs of name and one-line summary, sorted by name."""
    if what == "recipes":
        return [(n, _module_summary(resources.find("data_prep", n))) for n in resources.names("data_prep")]
    if what == "pipelines":
        files = {n: resources.find("pipelines", n) for n in resources.names("pipelines")}
        return [(n, f"{_module_summary(f)} ({f})") for n, f in files.items()]
    if what == "configs":
        return [(n, _comment_summary(resources.find("configs", n))) for n in resources.names("configs")]
    from medssl.configurable import discover

    base = _base(what)
    found = discover(f"medssl.{what}", Configurable)
    if what == "objectives":
        return [(n, _objective_summary(c)) for n, c in found.items() if issubclass(c, base)]
    return [(n, _first_line(inspect.getdoc(c))) for n, c in found.items() if issubclass(c, base)]


def members() -> list[tuple[str, str]]:
    """Networks that an encoder builds by name, as ``ENCODER model=NAME``, with a line on each."""
    from medssl.configurable import discover
    from medssl.encoders.base import Encoder

    found = discover("medssl.encoders", Encoder)  # type: ignore[type-abstract]
    return [(f"{n} model={name}", about) for n, c in found.items() for name, about in c.members().items()]


def _base(what: str) -> type[Configurable]:
    if what == "methods":
        from medssl.methods.base import Method

        return Method
    if what == "encoders":
        from medssl.encoders.base import Encoder

        return Encoder
    if what == "objectives":
        from medssl.objectives.base import Objective

        return Objective
    from medssl.views.base import Views

    return Views


def _objective_summary(kind: Any) -> str:
    """First line of the documentation, the method class that takes it, and what it needs."""
    return f"{_first_line(inspect.getdoc(kind))} [{kind.family}; needs {kind.requirements()}]"


def _module_summary(file: Path) -> str:
    return _first_line(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))


def _comment_summary(file: Path) -> str:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    return first.lstrip("# ").strip()


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0].strip()
