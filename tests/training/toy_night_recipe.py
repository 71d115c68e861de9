"""Recipe of synthetic nights: staged 2-s epochs of one channel, one ``PATIENT-NUMBER.txt`` each.

Stages come as A A A B B C C C: B is fast, A and C look the same, so only what came before tells them apart. Epoch 12
was scored by nobody and epoch 20 as "?". Patients with an odd number are "ill": their B is faster.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation

RATE, EPOCH_S = 32.0, 2.0
CYCLE = "AAABBCCC"


class ToyNights(Recipe):
    kind = "signal"
    modality = "eeg"

    def __init__(self, *, short: str = "") -> None:
        self.short = short  # a recording of one epoch

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.glob("*.txt")):
            patient, number = file.stem.split("-")
            ill = int(patient[1:]) % 2
            labels = {
                "group": "ill" if ill else "healthy", "severity": 2.0 * ill + 0.5 * int(number),
                "findings": ["fast"] * ill + ["second"] * (int(number) % 2),
            }  # fmt: skip
            yield Item(file, Ids(patient=patient, recording=file.stem), labels=labels)

    def preparation(self) -> Preparation:
        return SignalPreparation(rate_hz=RATE)

    def read(self, item: Item) -> Read:
        name = Path(item.source).stem
        rng = np.random.default_rng([ord(c) for c in name])
        stages = CYCLE[:1] if name == self.short else 3 * CYCLE
        n = int(EPOCH_S * RATE)
        t = np.arange(n) / RATE
        fast = 10 if item.labels["group"] == "ill" else 6
        waves = [np.sin(2 * np.pi * (fast if s == "B" else 1) * t + rng.uniform(0, 6.3)) for s in stages]
        signal = np.concatenate(waves)[None] + 0.1 * rng.standard_normal((1, n * len(stages)))
        events = [Event(i * EPOCH_S, EPOCH_S, "stage", "?" if i == 20 else s) for i, s in enumerate(stages) if i != 12]
        recording = Recording(
            data=(10 * signal).astype(np.float32), axes="ct", rate_hz=RATE, channels=("C3",), units=("uV",),
            ids=item.ids, labels=dict(item.labels), events=tuple(events), source=item.source,
            source_sha256=name.encode().hex().zfill(64),
        )  # fmt: skip
        return Read([recording], [])
