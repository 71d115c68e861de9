"""EchoNet-Dynamic: 10,030 apical four-chamber clips with ejection fraction, volumes and two traced frames each.

Get the data: https://echonet.github.io/dynamic/ (registration). Licence: Stanford University research use agreement; no
redistribution. Cite: Ouyang D. et al., Video-based AI for beat-to-beat assessment of cardiac function, Nature
580:252-256, 2020 (doi 10.1038/s41586-020-2145-8).

Layout: ``FileList.csv`` (FileName, EF, ESV, EDV, FrameHeight, FrameWidth, FPS, NumberOfFrames, Split), where FileName
has no suffix; ``VolumeTracings.csv`` (FileName, X1, Y1, X2, Y2, Frame), where it has one; ``Videos/*.avi``. Every clip
is a patient of its own. Labels: ``ef`` (%), ``esv`` and ``edv`` (ml), ``split`` (train, val or test, as released).

Mask ``lv``: the left ventricle in the traced frames; the events ``trace`` (ED and ES) say which those are, the mask
says nothing of the others. Which of the two is which is decided by the traced area, not by the order in the table, and
a frame number at or past the end of the decoded clip is taken as the last frame, with a note. Clips are 112 x 112
already and blanked outside the sector by the publishers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medssl.adapters.echo_tracing import trace_mask
from medssl.adapters.recording import Ids, Read, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.reading import VideoItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.tracings import with_tracings
from medssl.cohort.videos import VideoPreparation
from medssl.errors import RecipeError

__all__ = ["EchoNetDynamic"]

FILES, TRACES, VIDEOS = "FileList.csv", "VolumeTracings.csv", "Videos"


class EchoNetDynamic(Recipe):
    """Clips with the labels ef, esv, edv and split, and the mask ``lv`` in two traced frames.

    Args:
        require_traces: reject clips without tracings, as the published experiments do; otherwise they have no mask.
        rate_hz: frames a second of the prepared clips, by the nearest frame; None keeps each clip's own (mostly 50).
        size: rows and columns of the prepared clips.
    """

    kind = "video"
    modality = "us"
    mask_labels = {"lv": {1: "left ventricle"}}  # noqa: RUF012

    def __init__(self, *, require_traces: bool = False, rate_hz: float | None = 50.0, size: int = 112) -> None:
        self.require_traces, self.rate_hz, self.size = require_traces, rate_hz, size

    def preparation(self) -> VideoPreparation:
        """50 frames a second; the published blanking and framing are kept, so that tracings and pixels stay as they
        are in the literature."""
        return VideoPreparation(rate_hz=self.rate_hz, size=self.size, sector="keep", crop=False, text="keep")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every clip of ``FileList.csv``; clips without a row are named."""
        table = require_folder(source, "echonet_dynamic") / FILES
        if not table.is_file():
            raise RecipeError(f"no {FILES} in '{source}'; recipe 'echonet_dynamic' wants the unpacked folder")
        rows = read_rows(table)
        wanted = {"FileName", "EF", "ESV", "EDV", "Split"}
        if not rows or wanted - set(rows[0]):
            raise RecipeError(
                f"table '{table}' has no column {', '.join(sorted(wanted - set(rows[0] if rows else ())))}"
            )
        tracings = _tracings(source / TRACES)
        files = {f.stem.casefold(): f for f in files_below(source) if f.suffix.lower() == ".avi"}
        for row in rows:
            name = _stem(row["FileName"])
            path = files.pop(name.casefold(), None)
            if path is None:
                yield Rejected(str(source / VIDEOS / f"{name}.avi"), f"listed in {FILES} but missing")
            elif self.require_traces and name.casefold() not in tracings:
                yield Rejected(str(path), f"it has no tracing in {TRACES}")
            else:
                yield _item(path, name, row, tuple(tracings.get(name.casefold(), {}).items()))
        for path in files.values():
            yield Rejected(str(path), f"not listed in {FILES}")

    def read(self, item: Item) -> Read:
        """The clip, its mask and its events."""
        read = read_item("video", item)
        if not read.recordings or not isinstance(item, VideoItem):
            return read
        traced = [with_tracings(r, item, name="lv", draw=trace_mask, least=3) for r in read.recordings]
        return Read(traced, read.rejected)


def _stem(name: str | None) -> str:
    text = name or ""
    return text[:-4] if text.lower().endswith(".avi") else text


def _item(path: Path, name: str, row: dict[str, str | None], tracings: tuple[tuple[int, Any], ...]) -> Item:
    split = (row["Split"] or "").strip().lower()
    labels = {"ef": cell(row["EF"]), "esv": cell(row["ESV"]), "edv": cell(row["EDV"]), "split": split or None}
    frames, rate = cell(row.get("NumberOfFrames")), cell(row.get("FPS"))
    return VideoItem(
        path,
        Ids(name, recording=name),
        labels=labels,
        rate_hz=rate if isinstance(rate, float) and rate > 0 else None,
        tracings=tuple((frame, tuple(rows)) for frame, rows in tracings),
        stated_frames=int(frames) if isinstance(frames, float) else 0,
    )


def _tracings(file: Path) -> dict[str, dict[int, list[tuple[float, float, float, float]]]]:
    """Clip (case-folded) → frame → rows, in the order of the table; nothing where there is no table."""
    found: dict[str, dict[int, list[tuple[float, float, float, float]]]] = {}
    rows = read_rows(file) if file.is_file() else []
    if rows and {"FileName", "X1", "Y1", "X2", "Y2", "Frame"} - set(rows[0]):
        raise RecipeError(f"table '{file}' does not have the columns FileName, X1, Y1, X2, Y2, Frame")
    for number, row in enumerate(rows, start=2):
        try:
            x1, y1, x2, y2, frame = (float(str(row[c])) for c in ("X1", "Y1", "X2", "Y2", "Frame"))
        except ValueError as error:
            raise RecipeError(f"line {number} of '{file}' holds no numbers: {error}") from error
        found.setdefault(_stem(row["FileName"]).casefold(), {}).setdefault(int(frame), []).append((x1, y1, x2, y2))
    return found
