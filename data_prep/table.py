"""A CSV, TSV or Parquet table with one row a recording.

Get the data: your own. Licence, citation: of your data.

Columns: ``path`` (absolute, or relative to the table) and ``patient``; all others are optional: ``recording``,
``session``, ``trial``, ``site``, ``scanner``, ``mask_NAME`` (path of a label map), ``label_NAME`` (number or word;
empty where unknown), ``rate_hz``, ``units``, ``channels`` (comma-separated) and ``key`` for signals whose file does
not say so; ``rate_hz`` also of clips, in place of what the file says. ``path`` of a clip may be a folder of PNG frames.
Rows whose file is missing are rejected; unlabelled rows are welcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import cell, read_rows
from medssl.cohort.preparation import Preparation
from medssl.cohort.reading import SignalItem, VideoItem
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.videos import VideoPreparation
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["Table"]

COLUMNS = (
    *("path", "patient", "recording", "session", "trial", "site", "scanner"),
    *("rate_hz", "units", "channels", "key"),
)
MASK, LABEL = "mask_", "label_"


class Table(Recipe):
    """Recordings listed in a table.

    Args:
        kind: ``"volume"``, ``"signal"`` or ``"video"`` (ultrasound clips).
        modality: a word for people (``"mri"``, ``"ct"``, ``"ecg"``, ``"eeg"``, ``"us"``); ``"ct"`` also keeps
            Hounsfield units.
        rename: name of the column here → name it has in your table, e.g. ``path=file label_age=Age``.
        multilabel: labels (without ``label_``) whose cells hold several values, separated by ``,``, ``;`` or ``|``.
        text_labels: labels that are words even where they look like numbers (``0``/``1`` classes).
        case_is_patient: take a table without ``patient``: every row is then a patient of its own.
    """

    kind: Literal["volume", "signal", "video"]  # type: ignore[misc]  # chosen by an option here

    def __init__(
        self,
        *,
        kind: Literal["volume", "signal", "video"] = "volume",
        modality: str = "",
        rename: Mapping[str, str] | None = None,
        multilabel: Sequence[str] = (),
        text_labels: Sequence[str] = (),
        case_is_patient: bool = False,
    ) -> None:
        if kind not in ("volume", "signal", "video"):
            raise RecipeError(f"kind '{kind}' is unknown; use volume, signal or video")
        self.kind = kind
        self.modality = modality
        self.rename = dict(rename or {})
        self.multilabel = frozenset(multilabel)
        self.text_labels = frozenset(text_labels)
        self.case_is_patient = case_is_patient

    def preparation(self) -> Preparation:
        """Volumes keep their voxel size, signals their rate; override what should be common to all."""
        if self.kind == "signal":
            return SignalPreparation()
        if self.kind == "video":
            return VideoPreparation()
        return VolumePreparation(intensity="ct" if self.modality == "ct" else "auto")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """One item a row, in the table's order."""
        rows = [self._renamed(row) for row in read_rows(source)]
        if not rows:
            raise RecipeError(f"table '{source}' has no rows")
        for column in ("path",) if self.case_is_patient else ("path", "patient"):
            if column not in rows[0]:
                hint = " (or give case_is_patient=true)" if column == "patient" else ""
                raise RecipeError(
                    f"table '{source}' has no column '{column}'; there are {', '.join(rows[0])}; "
                    f"give rename, e.g. {column}=NAME{hint}"
                )
        masks = [name for name in rows[0] if name.startswith(MASK)]
        if masks and self.kind == "video":
            raise RecipeError(
                f"table '{source}' has a column '{masks[0]}'; masks of clips are read by recipes of their own, not by "
                "recipe 'table'"
            )
        used: set[str] = set()
        for number, row in enumerate(rows, start=2):
            yield self._item(row, number, source, used)

    def _renamed(self, row: Mapping[str, str | None]) -> dict[str, str | None]:
        missing = [theirs for theirs in self.rename.values() if theirs not in row]
        if missing:
            raise RecipeError(f"the table has no column '{missing[0]}' to rename; there are {', '.join(row)}")
        back = {theirs: ours for ours, theirs in self.rename.items()}
        return {back.get(name, name): value for name, value in row.items()}

    def _item(self, row: Mapping[str, str | None], number: int, source: Path, used: set[str]) -> Item | Rejected:
        stated = row.get("path")
        if stated is None:
            return Rejected(f"{source}:{number}", "the row has no path")
        path = source.parent / stated
        if not path.exists() and not Path(f"{path}.hea").is_file():
            return Rejected(str(path), f"no such file (line {number} of {source.name})")
        masks = {
            n.removeprefix(MASK): source.parent / v for n, v in row.items() if n.startswith(MASK) and v is not None
        }
        lost = next((mask for mask in masks.values() if not mask.is_file()), None)
        if lost is not None:
            return Rejected(str(path), f"its mask does not exist: {lost} (line {number} of {source.name})")
        recording = row.get("recording") or "_".join(v for v in (row.get("patient"), row.get("session"), stated) if v)
        if recording in used:
            return Rejected(str(path), f"recording '{recording}' stands in the table twice (line {number})")
        patient = row.get("patient") or (recording if self.case_is_patient else None)
        if patient is None:
            return Rejected(str(path), f"no patient given (line {number} of {source.name})")
        try:
            rate = float(row.get("rate_hz") or 0) or None
        except ValueError:
            return Rejected(str(path), f"rate_hz '{row.get('rate_hz')}' is no number (line {number} of {source.name})")
        used.add(recording)
        ids = Ids(patient, row.get("session") or "", recording, row.get("trial") or "")
        labels = {n.removeprefix(LABEL): self._label(n, v) for n, v in row.items() if n.startswith(LABEL)}
        site, scanner = row.get("site") or "", row.get("scanner") or ""
        if self.kind == "video":
            return VideoItem(path, ids, labels=labels, site=site, scanner=scanner, rate_hz=rate)
        return SignalItem(
            path,
            ids,
            masks=masks,
            labels=labels,
            site=site,
            scanner=scanner,
            rate_hz=rate,
            units=row.get("units"),
            channels=tuple(cell(row["channels"], several=True)) if row.get("channels") else None,
            key=row.get("key"),
        )

    def _label(self, column: str, value: str | None) -> object:
        name = column.removeprefix(LABEL)
        return value if name in self.text_labels else cell(value, several=name in self.multilabel)
