"""Atlases of the brain: images of labels with names, or coordinates with a radius."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import sha256_of
from medssl.adapters.volume import is_volume, load_image, stem_of, what_is_broken
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["COORDINATES", "Atlas", "read_atlas", "template_of"]

COORDINATES = ("power_2011", "dosenbach_2010", "seitzman_2018")
"""Sets of coordinates that nilearn carries with it: 264, 160 and 300 regions."""

RADIUS_MM = 5.0
_MOST_LABELS = 5000
_ID_COLUMNS = ("index", "id", "value", "label_id", "roi", "number", "key")
_NAME_COLUMNS = ("name", "label", "region", "roi_name", "roi name", "regionname", "fullname")


@dataclass(frozen=True)
class Atlas:
    """Regions of a brain, in a fixed order.

    Attributes:
        name: for people, with the first digits of the digest, so that two atlases of one name are told apart.
        regions: name of each region; its number where it has no name.
        ids: (N,) label of each region in ``labels``; 1, 2, ... for coordinates.
        labels: (X, Y, Z) integers, 0 outside; None for coordinates.
        affine: (4, 4) of ``labels``.
        centres: (N, 3) RAS+ millimetres; None for labels.
        radii: (N,) millimetres.
        template: the space it is in, as a file name states it (``tpl-`` or ``space-``); empty when unknown.
    """

    name: str
    regions: tuple[str, ...]
    ids: NDArray[np.int64]
    labels: NDArray[np.int32] | None = None
    affine: NDArray[np.float64] | None = None
    centres: NDArray[np.float64] | None = None
    radii: NDArray[np.float64] | None = None
    template: str = ""

    def __len__(self) -> int:
        return len(self.regions)


def template_of(path: Path | str) -> str:
    """The template that a file's name states.

    >>> template_of("tpl-MNI152NLin6Asym_atlas-Schaefer2018_dseg.nii.gz"), template_of("atlas.nii.gz")
    ('MNI152NLin6Asym', '')
    """
    match = re.search(r"(?:^|_)(?:tpl|space)-([A-Za-z0-9]+)", Path(path).name)
    return match[1] if match else ""


@lru_cache(maxsize=4)
def read_atlas(source: str | Path, *, labels: str | Path = "", radius_mm: float | None = None) -> Atlas:
    """An atlas by file or name; read once a process.

    Args:
        source: an image of labels (3-D, whole numbers, 0 outside); a table of coordinates with the columns x, y, z in
            millimetres and optionally name and radius; or one of :data:`COORDINATES`.
        labels: a table of names for an image of labels: columns of number and name, or two bare columns. Without it a
            table beside the image and named like it is taken (``.tsv``, ``.csv``, ``.txt``); else numbers are names.
        radius_mm: of the spheres around coordinates; 5 mm unless the set has its own.

    Raises:
        UnreadableRecording: not an atlas.
        ConfigError: no such name or file.
    """
    path = Path(source)
    if str(source) in COORDINATES:
        return _shipped(str(source), radius_mm)
    if not path.is_file():
        raise ConfigError(
            f"atlas '{source}' is neither a file nor one of {', '.join(COORDINATES)}, which need no download"
        )
    return _image(path, Path(labels) if labels else _beside(path)) if is_volume(path) else _table(path, radius_mm)


def _image(path: Path, names: Path | None) -> Atlas:
    image = load_image(path)
    try:
        values = np.asarray(image.dataobj)
    except Exception as error:  # a parser given damaged bytes may raise anything
        raise UnreadableRecording(what_is_broken(path, error), path) from error
    values = values.squeeze()
    if values.ndim != 3:
        raise UnreadableRecording(f"an atlas is one volume of labels, this has shape {values.shape}", path)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or values.min() < 0:
        raise UnreadableRecording("an atlas holds whole numbers from 0 up; this holds others (probabilities?)", path)
    labels = values.astype(np.int32)
    ids = np.unique(labels[labels > 0]).astype(np.int64)
    if not 1 < len(ids) <= _MOST_LABELS:
        raise UnreadableRecording(f"{len(ids)} labels are no atlas (2 to {_MOST_LABELS} are)", path)
    named = _names(names) if names else {}
    # the order of the regions is that of their numbers, whether or not a region is found in a brain
    regions = tuple(named.get(int(i), str(i)) for i in ids)
    regions = tuple(r if regions.count(r) == 1 else f"{r} ({i})" for r, i in zip(regions, ids, strict=True))
    affine = np.asarray(image.affine, dtype=np.float64)
    name = f"{stem_of(path)} {sha256_of(path)[:12]}"
    return Atlas(name, regions, ids, labels=labels, affine=affine, template=template_of(path))


def _beside(path: Path) -> Path | None:
    """The table that is named like the image."""
    tables = (path.with_name(stem_of(path) + suffix) for suffix in (".tsv", ".csv", ".txt"))
    return next((table for table in tables if table.is_file()), None)


def _names(path: Path) -> dict[int, str]:
    """Number → name, from a table with or without a header."""
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=r"\t|,|;|\s{2,}", engine="python", header=None, dtype=str)
        rows = [[str(cell).strip() for cell in row] for row in table.to_numpy().tolist()]
        columns = [cell.lower() for cell in rows[0]]
        if columns[0].lstrip("-").isdigit():
            return {int(row[0]): row[1] for row in rows}
        number, name = _column(columns, _ID_COLUMNS), _column(columns, _NAME_COLUMNS)
        return {int(float(row[number])): row[name] for row in rows[1:]}
    except (ValueError, IndexError, OSError, UnicodeDecodeError) as error:
        raise UnreadableRecording(
            f"no table of label numbers and names: {' '.join(str(error).split())}", path
        ) from error


def _column(columns: list[str], names: tuple[str, ...]) -> int:
    found = [columns.index(name) for name in names if name in columns]
    if not found:
        raise ValueError(f"no column {' or '.join(names[:3])} among {', '.join(columns)}")
    return found[0]


def _table(path: Path, radius_mm: float | None) -> Atlas:
    import pandas as pd

    try:
        table = pd.read_csv(path, sep=None, engine="python")
        table.columns = [str(c).strip().lower() for c in table.columns]
        centres = table[["x", "y", "z"]].to_numpy(dtype=np.float64)
        radii = table["radius"].to_numpy(dtype=np.float64) if "radius" in table else None
    except (KeyError, ValueError, OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UnreadableRecording("no atlas: neither an image of labels nor a table with x, y, z", path) from error
    names = [str(n) for n in table["name"]] if "name" in table else [str(i + 1) for i in range(len(table))]
    if not np.isfinite(centres).all() or not len(centres):
        raise UnreadableRecording("its coordinates are not all numbers", path)
    return _spheres(path.stem, centres, radii, names, radius_mm, sha256_of(path), template_of(path))


def _shipped(name: str, radius_mm: float | None) -> Atlas:
    from nilearn import datasets

    found: Mapping[str, object] = getattr(datasets, f"fetch_coords_{name}")()
    rois = found["rois"]
    centres = np.stack([np.asarray(rois[axis], dtype=np.float64) for axis in "xyz"], axis=1)  # type: ignore[index]
    radii = np.asarray(found["radius"], dtype=np.float64) if "radius" in found else None
    labels = [str(n) for n in found["labels"]] if "labels" in found else []  # type: ignore[attr-defined]
    names = labels if len(set(labels)) == len(centres) else [str(i + 1) for i in range(len(centres))]
    digest = hashlib.sha256(centres.tobytes()).hexdigest()
    return _spheres(name, centres, radii, names, radius_mm, digest, "MNI152")


def _spheres(
    name: str,
    centres: NDArray[np.float64],
    radii: NDArray[np.float64] | None,
    names: list[str],
    radius_mm: float | None,
    digest: str,
    template: str,
) -> Atlas:
    if radius_mm is not None and not radius_mm > 0:
        raise ConfigError(f"radius_mm {radius_mm} is not above 0")
    sizes = np.full(len(centres), radius_mm or RADIUS_MM) if radius_mm or radii is None else radii
    named = f"{name} {digest[:12]}" + (f" r={radius_mm or RADIUS_MM:g} mm" if radius_mm or radii is None else "")
    ids = np.arange(1, len(centres) + 1)
    regions = tuple(n if names.count(n) == 1 else f"{n} ({i})" for n, i in zip(names, ids, strict=True))
    return Atlas(named, regions, ids, centres=centres, radii=sizes, template=template)
