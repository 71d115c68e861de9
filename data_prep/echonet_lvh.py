"""EchoNet-LVH: 12,000 parasternal long-axis clips with thickness of walls and width of the left ventricle.

Get the data: https://echonet.github.io/lvh/ (registration). Licence: Stanford University research use agreement; no
redistribution. Cite: Duffy G. et al., High-Throughput Precision Phenotyping of Left Ventricular Hypertrophy With
Cardiovascular Deep Learning, JAMA Cardiology 7(4):386-395, 2022 (doi 10.1001/jamacardio.2021.6059).

Layout: ``MeasurementsList.csv``, a row a measurement (HashedFileName, Calc, CalcValue, Frame, X1, X2, Y1, Y2, Frames,
FPS, Width, Height, split); ``Batch1`` to ``Batch4`` with ``*.avi`` of differing sizes. Calc is IVSd (septum), LVIDd
(left ventricle), LVPWd (posterior wall), all at the end of diastole, or LVIDs (left ventricle at the end of systole).
Labels: ``ivsd_cm``, ``lvidd_cm``, ``lvids_cm``, ``lvpwd_cm`` (the mean, where a clip has several values; the table
gives centimetres), and ``split`` (train, val or test, as released). The table names no patients: every clip counts as
a patient of its own, so split by the label ``split``.

Events ``trace`` say in which frames was measured, and what (IVSd, ...). The two end points of a measurement (X1, Y1,
X2, Y2) are left out: a cohort has no place for points that move along with crops. A frame number past the end of the
decoded clip is taken as the last frame, with a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.reading import VideoItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import TRACE, VideoPreparation
from medssl.errors import RecipeError

__all__ = ["EchoNetLVH"]

TABLE = "MeasurementsList.csv"
MEASURED = ("IVSd", "LVIDd", "LVIDs", "LVPWd")

Row = Mapping[str, str | None]


class EchoNetLVH(Recipe):
    """Clips with the labels ivsd_cm, lvidd_cm, lvids_cm, lvpwd_cm and split.

    Args:
        require_all: reject clips that lack one of the four measurements; otherwise its label is unknown.
        rate_hz: frames a second of the prepared clips, by the nearest frame; None keeps each clip's own.
        size: rows and columns of the prepared clips.
    """

    kind = "video"
    modality = "us"

    def __init__(self, *, require_all: bool = False, rate_hz: float | None = 50.0, size: int = 112) -> None:
        self.require_all, self.rate_hz, self.size = require_all, rate_hz, size

    def preparation(self) -> VideoPreparation:
        """50 frames a second; the published blanking and framing are kept."""
        return VideoPreparation(rate_hz=self.rate_hz, size=self.size, sector="keep", crop=False, text="keep")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every clip of the table; clips without a row are named."""
        table = require_folder(source, "echonet_lvh") / TABLE
        if not table.is_file():
            raise RecipeError(f"no {TABLE} in '{source}'; recipe 'echonet_lvh' wants the unpacked folder")
        clips = _clips(table)
        files = {f.stem.casefold(): f for f in files_below(source, (".avi",))}
        for key, rows in clips.items():
            path = files.pop(key, None)
            name = _stem(rows[0]["HashedFileName"])
            measured = {str(row["Calc"]).casefold() for row in rows}
            lacking = [calc for calc in MEASURED if calc.casefold() not in measured]
            if path is None:
                yield Rejected(str(source / f"{name}.avi"), f"listed in {TABLE} but missing")
            elif self.require_all and lacking:
                yield Rejected(str(path), f"it has no {', '.join(lacking)} in {TABLE}")
            else:
                yield _item(path, name, rows)
        for path in files.values():
            yield Rejected(str(path), f"not listed in {TABLE}")

    def read(self, item: Item) -> Read:
        """The clip, and in which frames was measured."""
        read = read_item("video", item)
        if not isinstance(item, VideoItem):
            return read
        return Read([_with_events(recording, item) for recording in read.recordings], read.rejected)


def _clips(table: Path) -> dict[str, list[Row]]:
    """Clip (case-folded) → its rows, in the order of the table."""
    rows = read_rows(table)
    missing = {"HashedFileName", "Calc", "CalcValue", "Frame", "split"} - set(rows[0] if rows else ())
    if missing:
        raise RecipeError(f"table '{table}' has no column {', '.join(sorted(missing))}")
    clips: dict[str, list[Row]] = {}
    for row in rows:
        clips.setdefault(_stem(row["HashedFileName"]).casefold(), []).append(row)
    return clips


def _stem(name: str | None) -> str:
    text = name or ""
    return text[:-4] if text.lower().endswith(".avi") else text


def _item(path: Path, name: str, rows: Sequence[Row]) -> VideoItem:
    labels: dict[str, object] = {}
    tracings = []
    for number, calc in enumerate(MEASURED):
        own = [row for row in rows if str(row["Calc"]).casefold() == calc.casefold()]
        values = [value for row in own if isinstance(value := cell(row["CalcValue"]), float)]
        labels[f"{calc.lower()}_cm"] = fmean(values) if values else None
        frames = {int(frame) for row in own if isinstance(frame := cell(row["Frame"]), float)}
        tracings += [(frame, ((float(number),),)) for frame in sorted(frames)]
    split = str(rows[0]["split"] or "").strip().lower()
    count, rate = cell(rows[0].get("Frames")), cell(rows[0].get("FPS"))
    return VideoItem(
        path,
        Ids(name, recording=name),
        labels={**labels, "split": split or None},
        rate_hz=rate if isinstance(rate, float) and rate > 0 else None,
        tracings=tuple(tracings),
        stated_frames=int(count) if isinstance(count, float) else 0,
    )


def _with_events(recording: Recording, item: VideoItem) -> Recording:
    """The clip with an event a measurement; ``tracings`` hold (frame, its place in MEASURED)."""
    count, times, rate = len(recording.data), recording.frame_times, recording.rate_hz or 1.0
    notes, events = [], []
    if item.stated_frames and item.stated_frames != count:
        notes.append(f"the table states {item.stated_frames} frames, {count} could be decoded")
    for frame, ((number,),) in item.tracings:
        place = min(max(frame, 0), count - 1)
        if place != frame:
            notes.append(f"measured frame {frame} lies outside the {count} frames: taken as frame {place}")
        onset = float(times[place]) if times is not None else place / rate
        events.append(Event(onset, 0.0, TRACE, MEASURED[int(number)]))
    ordered = sorted(events, key=lambda event: event.onset_s)
    return recording.with_(events=(*recording.events, *ordered)).noted(*dict.fromkeys(notes))
