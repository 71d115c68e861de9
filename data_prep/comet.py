"""The three data sets of COMET as its authors arrange them: AD (EEG), TDBrain (EEG), PTB (ECG), cut into trials.

Get the data: AD: https://osf.io/jbysn/ (Escudero's recordings); TDBrain: https://brainclinics.com/resources/ (on
request); PTB: https://physionet.org/content/ptbdb/1.0.0/ (or recipe ``ptb``); brought into this layout by
https://github.com/DL4mHealth/COMET. Licence: of each data set; TDBrain research only. Cite: Wang Y. et al., Contrast
everything: a hierarchical contrastive framework for medical time-series, NeurIPS 2023; Escudero J. et al., Physiol Meas
27(11):1091-1106, 2006; van Dijk H. et al., Scientific Data 9:333, 2022.

Layout: ``Feature/feature_ID.npy`` (trials, steps, channels), a file a patient, and ``Label/label.npy`` (patients, 2):
label and patient id, from 1. A trial is a recording with a trial id. Label ``class``: AD or control, Parkinson or
healthy, infarct or healthy. Rates: AD 256 Hz, 16 channels; TDBrain 256 Hz, 33; PTB 250 Hz, 15. The files name no
channels and no units.

Splits: ``split`` is COMET's, by patient: AD val 17, 18, test 19, 20; TDBrain val 18-21, 46-49, test 22-25, 50-53; PTB
of the patients in order the last 7 healthy and 21 with infarct for testing, as many before them for validation.
``medssl cohort split COHORT --name comet --test-where split=test``. With two test patients (AD) a result is an
anecdote: ``--test 0 --folds 5 --stratify class`` is the honest one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Read, Recording, Rejected, sha256_of
from medssl.cohort.finding import files_below, last_held_out, numbers, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Comet"]


class _Set(NamedTuple):
    modality: str
    rate_hz: float
    channels: int
    classes: tuple[str, str]
    val: frozenset[int] = frozenset()
    test: frozenset[int] = frozenset()


SETS = {
    "ad": _Set("eeg", 256.0, 16, ("control", "AD"), numbers("17 18"), numbers("19 20")),
    "tdbrain": _Set("eeg", 256.0, 33, ("healthy", "Parkinson"), numbers("18-21 46-49"), numbers("22-25 50-53")),
    "ptb": _Set("ecg", 250.0, 15, ("healthy", "infarct")),
}
PTB_HELD_OUT = {"healthy": 7, "infarct": 21}
NAME = re.compile(r"feature_0*(\d+)\.npy", re.IGNORECASE)


class Comet(Recipe):
    """Trials with the labels class and split.

    Args:
        dataset: ``ad``, ``tdbrain`` or ``ptb``: rates, names of classes and splits follow from it.
        rate_hz: of the stored signals; None keeps the data set's.
        band_hz: pass band; None stores it unfiltered, as the paper does.
    """

    kind = "signal"

    def __init__(
        self,
        *,
        dataset: str = "ad",
        rate_hz: float | None = None,
        band_hz: tuple[float | None, float | None] | None = None,
    ) -> None:
        if dataset not in SETS:
            raise RecipeError(f"dataset '{dataset}' is unknown; use one of {', '.join(SETS)}")
        self.dataset = dataset
        self.modality = SETS[dataset].modality
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """All channels, as they stand."""
        return SignalPreparation(rate_hz=self.rate_hz, band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every patient's file, with label and split."""
        arrays = files_below(require_folder(source, "comet"), (".npy",))
        files = {int(match[1]): file for file in arrays if (match := NAME.fullmatch(file.name))}
        if not files:
            raise RecipeError(f"no Feature/feature_ID.npy below '{source}'; recipe 'comet' wants COMET's own layout")
        classes = self._classes(next(iter(files.values())).parent.parent / "Label" / "label.npy")
        split = last_held_out(classes, PTB_HELD_OUT) if self.dataset == "ptb" else self._split(classes)
        for patient in sorted(files):
            if patient not in classes:
                yield Rejected(str(files[patient]), f"label.npy has no patient {patient}")
                continue
            name = f"{self.dataset}-{patient:03d}"
            labels = {"class": classes[patient], "split": split[patient]}
            yield Item(files[patient], Ids(patient=name, recording=name), labels=labels)

    def read(self, item: Item) -> Read:
        """The trials of a patient."""
        assert isinstance(item.path, Path)
        trials = _load(item.path)
        known = SETS[self.dataset]
        if trials.ndim != 3 or trials.shape[2] != known.channels or trials.dtype.kind not in "iuf":
            raise UnreadableRecording(
                f"{trials.dtype} {trials.shape} are not numbers of (trials, steps, {known.channels} channels)",
                item.path,
            )
        digest = sha256_of(item.path)
        recordings = [
            Recording(
                data=np.ascontiguousarray(trial.T, dtype=np.float32),
                axes="ct",
                rate_hz=known.rate_hz,
                channels=tuple(f"channel_{c + 1}" for c in range(known.channels)),
                units=("",) * known.channels,
                ids=Ids(item.ids.patient, "", f"{item.ids.recording}-{number:03d}", f"{number:03d}"),
                labels=dict(item.labels),
                source=item.source,
                source_sha256=digest,
            )
            for number, trial in enumerate(trials, start=1)
        ]
        return Read(recordings, [])

    def _classes(self, file: Path) -> dict[int, str]:
        try:
            table = _load(file)
        except UnreadableRecording as error:
            raise RecipeError(f"'{file}' cannot be read: {error.reason}") from error
        if table.ndim != 2 or table.shape[1] < 2 or not set(np.unique(table[:, 0])) <= {0, 1}:
            raise RecipeError(f"'{file}' is not a table of label (0 or 1) and patient id, but {table.shape}")
        names = SETS[self.dataset].classes
        return {int(patient): names[int(label)] for label, patient in table[:, :2].tolist()}

    def _split(self, classes: Mapping[int, str]) -> dict[int, str]:
        known = SETS[self.dataset]
        return {p: "test" if p in known.test else "val" if p in known.val else "train" for p in classes}


def _load(file: Path) -> NDArray[np.generic]:
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableRecording(f"not a readable array of numbers: {error}", file) from error
    if not isinstance(loaded, np.ndarray):
        raise UnreadableRecording("several arrays, not one", file)
    return loaded
