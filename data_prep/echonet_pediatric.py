"""EchoNet-Pediatric: 7,810 clips of children in two views with ejection fraction and two traced frames each.

Get the data: https://echonet.github.io/pediatric/ (registration). Licence: Stanford University research use agreement;
no redistribution. Cite: Reddy C. D. et al., Video-Based Deep Learning for Automated Assessment of Left Ventricular
Ejection Fraction in Pediatric Patients, J Am Soc Echocardiogr 36(5):482-489, 2023.

Layout: ``A4C`` (apical four-chamber) and ``PSAX`` (parasternal short axis), each with ``FileList.csv`` (FileName, EF,
Sex, Age, Weight, Height, Split), ``VolumeTracings.csv`` (FileName, X, Y, Frame: the corners of an outline in order;
rows whose Frame is no number say that a phase was not traced) and ``Videos/*.avi``. The published tables name no
patients: every clip counts as a patient of its own, but a child may have several, so split by the label ``split``,
which holds the published folds 0 to 9. Labels: ``ef`` (%), ``view``, ``sex``, ``age``, ``weight_kg``, ``height_cm``,
``split``. Mask ``lv`` in the traced frames, which the events ``trace`` name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.echo_tracing import polygon_mask
from medssl.adapters.recording import Ids, Read, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.reading import VideoItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.tracings import with_tracings
from medssl.cohort.videos import VideoPreparation
from medssl.errors import RecipeError

__all__ = ["EchoNetPediatric"]

VIEWS = ("A4C", "PSAX")
FILES, TRACES = "FileList.csv", "VolumeTracings.csv"


class EchoNetPediatric(Recipe):
    """Clips with the labels ef, view, sex, age, weight_kg, height_cm and split, and the mask ``lv`` in traced frames.

    Args:
        view: ``"A4C"``, ``"PSAX"`` or ``"all"``.
        rate_hz: frames a second of the prepared clips, by the nearest frame; None keeps each clip's own.
        size: rows and columns of the prepared clips.
    """

    kind = "video"
    modality = "us"
    mask_labels = {"lv": {1: "left ventricle"}}  # noqa: RUF012

    def __init__(self, *, view: str = "all", rate_hz: float | None = 50.0, size: int = 112) -> None:
        if view not in ("all", *VIEWS):
            raise RecipeError(f"view '{view}' is unknown; use all, A4C or PSAX")
        self.view, self.rate_hz, self.size = view, rate_hz, size

    def preparation(self) -> VideoPreparation:
        """50 frames a second; the published blanking and framing are kept."""
        return VideoPreparation(rate_hz=self.rate_hz, size=self.size, sector="keep", crop=False, text="keep")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every clip of both tables; clips without a row are named."""
        require_folder(source, "echonet_pediatric")
        tables = {v: source / v / FILES for v in VIEWS if self.view in ("all", v) and (source / v / FILES).is_file()}
        if not tables:
            raise RecipeError(f"no A4C/{FILES} or PSAX/{FILES} in '{source}' (recipe 'echonet_pediatric')")
        for view, table in tables.items():
            yield from _of_view(view, table)

    def read(self, item: Item) -> Read:
        """The clip, its mask and its events."""
        read = read_item("video", item)
        if not isinstance(item, VideoItem):
            return read
        traced = [with_tracings(r, item, name="lv", draw=_outline, least=3) for r in read.recordings]
        return Read(traced, read.rejected)


def _of_view(view: str, table: Path) -> Iterator[Item | Rejected]:
    rows = read_rows(table)
    missing = {"FileName", "EF"} - set(rows[0] if rows else ())
    if missing:
        raise RecipeError(f"table '{table}' has no column {', '.join(sorted(missing))}")
    outlines = _outlines(table.with_name(TRACES))
    files = {f.stem.casefold(): f for f in files_below(table.parent, (".avi",))}
    for row in rows:
        name = _stem(row["FileName"])
        path = files.pop(name.casefold(), None)
        if path is None:
            yield Rejected(str(table.parent / "Videos" / f"{name}.avi"), f"listed in {FILES} but missing")
            continue
        labels = {"ef": cell(row["EF"]), "view": view, "sex": row.get("Sex"), "age": cell(row.get("Age"))}
        labels |= {"weight_kg": cell(row.get("Weight")), "height_cm": cell(row.get("Height"))}
        labels["split"] = row.get("Split")
        traced = tuple((frame, tuple(points)) for frame, points in outlines.get(name.casefold(), {}).items())
        yield VideoItem(path, Ids(f"{view}_{name}", recording=f"{view}_{name}"), labels=labels, tracings=traced)
    for path in files.values():
        yield Rejected(str(path), f"not listed in {FILES}")


def _stem(name: str | None) -> str:
    text = name or ""
    return text[:-4] if text.lower().endswith(".avi") else text


def _outlines(file: Path) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """Clip (case-folded) → frame → corners (x, y); nothing where there is no table."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    rows = read_rows(file) if file.is_file() else []
    if rows and {"FileName", "X", "Y", "Frame"} - set(rows[0]):
        raise RecipeError(f"table '{file}' does not have the columns FileName, X, Y, Frame")
    for row in rows:
        frame, x, y = (cell(row[column]) for column in ("Frame", "X", "Y"))
        if not all(isinstance(value, float) for value in (frame, x, y)):
            continue  # "No Systolic": this phase was not traced
        found.setdefault(_stem(row["FileName"]).casefold(), {}).setdefault(int(frame), []).append((x, y))
    return found


def _outline(points: Sequence[Sequence[float]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    x, y = np.rint(np.asarray(points, dtype=np.float64)).T
    return polygon_mask(y, x, shape)
