"""UCI human activity recognition: phone at the waist, six activities, 30 people, windows of 2.56 s at 50 Hz.

Get the data: https://archive.ics.uci.edu/dataset/240/human+activity+recognition+using+smartphones. Licence: CC BY 4.0.
Cite: Anguita D, Ghio A, Oneto L, Parra X, Reyes-Ortiz JL, A public domain dataset for human activity recognition using
smartphones, ESANN 2013, doi 10.24432/C54S4K.

Layout: ``UCI HAR Dataset``, with ``train`` and ``test``, each with ``subject_train.txt``, ``y_train.txt`` and
``Inertial Signals/``: nine files of 128 samples a row (body and total acceleration in g, angular velocity in rad/s). A
row is a recording; rows of a person follow each other and overlap by half. Label ``activity`` by name; the person is
the patient.

Splits: ``split`` is the published one, 21 people for training and 9 for testing: ``medssl cohort split COHORT --name
official --test-where split=test``. It keeps people apart.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Read, Recording, Rejected, sha256_of
from medssl.cohort.finding import require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["UCIHAR"]

ACTIVITIES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")
QUANTITIES = {"body_acc": "g", "body_gyro": "rad/s", "total_acc": "g"}
CHANNELS = tuple(f"{quantity}_{axis}" for quantity in QUANTITIES for axis in "xyz")
UNITS = tuple(unit for unit in QUANTITIES.values() for _ in "xyz")
RATE_HZ, SAMPLES = 50.0, 128


class UCIHAR(Recipe):
    """Windows of nine channels with the labels activity and split.

    Args:
        channels: to store, by name.
        standardise: ``none`` keeps the scale of g and rad/s, which tells activities; ``recording`` scales each window.
    """

    kind = "signal"
    modality = "imu"

    def __init__(self, *, channels: tuple[str, ...] = CHANNELS, standardise: str = "none") -> None:
        self.channels = tuple(channels)
        self.standardise = standardise

    def preparation(self) -> SignalPreparation:
        """The channels in their own units."""
        return SignalPreparation(channels=self.channels, standardise=self.standardise)  # type: ignore[arg-type]

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every person of both parts."""
        require_folder(source, "uci_har")
        folder = next((f for f in (source, *sorted(source.glob("*"))) if (f / "train" / "y_train.txt").is_file()), None)
        if folder is None:
            raise RecipeError(
                f"no train/y_train.txt below '{source}'; recipe 'uci_har' wants the folder UCI HAR Dataset"
            )
        for split in ("train", "test"):
            people = folder / split / f"subject_{split}.txt"
            if not people.is_file():
                yield Rejected(str(people), "not there")
                continue
            for person in sorted({int(p) for p in people.read_text(encoding="ascii").split()}):
                name = f"{person:02d}"
                yield Item(_files(folder, split), Ids(name, "", f"{split}-{name}"), labels={"split": split})

    def read(self, item: Item) -> Read:
        """The windows of a person."""
        assert isinstance(item.path, tuple)
        split = str(item.labels["split"])
        changed = max(f.stat().st_mtime_ns for f in item.path if f.is_file())
        data, people, activity, digest = _part(item.path, split, changed)
        rows = np.flatnonzero(people == int(item.ids.patient))
        recordings = [
            Recording(
                data=data[row],
                axes="ct",
                rate_hz=RATE_HZ,
                channels=CHANNELS,
                units=UNITS,
                ids=Ids(item.ids.patient, "", f"{split}-{row:05d}"),
                labels={**item.labels, "activity": ACTIVITIES[activity[row] - 1]},
                source=item.source,
                source_sha256=digest,
            )
            for row in rows.tolist()
        ]
        return Read(recordings, [])


def _files(folder: Path, split: str) -> tuple[Path, ...]:
    signals = folder / split / "Inertial Signals"
    tables = (folder / split / f"{name}_{split}.txt" for name in ("subject", "y"))
    return (*tables, *(signals / f"{channel}_{split}.txt" for channel in CHANNELS))


@functools.lru_cache(maxsize=1)
def _part(
    files: tuple[Path, ...], split: str, changed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], str]:
    """(rows, channels, samples), persons, activities and digest of a part; ``changed`` tells other files of a name."""
    try:
        people, activity = (np.loadtxt(f, dtype=np.int64, ndmin=1) for f in files[:2])
        data = np.stack([np.loadtxt(f, dtype=np.float32, ndmin=2) for f in files[2:]], axis=1)
    except (OSError, ValueError) as error:
        raise UnreadableRecording(f"part {split} cannot be read: {error}", files[0].parent) from error
    if data.shape[2] != SAMPLES or not len(data) == len(people) == len(activity):
        raise UnreadableRecording(
            f"part {split} has {data.shape} samples, {len(people)} persons and {len(activity)} activities",
            files[0].parent,
        )
    if activity.min() < 1 or activity.max() > len(ACTIVITIES):
        raise UnreadableRecording(f"part {split} has activities beyond 1 to {len(ACTIVITIES)}", files[1])
    return data, people, activity, sha256_of(*files)
