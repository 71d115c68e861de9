"""A recipe over ``PATIENT_RECORDING.npy`` files with facts and labels in ``facts.json``, for tests of the audit.

Get the data: made by the tests. Licence: that of medssl. Cite: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected, sha256_of
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.volumes import VolumePreparation


class Audited(Recipe):
    """Every .npy file below the source.

    Args:
        stored: what the files are.
    """

    kind: Literal["volume", "signal"] = "volume"  # type: ignore[misc]
    modality = "toy"

    def __init__(self, *, stored: Literal["volume", "signal"] = "volume") -> None:
        self.kind = stored  # type: ignore[misc]

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        facts = json.loads((source / "facts.json").read_text())
        for file in sorted(source.glob("*.npy")):
            patient, _, recording = file.stem.partition("_")
            own = facts.get(file.stem, {})
            ids = Ids(patient=patient, session=own.get("session", ""), recording=f"{patient}-{recording}")
            yield Item(file, ids, labels=own.get("labels", {}), site=own.get("site", ""))

    def preparation(self) -> Preparation:
        return VolumePreparation(intensity="mr") if self.kind == "volume" else SignalPreparation()

    def read(self, item: Item) -> Read:
        assert isinstance(item.path, Path)
        data = np.load(item.path, allow_pickle=False).astype(np.float32)
        beats = tuple(Event(0.5 + i, 0.0, "beat", "NV"[i % 2]) for i in range(6)) if self.kind == "signal" else ()
        return Read([Recording(
            data, "ct" if self.kind == "signal" else "zyx", source=str(item.path), source_sha256=sha256_of(item.path),
            spacing_mm=None if self.kind == "signal" else (1.0, 1.0, 1.0),
            rate_hz=100.0 if self.kind == "signal" else None, events=beats,
            units=("mV",) * len(data) if self.kind == "signal" else (),
        )], [])  # fmt: skip
