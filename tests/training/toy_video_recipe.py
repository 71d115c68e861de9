"""Recipe of synthetic clips: a ring that beats in a sector, one ``PATIENT-NUMBER.txt`` each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import VideoPreparation


class ToyClips(Recipe):
    kind = "video"
    modality = "us"

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.glob("*.txt")):
            number = int(file.stem.split("-")[1])
            yield Item(file, Ids(patient=file.stem.split("-")[0], recording=file.stem), labels={"rate": float(number)})

    def preparation(self) -> Preparation:
        return VideoPreparation(size=20, sector="keep", crop=False, text="keep")

    def read(self, item: Item) -> Read:
        number = int(item.source.rsplit("-", 1)[1].split(".")[0])
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:20, :20]
        radius = 4 + np.cos(2 * np.pi * (1 + 0.3 * number) * np.arange(24) / 25)
        ring = np.exp(-(((np.hypot(y - 11, x - 10) - radius[:, None, None]) / 2) ** 2))
        frames = ((60 + 150 * ring) * rng.rayleigh(0.5, ring.shape)).clip(0, 255).astype(np.uint8)
        recording = Recording(
            data=frames, axes="tyx", rate_hz=50.0, ids=item.ids, labels=dict(item.labels), source=item.source,
            source_sha256=f"{number:064d}",
        )  # fmt: skip
        return Read([recording], [])
