"""DREAMS sleep spindles: half-hour excerpts of sleep EEG with stages every 5 s and spindles marked by two experts.

Get the data: https://zenodo.org/records/2650142 (``DatabaseSpindles.rar``). Licence: the one that came with the files
is CC BY-NC-ND (research only, unmodified); the deposit is listed as CC BY 4.0. Cite: Devuyst S et al., Automatic sleep
spindles detection, IEEE EMBC 2011 (doi 10.1109/IEMBS.2011.6090397); Devuyst S, The DREAMS databases, 2005, doi
10.5281/zenodo.2650142.

Layout: ``excerptK.txt`` (or ``.txt.gz``): ``[channel]``, then one sample in uV a line; ``Hypnogram_excerptK.txt``: a
stage every 5 s; ``Visual_scoring1_excerptK.txt``, ``Visual_scoring2_...``, ``Automatic_detection_...``: onset and
duration of spindles in seconds, each optional. An excerpt is a patient. The rate stands nowhere and differs: it is the
one of 50, 100 and 200 Hz that makes half an hour of the samples. The channel differs, too (C3-A1 or CZ-A1): it is
called ``central``, with a note. Events ``stage``: W, N1, N2, N3 (stages 3 and 4), REM; codes run downwards with depth,
and movement and unknown have none. Events ``spindle``: ``expert1``, ``expert2`` or ``automatic``. One excerpt alone
holds REM, and two only one expert.

Splits: none is published; papers leave one excerpt out at a time: ``medssl cohort split COHORT --test 0 --folds 8``
(as many as there are), which keeps patients apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import SignalItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.staging import joined_epochs, stage_events
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Dreams"]

NAME = re.compile(r"excerpt(\d+)\.txt(\.gz)?", re.IGNORECASE)
LENGTH_S, RATES_HZ, SCORED_S = 1800.0, (50.0, 100.0, 200.0), 5.0
STAGES = {"5": "W", "4": "REM", "3": "N1", "2": "N2", "1": "N3", "0": "N3"}
SPINDLES = {"Visual_scoring1": "expert1", "Visual_scoring2": "expert2", "Automatic_detection": "automatic"}


class Dreams(Recipe):
    """One channel of EEG with events ``stage`` and ``spindle``.

    Args:
        epoch_s: length of a stage's epoch, a multiple of 5 s; a longer one carries the stage of more than half of it.
        rate_hz: of the stored signals (recorded: 50, 100 or 200 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        epoch_s: float = 5.0,
        rate_hz: float = 100.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        joined_epochs([], SCORED_S, epoch_s)
        self.epoch_s = epoch_s
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The central channel in uV at one rate."""
        return SignalPreparation(rate_hz=self.rate_hz, units="uV", band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every excerpt."""
        files = [f for f in files_below(require_folder(source, "dreams"), (".txt", ".gz")) if NAME.fullmatch(f.name)]
        if not files:
            raise RecipeError(
                f"no excerptK.txt below '{source}'; recipe 'dreams' wants the folder of the spindle excerpts"
            )
        for file in files:
            match = NAME.fullmatch(file.name)
            assert match is not None
            name = f"excerpt{match[1]}"
            # the rate follows from the number of samples, which read() finds
            yield SignalItem(file, Ids(patient=name, recording=name), rate_hz=1.0, units="uV")

    def read(self, item: Item) -> Read:
        """The excerpt at its rate, with its stages and spindles."""
        read = read_item(self.kind, item)
        return Read([self._completed(r, item) for r in read.recordings], read.rejected)

    def _completed(self, recording: Recording, item: Item) -> Recording:
        rate = _rate(recording)
        channel = recording.channels[0].strip("[]")
        spare = recording.data.shape[1] / rate - LENGTH_S
        notes = [f"channel central is {channel}", f"{rate:g} Hz follow from the number of samples"]
        notes += [f"{spare:g} s longer than half an hour"] if spare else []
        assert isinstance(item.path, Path)
        events = [*self._stages(item), *_spindles(item)]
        return recording.with_(
            rate_hz=rate, channels=("central",), events=tuple(sorted(events, key=lambda e: e.onset_s))
        ).noted(*notes)

    def _stages(self, item: Item) -> tuple[Event, ...]:
        codes = _lines(item, "Hypnogram")
        unknown = [code for code in codes if code not in STAGES and not code.startswith("-")]
        if unknown:
            raise UnreadableRecording(f"its hypnogram holds '{unknown[0]}', which is no stage", item.source)
        return stage_events(joined_epochs([STAGES.get(c) for c in codes], SCORED_S, self.epoch_s), self.epoch_s)


def _rate(recording: Recording) -> float:
    count = recording.data.shape[1]
    rate = min(RATES_HZ, key=lambda r: abs(count / LENGTH_S - r))
    if abs(count / LENGTH_S - rate) > 0.01 * rate:
        raise UnreadableRecording(
            f"its {count} samples are no half hour at {', '.join(f'{r:g}' for r in RATES_HZ)} Hz", recording.source
        )
    return rate


def _lines(item: Item, what: str) -> list[str]:
    """The lines of a file beside the excerpt, after its heading; none where it is not there."""
    assert isinstance(item.path, Path)
    file = item.path.with_name(f"{what}_{item.ids.recording}.txt")
    lines = file.read_text(encoding="latin-1").split("\n") if file.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("[")]


def _spindles(item: Item) -> Iterator[Event]:
    for file, scorer in SPINDLES.items():
        for line in _lines(item, file):
            try:
                onset, duration = (float(cell) for cell in line.split()[:2])
            except ValueError as error:
                raise UnreadableRecording(f"'{line}' of {file} is no onset and duration", item.source) from error
            yield Event(onset, duration, "spindle", scorer)
