"""Brain Imaging Data Structure: anatomical MRI, EEG, or fMRI.

Get the data: your own, or any data set of https://openneuro.org. Licence, citation: of the data set (see its
``dataset_description.json`` and README). Cite the standard: Gorgolewski KJ et al., Scientific Data 3:160044, 2016.

Layout: ``sub-*/[ses-*/]{anat,eeg,func}/sub-*[_ses-*][_run-*]_SUFFIX.EXT``, ``participants.tsv``; events in
``*_events.tsv``; label maps and masks anywhere below ``derivatives/``, told apart by how their names end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from medssl.adapters.recording import Event, Ids, Read, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.preparation import Preparation
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["BIDS"]

VOLUMES, SIGNALS = (".nii.gz", ".nii"), (".edf", ".bdf", ".vhdr", ".set", ".fif")
DEFAULT_SUFFIX = {"anat": "T1w", "eeg": "eeg", "func": "bold"}
ENTITY = re.compile(r"(?P<key>[a-z]+)-(?P<value>[A-Za-z0-9+]+)")


class BIDS(Recipe):
    """One data type of a BIDS data set.

    Args:
        datatype: ``"anat"``, ``"eeg"`` or ``"func"``.
        suffix: of the files: ``"T1w"`` (default for anat), ``"T2w"``, ``"FLAIR"``, ``"eeg"``, ``"bold"``.
        mask: how the names of label maps in ``derivatives/`` of the same subject, session and run end: a suffix such
            as ``"dseg"``, with entities before it where several have that suffix (``"desc-brain_mask"``).
        labels: columns of ``participants.tsv`` to keep as labels; all when empty.
        spacing_mm: voxel size of volumes; None keeps each volume's own.
        rate_hz: of signals; None keeps each recording's own.
    """

    kind: Literal["volume", "signal"]  # type: ignore[misc]  # follows from the data type here

    def __init__(
        self,
        *,
        datatype: Literal["anat", "eeg", "func"] = "anat",
        suffix: str = "",
        mask: str = "",
        labels: Sequence[str] = (),
        spacing_mm: float | tuple[float, float, float] | None = None,
        rate_hz: float | None = None,
    ) -> None:
        if datatype not in DEFAULT_SUFFIX:
            raise RecipeError(f"datatype '{datatype}' is unknown; use one of {', '.join(DEFAULT_SUFFIX)}")
        self.kind = "signal" if datatype == "eeg" else "volume"
        self.modality = {"anat": "mri", "func": "fmri", "eeg": "eeg"}[datatype]
        self.datatype = datatype
        self.suffix = suffix or DEFAULT_SUFFIX[datatype]
        self.mask = mask
        self.labels = tuple(labels)
        self.spacing_mm = spacing_mm
        self.rate_hz = rate_hz

    def preparation(self) -> Preparation:
        """MR by robust percentiles (fMRI: the mean of the run); EEG in microvolts."""
        if self.kind == "signal":
            return SignalPreparation(rate_hz=self.rate_hz, units="uV")
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="mr", frames="mean")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every file of the data type and suffix."""
        require_folder(source, "bids")
        suffixes = SIGNALS if self.kind == "signal" else VOLUMES
        files = [f for f in files_below(source, suffixes) if f.parent.name == self.datatype and _raw(f, source)]
        wanted = [f for f in files if _suffix(f) == self.suffix]
        if not wanted:
            there = ", ".join(sorted({_suffix(f) for f in files})) or "none"
            raise RecipeError(f"no sub-*/{self.datatype}/*_{self.suffix} below '{source}' (suffixes there: {there})")
        people = _people(source)
        masks = _derivatives(source, self.mask) if self.mask else {}
        for file in wanted:
            entities = _entities(file)
            person = people.get(entities.get("sub", ""), {})
            found = masks.get(_case(file), [])
            if len(found) > 1:
                names = " and ".join(f.name for f in found[:2])
                yield Rejected(str(file), f"{len(found)} label maps end in {self.mask}: {names}; name one more closely")
                continue
            yield Item(
                file,
                Ids(f"sub-{entities['sub']}", entities.get("ses", ""), _stem(file)),
                masks={self.mask: found[0]} if found else {},
                labels={k: cell(v) for k, v in person.items() if k != "site" and (not self.labels or k in self.labels)},
                site=person.get("site") or "",
            )

    def read(self, item: Item) -> Read:
        """The recording with the events of its ``*_events.tsv``."""
        read = read_item(self.kind, item)
        path = item.path[0] if isinstance(item.path, tuple) else item.path
        table = path.with_name(f"{_stem(path).rpartition('_')[0]}_events.tsv")
        if not table.is_file():
            return read
        try:
            events = tuple(_events(table))
        except RecipeError as error:
            return Read([], [Rejected(item.source, f"its events cannot be read: {error}")])
        return Read([r.with_(events=(*r.events, *events)) for r in read.recordings], read.rejected)


def _raw(file: Path, source: Path) -> bool:
    return file.relative_to(source).parts[0].startswith("sub-") and "sub" in _entities(file)


def _stem(file: Path) -> str:
    return file.name.split(".", 1)[0]


def _suffix(file: Path) -> str:
    return _stem(file).rpartition("_")[2]


def _entities(file: Path) -> dict[str, str]:
    return {m["key"]: m["value"] for m in ENTITY.finditer(_stem(file))}


def _case(file: Path) -> tuple[str, str, str]:
    entities = _entities(file)
    return entities.get("sub", ""), entities.get("ses", ""), entities.get("run", "")


def _people(source: Path) -> dict[str, dict[str, str | None]]:
    table = source / "participants.tsv"
    rows = read_rows(table) if table.is_file() else []
    if rows and "participant_id" not in rows[0]:
        raise RecipeError(f"'{table}' has no column participant_id")
    return {
        str(row["participant_id"]).removeprefix("sub-"): {k: v for k, v in row.items() if k != "participant_id"}
        for row in rows
        if row["participant_id"]
    }


def _derivatives(source: Path, ending: str) -> dict[tuple[str, str, str], list[Path]]:
    """Subject, session and run → the label maps whose names end so."""
    folder = source / "derivatives"
    found: dict[tuple[str, str, str], list[Path]] = {}
    for file in files_below(folder, VOLUMES) if folder.is_dir() else []:
        if _stem(file).endswith(f"_{ending}"):
            found.setdefault(_case(file), []).append(file)
    return found


def _events(table: Path) -> Iterator[Event]:
    for row in read_rows(table):
        onset, duration = cell(row.get("onset")), cell(row.get("duration"))
        if not isinstance(onset, float):
            raise RecipeError(f"'{table}' has an onset that is no number: {row.get('onset')}")
        value = row.get("trial_type") or row.get("value") or "event"
        yield Event(onset, duration if isinstance(duration, float) else 0.0, "stimulus", value)
