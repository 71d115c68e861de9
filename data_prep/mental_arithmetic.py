"""EEG at rest and during mental arithmetic: 36 students, 500 Hz, two recordings each.

Get the data: https://physionet.org/content/eegmat/1.0.0/. Licence: Open Data Commons Attribution (ODC-By 1.0). Cite:
Zyma I et al., Electroencephalograms during mental arithmetic task performance, Data 4(1):14, 2019 (doi
10.13026/C2JQ1P); Goldberger AL et al., PhysioNet, Circulation 101(23):e215-e220, 2000.

Layout: ``SubjectNN_1.edf`` (rest, 3 min) and ``SubjectNN_2.edf`` (serial subtraction, 1 min); ``subject-info.csv`` (or
``subject_info.csv``) with age, gender, subtractions and count quality. Labels: ``condition`` (rest, task; of the
recording), ``counter`` (good, bad; of the person), ``subtractions`` in four minutes, age and sex. **The sex in the
files' headers is the opposite of the table's**: the table counts, with a note. Rest lasts longer than the task, which
would tell them apart: all are cut to the same length. The ECG is left out; it is in mV, and tells the task by itself.

Splits: none is published; both conditions of a person must stay together, as ``medssl cohort split COHORT`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.adapters.signal_common import demographics
from medssl.adapters.signal_edf import read_edf_header
from medssl.cohort.finding import cell, files_below, require_folder, rows_by
from medssl.cohort.reading import SignalItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["MentalArithmetic"]

NAME = re.compile(r"(Subject\d+)_([12])\.edf", re.IGNORECASE)
CONDITIONS = {"1": "rest", "2": "task"}
COUNTERS = {"1": "good", "0": "bad"}
TABLES = ("subject-info.csv", "subject_info.csv")


class MentalArithmetic(Recipe):
    """EEG with the labels condition, counter, subtractions, age and sex.

    Args:
        channels: to store, by name; None takes every electrode that the file has.
        length_s: what is kept of longer recordings, from their beginning.
        rate_hz: of the stored signals (recorded: 500 Hz).
        band_hz: pass band; None stores it as published (0.5 to 45 Hz).
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        channels: tuple[str, ...] | None = None,
        length_s: float | None = 60.0,
        rate_hz: float = 250.0,
        band_hz: tuple[float | None, float | None] | None = None,
    ) -> None:
        self.channels = tuple(channels) if channels else None
        self.length_s = length_s
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """EEG in uV."""
        return SignalPreparation(
            rate_hz=self.rate_hz,
            channels=self.channels,
            units="uV",
            band_hz=self.band_hz,
            max_s=self.length_s,
            long="cut",
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Both recordings of every person, with the row of the table."""
        files = [
            f for f in files_below(require_folder(source, "mental_arithmetic"), (".edf",)) if NAME.fullmatch(f.name)
        ]
        if not files:
            raise RecipeError(f"no SubjectNN_1.edf below '{source}'; recipe 'mental_arithmetic' wants eegmat's folder")
        rows: dict[str, dict[str, str | None]] = {}
        for table in TABLES:
            rows |= rows_by(files[0].with_name(table), "Subject")
        for file in files:
            match = NAME.fullmatch(file.name)
            assert match is not None
            try:
                electrodes = tuple(name for name in read_edf_header(file).labels if _is_electrode(name))
            except UnreadableRecording as error:
                yield Rejected(str(file), error.reason)
                continue
            yield SignalItem(
                file,
                Ids(patient=match[1], recording=file.stem),
                labels={"condition": CONDITIONS[match[2]], **_about(rows.get(match[1], {}))},
                channels=self.channels or electrodes or None,
            )

    def read(self, item: Item) -> Read:
        """The recording; where its header contradicts the table, a note says so."""
        read = read_item(self.kind, item)
        assert isinstance(item.path, Path)
        stated = read_edf_header(item.path).meta.get("sex") if read.recordings else None
        return Read([_judged(r, stated) for r in read.recordings], read.rejected)


def _is_electrode(label: str) -> bool:
    """``EEG Fp1``, but not the ear against the other."""
    return label.startswith("EEG ") and "-" not in label


def _about(row: Mapping[str, str | None]) -> dict[str, object]:
    return {
        "counter": COUNTERS.get(row.get("Count quality") or ""),
        "subtractions": cell(row.get("Number of subtractions")),
        "age": None,
        "sex": None,
        **demographics(row.get("Age"), row.get("Gender")),
    }


def _judged(recording: Recording, stated: object) -> Recording:
    sex = recording.labels.get("sex")
    if sex is None or stated is None or sex == stated:
        return recording
    return recording.noted(f"the header says sex {stated}, the table {sex}; the table counts")
