"""Raw files as queries: prepared as the recordings they are compared with were, into a cohort of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import CohortError, ConfigError, MedSSLError

if TYPE_CHECKING:
    from medssl.cohort import Cohort

__all__ = ["prepared_queries", "same_recording"]


def prepared_queries(
    source: Path, gallery: Cohort, folder: Path, *, recipe: str = "auto", options: Mapping[str, Any] | None = None
) -> Cohort:
    """Prepare a raw file or folder with the settings of a cohort.

    Where the cohort kept one voxel size or rate without being told to, the file is brought to it.

    Args:
        source: a file, or a folder of many.
        gallery: whose settings are applied.
        folder: where the small cohort is written.
        recipe: how the files of a folder are found: ``auto``, ``folder``, ``dicom`` or any other recipe.
        options: of the recipe.

    Returns:
        The small cohort; ids are the files' own.

    Raises:
        MedSSLError: nothing could be read or prepared; the message says why.
    """
    from medssl.cohort import Cohort
    from medssl.cohort.recipe import load_recipe
    from medssl.cohort.writer import prepare
    from medssl.training.raw_source import raw_source

    info = gallery.info
    where, name, chosen = raw_source(source, info.kind, recipe, options or {})
    kind = load_recipe(name, chosen).kind
    if kind != info.kind:
        raise ConfigError(f"recipe '{name}' reads {kind}s but '{gallery.path}' holds {info.kind}s")
    settings = _settings(gallery)
    try:
        prepare(
            name, where, folder, options=chosen, preparation=settings, workers=0, keep_ids=True, max_rejected=1.0
        )  # fmt: skip
        found = Cohort(folder)
    except CohortError as error:
        raise _refused(source, info.kind, folder, error) from error
    if not len(found):
        raise _refused(source, info.kind, folder, None)
    return found


def _settings(gallery: Cohort) -> dict[str, Any]:
    from medssl.training.contract import settled_preparation

    arguments: dict[str, Any] = dict(settled_preparation(gallery).get("init_args", {}))
    info = gallery.info
    for name, value in (("spacing_mm", info.spacing_mm), ("rate_hz", info.rate_hz)):
        if value is not None and arguments.get(name, 0) is None:
            arguments[name] = list(value) if isinstance(value, tuple) else value
    return arguments


def _refused(source: Path, kind: str, folder: Path, error: Exception | None) -> MedSSLError:
    """Why nothing came of a query, from ``rejected.csv`` where it says so."""
    import csv

    said = f"the query '{source}' cannot be searched among {kind}s"
    file = folder / "rejected.csv"
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as handle:
            reasons = list(dict.fromkeys(row["reason"] for row in csv.DictReader(handle)))
        if reasons:
            return CohortError(f"{said}: {'; '.join(reasons[:3])}")
    return CohortError(f"{said}: {error or 'it holds no recording'}")


def same_recording(queries: Cohort, row: int, gallery: Cohort) -> int | None:
    """The manifest row of a gallery that was made from the very bytes of a query; None where there is none."""
    import numpy as np

    checksum = queries.manifest["source_sha256"].iloc[row]
    if not checksum:
        return None
    found = np.flatnonzero(gallery.manifest["source_sha256"].to_numpy(dtype=object) == checksum)
    return int(found[0]) if len(found) else None
