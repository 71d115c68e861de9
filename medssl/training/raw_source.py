"""Raw files that a model or a search is asked about: which recipe reads them."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.recipe import Item, Recipe, load_recipe
from medssl.errors import ConfigError, MedSSLError

__all__ = ["items_of_source", "raw_source"]


def items_of_source(
    source: Path, kind: str, recipe: str, options: Mapping[str, Any]
) -> Iterator[tuple[Recipe | None, Item | Rejected]]:
    """Every input at or below ``source`` with the recipe that reads it."""
    if not source.exists():
        raise MedSSLError(f"'{source}' does not exist; give a file or a folder")
    if source.is_file() and recipe == "auto" and not options:
        name = re.sub(r"(\.nii)?\.[^.]+$", "", source.name)
        yield load_recipe("folder", {"kind": kind}), Item(source, Ids(patient=name, recording=name))
        return
    folder, recipe, chosen = raw_source(source, kind, recipe, options)
    loaded = load_recipe(recipe, chosen)
    if loaded.kind != kind:
        raise ConfigError(f"recipe '{recipe}' reads {loaded.kind}s but the model takes {kind}s")
    found: Iterable[Item | Rejected] = loaded.find(folder)
    yield from ((loaded, item) for item in found)


def raw_source(
    source: Path, kind: str, recipe: str, options: Mapping[str, Any]
) -> tuple[Path, str, dict[str, Any]]:  # fmt: skip
    """The folder, recipe and options that read a file or folder of raw recordings of a kind.

    Args:
        source: exists.
        kind: of the recordings.
        recipe: ``auto`` looks whether a folder holds DICOM.
        options: of the recipe.
    """
    folder, chosen = source, dict(options)
    if source.is_file() and recipe in ("auto", "folder"):
        folder, chosen = source.parent, {"glob": glob.escape(source.name), **chosen}
    if recipe == "auto":
        recipe = "dicom" if kind == "volume" and source.is_dir() and _has_dicom(source) else "folder"
        if recipe == "dicom":  # a prediction needs no patient id, only a name
            chosen = {"patient": "any", **chosen}
    return folder, recipe, {"kind": kind, **chosen} if recipe == "folder" else chosen


def _has_dicom(folder: Path) -> bool:
    for file in sorted(p for p in folder.rglob("*") if p.is_file())[:50]:
        with file.open("rb") as handle:
            if handle.read(132)[128:] == b"DICM":
                return True
    return False
