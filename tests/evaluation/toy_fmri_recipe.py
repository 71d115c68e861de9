"""Recipe of synthetic runs of 8 regions, one ``PATIENT-NUMBER.txt`` each; which of them are connected is the group."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation

RATE, REGIONS, VOLUMES = 0.5, 8, 120


class ToyRuns(Recipe):
    kind = "signal"
    modality = "fmri"

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.glob("*.txt")):
            number = int(file.stem.split("-")[1])
            labels = {"group": "AB"[number % 2], "age": 20.0 + 30 * strength(number)}
            yield Item(file, Ids(patient=file.stem.split("-")[0], recording=file.stem), labels=labels)

    def preparation(self) -> Preparation:
        return SignalPreparation(rate_hz=RATE)

    def read(self, item: Item) -> Read:
        number = int(item.source.rsplit("-", 1)[1].split(".")[0])
        rng = np.random.default_rng(number)
        x = rng.standard_normal((REGIONS, VOLUMES))
        shared = rng.standard_normal((2, VOLUMES))
        x[:3] += strength(number) * shared[0]
        first = 3 if number % 2 else 5
        x[first : first + 3] += 1.5 * shared[1]
        recording = Recording(
            data=x.astype(np.float32), axes="ct", rate_hz=RATE, channels=tuple(f"#{i + 1}" for i in range(REGIONS)),
            units=("uV",) * REGIONS, ids=item.ids, labels=dict(item.labels), source=item.source,
            source_sha256=f"{number:064d}",
        )  # fmt: skip
        return Read([recording], [])


def strength(number: int) -> float:
    return 0.2 + 2 * (number * 0.618 % 1)
