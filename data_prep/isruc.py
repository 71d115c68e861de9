"""ISRUC-Sleep: whole nights of 118 people at a hospital in Coimbra, each scored by two experts.

Get the data: https://sleeptight.isr.uc.pt/. Licence: none is stated; published for research, to be cited. Cite:
Khalighi S, Sousa T, Santos JM, Nunes U, ISRUC-Sleep: a comprehensive public dataset for sleep researchers, Comput
Methods Programs Biomed 124:180-192, 2016.

Layout: ``GROUP/PATIENT/NAME.rec`` (EDF) with ``NAME_1.txt`` and ``NAME_2.txt``, a stage every 30 s by either expert;
in subgroup II ``GROUP/PATIENT/SESSION/NAME.rec``, two nights of one patient. Folders of digits are the patient and the
session; the names of the folders above them tell subgroups apart. Codes: 0 W, 1 N1, 2 N2, 3 N3, 5 REM. EEG channels
are called after A or after M in different files (``C4-A1``, ``C4-M1``): they are stored after A, with a note. 200 Hz.

Splits: none is published; nights of a patient must stay together, as ``medssl cohort split COHORT`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.channels import channel_name
from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.adapters.signal_edf import read_edf_header
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import SignalItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.staging import named, scored_night
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["ISRUC"]

EPOCH_S = 30.0
STAGES = {"0": "W", "1": "N1", "2": "N2", "3": "N3", "4": "N3", "5": "REM"}
MASTOID = re.compile(r"-M(?=[12]$)", re.IGNORECASE)


class ISRUC(Recipe):
    """Nights with events ``stage`` every 30 s.

    Args:
        channels: to store, named after A1 and A2.
        expert: whose stages: 1 or 2.
        wake_min: minutes kept before the first and after the last epoch of sleep; None keeps the whole recording.
        rate_hz: of the stored signals (recorded: 200 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        channels: tuple[str, ...] = ("C4-A1",),
        expert: int = 1,
        wake_min: float | None = None,
        rate_hz: float = 100.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        if expert not in (1, 2):
            raise RecipeError(f"ISRUC was scored by expert 1 and 2, not by {expert}")
        self.channels = tuple(channels)
        self.expert = expert
        self.wake_min = wake_min
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The channels wanted, in their own units; EEG is in uV."""
        return SignalPreparation(rate_hz=self.rate_hz, channels=self.channels, band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every night with the stages of the expert."""
        files = files_below(require_folder(source, "isruc"), (".rec",))
        if not files:
            raise RecipeError(f"no .rec below '{source}'; recipe 'isruc' wants the unpacked folders of ISRUC-Sleep")
        for file in files:
            stages = file.with_name(f"{file.stem}_{self.expert}.txt")
            folders = file.relative_to(source).parts[:-1]
            numbers = [name for name in folders if name.isdigit()] or [file.stem]
            if not stages.is_file():
                yield Rejected(str(file), f"no {stages.name} beside it")
                continue
            try:
                there = _stored_names(self.channels, read_edf_header(file).labels, file)
            except UnreadableRecording as error:
                yield Rejected(str(file), error.reason)
                continue
            groups = [name for name in folders if not name.isdigit()]
            patient = "-".join([*groups, numbers[0]])
            session = numbers[1] if len(numbers) > 1 else ""
            recording = "-".join(filter(None, (patient, session, file.stem)))
            yield SignalItem((file, stages), Ids(patient, session, recording), channels=there)

    def read(self, item: Item) -> Read:
        """The night with its stages."""
        read = read_item(self.kind, item)
        assert isinstance(item.path, tuple)
        return Read([self._scored(r, item.path[1]) for r in read.recordings], read.rejected)

    def _scored(self, recording: Recording, stages: Path) -> Recording:
        codes = stages.read_text(encoding="latin-1").split()
        unknown = next((c for c in codes if not c.lstrip("-").isdigit()), None)
        if unknown:
            raise UnreadableRecording(f"{stages.name} holds '{unknown}', which is no stage", stages)
        scored = [STAGES.get(c) for c in codes]
        return scored_night(named(recording, self.channels), scored, EPOCH_S, wake_min=self.wake_min)


def _stored_names(wanted: tuple[str, ...], labels: tuple[str, ...], file: Path) -> tuple[str, ...]:
    by_name = {MASTOID.sub("-A", channel_name(label)).upper(): label for label in reversed(labels)}
    missing = next((name for name in wanted if name.upper() not in by_name), None)
    if missing is not None:
        raise UnreadableRecording(f"channel {missing} is not among its channels: {', '.join(labels)}", file)
    return tuple(by_name[name.upper()] for name in wanted)
