"""Nothing grows: thousands of steps and reads leave the process as large as it was after the first hundreds."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from toy_cohorts import make_cohort, toy_method

from medssl.cohort import Cohort
from medssl.training import pretrain as module
from medssl.training.pretrain import pretrain
from medssl.training.settings import TrainSettings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"),
]

STEPS, READS = 2000, 2000
ALLOWED_MB = 8.0
"""Noise of the allocator; one leaked crop or graph a step would be tens to hundreds of megabytes."""


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


class Watch(Callback):
    """Resident memory every hundred steps."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: object, pl_module: object, outputs: object, batch: object, i: int) -> None:
        if trainer.global_step % 100 == 0:  # type: ignore[attr-defined]
            self.seen.append(resident_mb())


def growth(seen: list[float]) -> float:
    """Megabytes from the first quarter, when caches are full, to the last."""
    quarter = max(1, len(seen) // 4)
    return float(np.median(seen[-quarter:]) - np.median(seen[quarter : 2 * quarter]))


@pytest.mark.filterwarnings("ignore::medssl.training.monitor.CollapseWarning")  # the toy learns nothing; no matter here
@pytest.mark.parametrize("kind", ["volume", "signal"])
def test_training_does_not_grow(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, watch = make_cohort(tmp_path, kind, patients=6), Watch()
    real = module.make_trainer
    monkeypatch.setattr(module, "make_trainer", lambda run, calls, **o: real(run, [watch, *calls], **o))
    settings = TrainSettings(
        max_steps=STEPS, batch_size=2, workers=0, log_every=1, checkpoint_every=500, monitor_every=50, progress=False,
        accelerator="cpu",
    )  # fmt: skip
    summary = pretrain(method=toy_method(kind), cohort=[cohort], out=tmp_path / "run", trainer=settings)
    assert summary["steps"] == STEPS
    assert len(watch.seen) == STEPS // 100
    assert growth(watch.seen) < ALLOWED_MB, [round(v, 1) for v in watch.seen]


@pytest.mark.parametrize("kind", ["volume", "signal"])
def test_reading_does_not_grow(kind: str, tmp_path: Path) -> None:
    cohort = Cohort(make_cohort(tmp_path, kind, patients=8))
    size = (8, 8, 8) if kind == "volume" else (200,)
    rng, seen = np.random.default_rng(0), []
    for number in range(READS):
        reader = cohort.reader(int(rng.integers(len(cohort))))
        start = [int(rng.integers(-2, n - s + 3)) for n, s in zip(reader.shape, size, strict=True)]
        crop = reader.read(start, size)
        assert crop.shape[1:] == size
        if kind == "volume":
            reader.read(start, size, key="mask:organs")
        reader.input_fields()
        if number % 100 == 99:
            seen.append(resident_mb())
    assert growth(seen) < ALLOWED_MB, [round(v, 1) for v in seen]
