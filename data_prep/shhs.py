"""Sleep Heart Health Study: polysomnograms at home of 5,804 people, with stages; some a second time years later.

Get the data: https://sleepdata.org/datasets/shhs (on request). Licence: NSRR data use agreement: research only, not to
be passed on. Cite: Quan SF et al., The Sleep Heart Health Study: design, rationale, and methods, Sleep
20(12):1077-1085, 1997; Zhang GQ et al., The National Sleep Research Resource, J Am Med Inform Assoc 25(10):1351-1358,
2018.

Layout: ``polysomnography/edfs/shhs1/shhs1-200001.edf`` and ``polysomnography/annotations-events-nsrr/shhs1/
shhs1-200001-nsrr.xml``; the same for ``shhs2``. The number is the patient, the visit the session. The channel called
``EEG`` is C4-A1 and ``EEG(sec)`` is C3-A2: they are stored under these names, with a note. Events ``stage`` of 30 s:
W, N1, N2, N3 (stages 3 and 4), REM; movement and unscored epochs have none.

Splits: none is published (papers choose some hundred people without apnoea, of whom lists are seldom given); visits of
a person must stay together, as ``medssl cohort split COHORT`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.adapters.signal_edf import read_edf_header
from medssl.adapters.signal_xml import parse_xml
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import SignalItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.staging import AASM_OF, epochs_of, named, scored_night
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["SHHS"]

NAME = re.compile(r"(shhs[12])-(\d{6})\.edf", re.IGNORECASE)
EPOCH_S = 30.0
DERIVATIONS = {"C4-A1": ("EEG", "EEG1"), "C3-A2": ("EEG(SEC)", "EEG SEC", "EEG2", "EEG 2", "EEG(2)")}
"""Under which names the two EEG channels stand in the files."""

STAGES = {"0": "W", "1": "N1", "2": "N2", "3": "N3", "4": "N3", "5": "REM"}


class SHHS(Recipe):
    """Nights with events ``stage`` every 30 s.

    Args:
        channels: to store: C4-A1, C3-A2, or any other by the name in the file.
        visits: which visits are taken.
        wake_min: minutes kept before the first and after the last epoch of sleep; None keeps the whole recording.
        rate_hz: of the stored signals (recorded: 125 or 128 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        channels: tuple[str, ...] = ("C4-A1",),
        visits: tuple[int, ...] = (1, 2),
        wake_min: float | None = 30.0,
        rate_hz: float = 100.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        self.channels = tuple(channels)
        self.visits = tuple(visits)
        self.wake_min = wake_min
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The channels wanted, in their own units; EEG is in uV."""
        return SignalPreparation(rate_hz=self.rate_hz, channels=self.channels, band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every polysomnogram of the visits with its annotations."""
        files = files_below(require_folder(source, "shhs"), (".edf", "-nsrr.xml"))
        nights = [(f, m) for f in files if (m := NAME.fullmatch(f.name))]
        if not nights:
            raise RecipeError(f"no shhs1-200001.edf below '{source}'; recipe 'shhs' wants the folder polysomnography")
        annotations = {f.name.lower(): f for f in files if f.name.lower().endswith("-nsrr.xml")}
        for file, match in nights:
            visit, person = match[1].lower(), match[2]
            if int(visit[-1]) not in self.visits:
                continue
            scored = annotations.get(f"{file.stem.lower()}-nsrr.xml")
            if scored is None:
                yield Rejected(str(file), f"no {file.stem}-nsrr.xml below the folder")
                continue
            try:
                there = _stored_names(self.channels, read_edf_header(file).labels, file)
            except UnreadableRecording as error:
                yield Rejected(str(file), error.reason)
                continue
            ids = Ids(patient=person, session=visit, recording=f"{visit}-{person}")
            yield SignalItem((file, scored), ids, channels=there)

    def read(self, item: Item) -> Read:
        """The night with its stages, without most of the wake around it."""
        read = read_item(self.kind, item)
        assert isinstance(item.path, tuple)
        return Read([self._scored(r, item.path[1]) for r in read.recordings], read.rejected)

    def _scored(self, recording: Recording, annotations: Path) -> Recording:
        stages = epochs_of(_intervals(annotations), EPOCH_S)
        return scored_night(named(recording, self.channels), stages, EPOCH_S, wake_min=self.wake_min)


def _stored_names(wanted: tuple[str, ...], labels: tuple[str, ...], file: Path) -> tuple[str, ...]:
    by_name = {label.upper(): label for label in reversed(labels)}
    found = []
    for name in wanted:
        spellings = (name, *DERIVATIONS.get(name, ()))
        label = next((by_name[s.upper()] for s in spellings if s.upper() in by_name), None)
        if label is None:
            raise UnreadableRecording(f"channel {name} is not among its channels: {', '.join(labels)}", file)
        found.append(label)
    return tuple(found)


def _intervals(annotations: Path) -> Iterator[tuple[float, float, str | None]]:
    """Onset, duration and stage of every scored interval of NSRR's annotations."""
    for event in parse_xml(annotations).iter("ScoredEvent"):
        if (event.findtext("EventType") or "").partition("|")[0].strip().lower() != "stages":
            continue
        try:
            onset, duration = float(event.findtext("Start", "")), float(event.findtext("Duration", ""))
        except ValueError as error:
            raise UnreadableRecording(
                f"a stage of {annotations.name} has no start and duration", annotations
            ) from error
        name, _, code = (event.findtext("EventConcept") or "").partition("|")
        yield onset, duration, STAGES.get(code.strip(), AASM_OF.get(name.strip().upper()))
