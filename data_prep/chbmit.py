"""CHB-MIT scalp EEG: 664 hours-long recordings of 23 children with epilepsy, with the times of 198 seizures.

Get the data: https://physionet.org/content/chbmit/1.0.0/. Licence: Open Data Commons Attribution (ODC-By 1.0). Cite:
Shoeb AH, Application of machine learning to epileptic seizure onset detection and treatment, PhD thesis, MIT, 2009
(doi 10.13026/C2K01R); Goldberger AL et al., PhysioNet, Circulation 101(23):e215-e220, 2000.

Layout: ``chbNN/chbNN_MM.edf`` and ``chbNN/chbNN-summary.txt``, which lists the seizures of each file. **chb21 is the
patient of chb01**, a year and a half later. Events ``seizure``, from onset to end; and events ``state``, windows of
``window_s`` one after the other: ``seizure`` where a window lies within one, ``background`` where it touches none;
windows across an edge have no state. Label ``seizures``: how many a file holds. Montages differ within patients:
channels are chosen by name, and files that lack one are rejected (the referential ones of chb12, for example).

Splits: none is published; patients stay together: ``medssl cohort split COHORT --test 0 --folds 23``. Papers that split
hours of one patient measure something else: a detector made for that patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import SignalItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError

__all__ = ["CHBMIT"]

CHANNELS = (
    *("Fp1-F7", "F7-T7", "T7-P7", "P7-O1", "Fp1-F3", "F3-C3", "C3-P3", "P3-O1"),
    *("Fp2-F4", "F4-C4", "C4-P4", "P4-O2", "Fp2-F8", "F8-T8", "T8-P8", "P8-O2", "Fz-Cz", "Cz-Pz"),
)
"""The longitudinal bipolar montage, which most files share. T8-P8 stands in them twice; both are the same."""

NAME = re.compile(r"(chb\d\d)[a-z]?_\d+\+?\.edf", re.IGNORECASE)
ONE_PATIENT = {"chb21": "chb01"}
FILE = re.compile(r"File Name:\s*(\S+)", re.IGNORECASE)
EDGE = re.compile(r"Seizure\s*\d*\s*(Start|End) Time:\s*(\d+(?:\.\d+)?)\s*sec", re.IGNORECASE)
COUNT = re.compile(r"Number of Seizures in File:\s*(\d+)", re.IGNORECASE)
Seizures = Mapping[str, list[tuple[float, float]]]


class CHBMIT(Recipe):
    """Recordings with events ``seizure`` and ``state`` and the label seizures.

    Args:
        channels: to store, by name.
        window_s: length of the windows with a state; None gives none.
        only_seizures: take only files that hold a seizure.
        rate_hz: of the stored signals; None keeps 256 Hz.
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        channels: tuple[str, ...] = CHANNELS,
        window_s: float | None = 10.0,
        only_seizures: bool = False,
        rate_hz: float | None = None,
        band_hz: tuple[float | None, float | None] | None = (0.5, 70.0),
    ) -> None:
        if window_s is not None and not window_s > 0:
            raise RecipeError(f"window_s is a length above 0 s or null, not {window_s}")
        self.channels = tuple(channels)
        self.window_s = window_s
        self.only_seizures = only_seizures
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The channels wanted in uV."""
        return SignalPreparation(rate_hz=self.rate_hz, channels=self.channels, units="uV", band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every file of every case, with the times of its seizures."""
        files = [f for f in files_below(require_folder(source, "chbmit"), (".edf",)) if NAME.fullmatch(f.name)]
        if not files:
            raise RecipeError(f"no chbNN_MM.edf below '{source}'; recipe 'chbmit' wants the folder of CHB-MIT")
        summaries: dict[Path, Seizures | str] = {}
        for file in files:
            match = NAME.fullmatch(file.name)
            assert match is not None
            case = match[1].lower()
            summary = file.with_name(f"{case}-summary.txt")
            if summary not in summaries:
                summaries[summary] = _seizures(summary) if summary.is_file() else f"no {summary.name} beside it"
            known = summaries[summary]
            if isinstance(known, str):
                yield Rejected(str(file), f"{known}: whether it holds a seizure is unknown")
                continue
            if file.name.lower() not in known:
                yield Rejected(str(file), f"{summary.name} does not list it: whether it holds a seizure is unknown")
                continue
            count = len(known.get(file.name.lower(), []))
            if self.only_seizures and not count:
                yield Rejected(str(file), "without seizure, left out by only_seizures")
                continue
            yield SignalItem(
                (file, summary),
                Ids(patient=ONE_PATIENT.get(case, case), session=case, recording=file.stem),
                labels={"seizures": count},
                channels=self.channels,
            )

    def read(self, item: Item) -> Read:
        """The recording with its seizures."""
        read = read_item(self.kind, item)
        assert isinstance(item.path, tuple)
        seizures = _seizures(item.path[1])
        spans = [] if isinstance(seizures, str) else seizures.get(item.path[0].name.lower(), [])
        return Read([self._with_events(r, spans) for r in read.recordings], read.rejected)

    def _with_events(self, recording: Recording, spans: list[tuple[float, float]]) -> Recording:
        events = [Event(start, stop - start, "seizure", "seizure") for start, stop in spans]
        length = recording.data.shape[1] / (recording.rate_hz or 1.0)
        return recording.with_(events=(*events, *(_states(spans, length, self.window_s) if self.window_s else ())))


def _states(spans: list[tuple[float, float]], length_s: float, window_s: float) -> Iterator[Event]:
    for place in range(int(length_s // window_s)):
        start, stop = place * window_s, (place + 1) * window_s
        if any(a <= start and stop <= b for a, b in spans):
            yield Event(start, window_s, "state", "seizure")
        elif all(stop <= a or b <= start for a, b in spans):
            yield Event(start, window_s, "state", "background")


def _seizures(summary: Path) -> Seizures | str:
    """File → onset and end of its seizures, in seconds; or what is wrong with the summary."""
    found: dict[str, list[tuple[float, float]]] = {}
    announced: dict[str, int] = {}
    name, start = "", 0.0
    for line in summary.read_text(encoding="latin-1").splitlines():
        if match := FILE.search(line):
            name = match[1].lower()
            found.setdefault(name, [])
        elif match := COUNT.search(line):
            announced[name] = int(match[1])
        elif match := EDGE.search(line):
            if match[1].lower() == "start":
                start = float(match[2])
            else:
                found.setdefault(name, []).append((start, float(match[2])))
    wrong = [n for n, count in announced.items() if len(found.get(n, [])) != count]
    wrong += [n for n, spans in found.items() if any(b <= a for a, b in spans)]
    return f"{summary.name} does not give the seizures that it counts in {wrong[0]}" if wrong else found
