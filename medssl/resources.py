"""Finds what ships beside the package (configs, recipes, pipelines), in a checkout as in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from medssl.errors import ConfigError, unknown_name

__all__ = ["find", "names", "root"]

_SUFFIX = {"configs": ".yaml", "data_prep": ".py", "pipelines": ".py"}


def root(kind: str) -> Path:
    """The folder ``configs``, ``data_prep`` or ``pipelines``."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_resources" / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the folder '{kind}' is missing from this installation; reinstall medssl")


def names(kind: str) -> list[str]:
    """Names (without suffix) of everything of that kind, sorted."""
    return sorted(p.stem for p in root(kind).glob(f"*{_SUFFIX[kind]}") if not p.stem.startswith("_"))


def find(kind: str, name: str | Path) -> Path:
    """The file for a name, or the user's own path if one is given.

    Args:
        kind: ``"configs"``, ``"data_prep"`` or ``"pipelines"``.
        name: a shipped name (``"ixi"``), or a path to a file of the user's own.

    Raises:
        ConfigError: when neither exists; the message lists the shipped names.
    """
    path = Path(name)
    if path.suffix == _SUFFIX[kind] and path.is_file():
        return path
    shipped = root(kind) / f"{name}{_SUFFIX[kind]}"
    if shipped.is_file():
        return shipped
    if path.suffix == _SUFFIX[kind]:
        raise ConfigError(f"no file '{path}'; give an existing path or one of: {', '.join(names(kind))}")
    raise ConfigError(unknown_name(kind.rstrip("s"), str(name), names(kind)))
