"""Tiny cohorts, made by the real ``prepare``, and a method small enough to train in a second."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medssl.cohort.writer import prepare
from medssl.encoders.base import Encoder, Features, mean_pool
from medssl.methods.base import Losses, Method
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, to_input

HERE = Path(__file__).resolve().parent


def make_cohort(folder: Path, kind: str, *, patients: int = 8, per_patient: int = 1, **options: object) -> Path:
    """A prepared cohort of ``kind`` "volume", "signal" or "night"; patients are P0, P1, …"""
    source = folder / f"{kind}-source"
    source.mkdir(parents=True)
    for number in range(patients * per_patient):
        (source / f"P{number // per_patient}-{number}.txt").touch()
    cohort = folder / f"{kind}-cohort"
    prepare(str(HERE / f"toy_{kind}_recipe.py"), source, cohort, workers=0, keep_ids=True, options=options)
    return cohort


class ToyEncoder(Encoder):
    """Two convolutions over volumes or signals."""

    def __init__(self, *, in_channels: int = 1, dims: int = 3, width: int = 8) -> None:
        super().__init__()
        convolution = {1: torch.nn.Conv1d, 3: torch.nn.Conv3d}[dims]
        self.in_channels, self.dims, self.out_dim = in_channels, dims, 2 * width
        self.channels, self.strides = (width, 2 * width), ((1,) * dims, (2,) * dims)
        self.divisor, self.minimum = (2,) * dims, (4,) * dims
        self.first = convolution(in_channels, width, 3, padding=1)
        self.second = convolution(width, 2 * width, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Features:
        fine = torch.relu(self.first(x))
        coarse = torch.relu(self.second(fine))
        return Features(mean_pool(coarse), [fine, coarse])


class ToyMethod(Method):
    """Pulls two noisy crops of a recording together; has dropout, a teacher and batch noise, to make resuming hard."""

    def __init__(
        self, encoder: Encoder, *, size: tuple[int, ...] = (8, 8, 8), noise: float = 0.1, broken: str = "",
        pause_s: float = 0.0, optim: Optim | None = None,
    ) -> None:  # fmt: skip
        super().__init__(encoder, optim)
        self.size, self.noise, self.broken, self.pause_s = tuple(size), noise, broken, pause_s
        self.projector = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(encoder.out_dim, 16))
        self.register_buffer("centre", torch.zeros(16))  # moves slowly, like an EMA teacher

    @property
    def input_size(self) -> tuple[int, ...]:
        return self.size

    def draw(self, reader: object, rng: np.random.Generator) -> Sample:
        if reader.recording == self.broken:
            raise OSError("the disk is on fire")
        time.sleep(self.pause_s)
        starts = [[int(rng.integers(0, n - s + 1)) for n, s in zip(reader.shape, self.size, strict=True)] for _ in "ab"]
        return {"x": np.stack([reader.read(s, self.size) for s in starts]), **reader.input_fields()}

    def loss(self, batch: Batch) -> Losses:
        x = to_input(batch["x"], batch)
        x = x + self.noise * torch.randn(x.shape, generator=self.generator, device=x.device)
        z = self.projector(self.encoder(x.flatten(0, 1)).pooled).unflatten(0, x.shape[:2])
        with torch.no_grad():
            self.centre.lerp_(z.mean((0, 1)), 0.1)
        together = (z[:, 0] - z[:, 1]).square().mean()
        apart = (1 - (z - self.centre).std(0)).clamp_min(0).mean()
        return Losses(together + apart, {"together": together.detach()}, z.flatten(0, 1).detach())


def toy_method(kind: str, **options: object) -> ToyMethod:
    """A method for the toy cohort of this kind."""
    if kind == "volume":
        return ToyMethod(ToyEncoder(), **options)
    return ToyMethod(ToyEncoder(in_channels=2, dims=1), size=(64,), **options)
