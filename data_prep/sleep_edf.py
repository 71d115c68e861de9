"""Sleep-EDF (expanded): polysomnograms of a day and a night with stages, of healthy people and of patients.

Get the data: https://physionet.org/content/sleep-edfx/1.0.0/. Licence: Open Data Commons Attribution (ODC-By 1.0).
Cite: Kemp B et al., Analysis of a sleep-dependent neuronal feedback loop, IEEE Trans Biomed Eng 47(9):1185-1194, 2000;
Goldberger AL et al., PhysioNet, Circulation 101(23):e215-e220, 2000.

Layout: ``SC4ssNE0-PSG.edf`` and ``SC4ssNxx-Hypnogram.edf`` (``sleep-cassette``: subject ss, night N), ``ST7ss...``
(``sleep-telemetry``). Both nights of a subject are of one patient. Label ``study``: cassette or telemetry. Events
``stage`` of 30 s: W, N1, N2, N3 (stages 3 and 4), REM; movement and ``?`` have none. Of the long wake before and
after the night, ``wake_min`` minutes are kept. **Channels other than EEG and EOG are slower** (1 Hz), and
read only where asked for.

Splits: none is published; papers leave subjects out (20 folds of Sleep-EDF-20, 10 of Sleep-EDF-78): ``medssl cohort
split COHORT --test 0 --folds 10``, which keeps both nights together. **Folds over files, as some code makes them, put
one night of a subject on either side.**
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import SignalItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.staging import AASM_OF, epochs_of, scored_night
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["SleepEDF"]

PSG = re.compile(r"((S[CT])[47]\d\d)(\d)\w\d-PSG\.edf", re.IGNORECASE)
STUDIES = {"SC": "cassette", "ST": "telemetry"}
EPOCH_S = 30.0
STAGE = re.compile(r"Sleep stage (\S+)", re.IGNORECASE)


class SleepEDF(Recipe):
    """Nights with events ``stage`` every 30 s.

    Args:
        channels: to store, by name.
        wake_min: minutes kept before the first and after the last epoch of sleep; None keeps the whole recording.
        rate_hz: of the stored signals (recorded: 100 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        channels: tuple[str, ...] = ("Fpz-Cz",),
        wake_min: float | None = 30.0,
        rate_hz: float = 100.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        self.channels = tuple(channels)
        self.wake_min = wake_min
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The channels wanted, in their own units; EEG is in uV."""
        return SignalPreparation(rate_hz=self.rate_hz, channels=self.channels, band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every polysomnogram with the hypnogram beside it."""
        files = files_below(require_folder(source, "sleep_edf"), (".edf",))
        nights = [(f, m) for f in files if (m := PSG.fullmatch(f.name))]
        if not nights:
            raise RecipeError(f"no SC4001E0-PSG.edf below '{source}'; recipe 'sleep_edf' wants the folder of Sleep-EDF")
        for file, match in nights:
            subject, night = match[1].upper(), match[3]
            begins = f"{subject}{night}".lower()
            scored = [f for f in file.parent.glob("*-Hypnogram.edf") if f.name.lower().startswith(begins)]
            if len(scored) != 1:
                yield Rejected(
                    str(file), f"{len(scored)} hypnograms {subject}{night}*-Hypnogram.edf beside it, not one"
                )
                continue
            yield SignalItem(
                (file, scored[0]),
                Ids(patient=subject, session=night, recording=f"{subject}{night}"),
                labels={"study": STUDIES[match[2].upper()]},
                channels=self.channels,
            )

    def read(self, item: Item) -> Read:
        """The night with its stages, without most of the wake around it."""
        read = read_item(self.kind, item)
        assert isinstance(item.path, tuple)
        recordings = [self._scored(r, item.path[1]) for r in read.recordings]
        return Read(recordings, read.rejected)

    def _scored(self, recording: Recording, hypnogram: Path) -> Recording:
        stages = epochs_of(_intervals(hypnogram), EPOCH_S)
        return scored_night(recording, stages, EPOCH_S, wake_min=self.wake_min)


def _intervals(hypnogram: Path) -> Iterator[tuple[float, float, str | None]]:
    """Onset, duration and stage of every annotation of a hypnogram."""
    import mne

    try:
        annotations = mne.read_annotations(hypnogram)
    except Exception as error:  # a foreign parser on a foreign file: anything can come
        raise UnreadableRecording(f"its hypnogram {hypnogram.name} cannot be read: {error}", hypnogram) from error
    for onset, duration, text in zip(annotations.onset, annotations.duration, annotations.description, strict=True):
        match = STAGE.fullmatch(str(text))
        yield float(onset), float(duration), AASM_OF.get(match[1].upper()) if match else None
