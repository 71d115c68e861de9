"""Recipe of synthetic two-channel signals with two kinds of beats, one ``PATIENT-NUMBER.txt`` each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation

RATE = 50.0


class ToySignals(Recipe):
    kind = "signal"
    modality = "ecg"

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.glob("*.txt")):
            number = int(file.stem.split("-")[1])
            labels = {"rhythm": "fast" if number % 2 else "slow", "findings": ["a", "b"][: 1 + number % 2]}
            yield Item(file, Ids(patient=file.stem.split("-")[0], recording=file.stem), labels=labels)

    def preparation(self) -> Preparation:
        return SignalPreparation(rate_hz=RATE)

    def read(self, item: Item) -> Read:
        number = int(item.source.rsplit("-", 1)[1].split(".")[0])
        rng = np.random.default_rng(number)
        t = np.arange(int(24 * RATE)) / RATE
        signal = 0.05 * rng.standard_normal((2, len(t)))
        events = []
        for beat, onset in enumerate(np.arange(1.0, 23.0, 0.6 if number % 2 else 1.0)):
            kind = "V" if beat % 4 == 3 else "N"
            width = 0.12 if kind == "V" else 0.03
            wave = np.exp(-(((t - onset) / width) ** 2))
            signal += np.array([[1.0], [-1.5 if kind == "V" else 0.5]]) * wave
            events.append(Event(float(onset), 0.0, "beat", kind))
        recording = Recording(
            data=signal.astype(np.float32), axes="ct", rate_hz=RATE, channels=("I", "II"), units=("mV", "mV"),
            ids=item.ids, labels=dict(item.labels), events=tuple(events), source=item.source,
            source_sha256=f"{number:064d}",
        )  # fmt: skip
        return Read([recording], [])
