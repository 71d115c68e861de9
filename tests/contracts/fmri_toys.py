"""Runs of functional MRI in memory: regions of a few brain states, each a partition of the regions into communities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from toys import Case, ToyReader


def brain_states(
    subject: int, *, regions: int = 40, volumes: int = 600, lasting: tuple[int, int] = (60, 120), noise: float = 0.9
) -> NDArray[np.float32]:
    """Series of regions (N, T), standardised: ``latent[community] + noise``, in states that last some volumes each.

    The three states (random partitions into four communities) are the same for all subjects.
    """
    partitions = np.random.default_rng(0).integers(4, size=(3, regions))
    rng = np.random.default_rng([1, subject])
    latent = rng.normal(size=(4, volumes))
    x = noise * rng.normal(size=(regions, volumes))
    start = 0
    while start < volumes:
        end = start + int(rng.integers(lasting[0], lasting[1] + 1))
        x[:, start:end] += latent[partitions[rng.integers(3)], start:end]
        start = end
    return ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)).astype(np.float32)


def run(row: int, *, regions: int = 12, volumes: int = 120) -> ToyReader:
    """One run as a reader, two seconds a volume, of short states."""
    x = brain_states(row, regions=regions, volumes=volumes, lasting=(20, 40), noise=0.5)
    data = (1000 * x).round().astype(np.int16)
    return ToyReader(data, row=row, kind="signal", patient=f"P{row}", rate_hz=0.5, input_range=(-20.0, 20.0))


@dataclass(frozen=True)
class RunsCase(Case):
    """A case that reads runs of functional MRI."""

    def readers(self, count: int) -> list[ToyReader]:
        return [run(row, regions=self.channels) for row in range(count)]
