"""A recipe over folders of .npy files, for tests: ``PATIENT_RECORDING.npy``; 4-D are volumes, 2-D are signals.

Get the data: made by the tests. Licence: that of medssl. Cite: nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected, sha256_of
from medssl.cohort.preparation import Preparation, Prepared
from medssl.cohort.recipe import Item, Recipe
from medssl.errors import UnreadableRecording


class ToyPreparation(Preparation):
    """Rounds to int16; a mask where the first channel is above ``threshold``."""

    def __init__(self, *, gain: float = 1.0, threshold: float = 500.0, spacing_mm: tuple[float, ...] = (2.0, 1.0, 1.0)):
        self.gain, self.threshold, self.spacing_mm = gain, threshold, spacing_mm

    def __call__(self, recording: Recording) -> Prepared:
        if not np.isfinite(recording.data).all():
            raise UnreadableRecording("it has values that are not finite", recording.source)
        image = np.round(recording.data * self.gain).astype(np.int16)
        n = len(image)
        common = {
            "image": image,
            "scale": np.full(n, 1 / self.gain),
            "offset": np.zeros(n),
            "input_scale": np.full(n, 0.001),
            "input_offset": np.linspace(0.0, 1.0, n),
            "input_range": (-3.0, 3.0),
            "fill": -1000 if image.ndim == 4 else 0,
            "channels": tuple(f"c{i}" for i in range(n)),
            "events": recording.events,
            "notes": recording.notes,
            "quality": {"mean": float(image.sum() / max(image.size, 1))},
        }
        if image.ndim == 2:
            return Prepared(**common, rate_hz=recording.rate_hz, units=("mV",) * n)
        mask = (image[0] > self.threshold).astype(np.uint8)
        return Prepared(
            **common,
            masks={"bright": mask},
            spacing_mm=self.spacing_mm,
            affine=np.diag([*self.spacing_mm, 1.0]),
            foreground=np.argwhere(image[0] > 0)[::7].astype(np.int16),
            mask_foreground={"bright": {1: np.argwhere(mask)[:50].astype(np.int16)}},
        )


class Toy(Recipe):
    """Every .npy file below the source.

    Args:
        stored: what the files are.
        slow_s: seconds that reading takes.
    """

    kind: Literal["volume", "signal"] = "volume"  # type: ignore[misc]
    modality = "toy"

    def __init__(self, *, stored: Literal["volume", "signal"] = "volume", slow_s: float = 0.0) -> None:
        self.kind, self.slow_s = stored, slow_s  # type: ignore[misc]

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.rglob("*")):
            if file.suffix == ".npy":
                patient, _, recording = file.stem.partition("_")
                labels = {"age": float(len(patient)), "sex": "f" if "a" in patient else "m", "tags": [recording]}
                ids = Ids(patient=patient, session="first", recording=f"{patient}-{recording}")
                yield Item(file, ids, labels=labels, site="here")
            elif file.is_file():
                yield Rejected(str(file), "not a .npy file")

    def preparation(self) -> Preparation:
        return ToyPreparation()

    def read(self, item: Item) -> Read:
        assert isinstance(item.path, Path)
        time.sleep(self.slow_s)
        if "killer" in item.path.name:
            os.kill(os.getpid(), signal.SIGKILL)
        data = np.load(item.path, allow_pickle=False)
        if data.ndim == 5:  # several recordings in one file
            return Read([self._recording(part, item) for part in data], [])
        return Read([self._recording(data, item)], [])

    def _recording(self, data: np.ndarray, item: Item) -> Recording:
        is_signal = data.ndim == 2
        beats = tuple(Event(0.5 * i, 0.0, "beat", "NV"[i % 2]) for i in range(4)) if is_signal else ()
        return Recording(
            data,
            "ct" if is_signal else "czyx",
            spacing_mm=None if is_signal else (2.0, 1.0, 1.0),
            rate_hz=100.0 if is_signal else None,
            events=beats,
            source=str(item.path),
            source_sha256=sha256_of(item.path),
            notes=(f"read from {item.path}",),
        )
