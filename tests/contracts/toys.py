"""In-memory recordings with the reader's interface, and one small configuration of every method.

A new method supplies an entry in ``METHODS`` (a new view family or objective one in ``VIEWS`` or ``OBJECTIVES``) and
gets every contract test. Methods and objectives of one family stand together in a file ``cases_FAMILY.py`` beside this
one, which adds its entries when ``every_case`` imports it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medssl.cohort import CohortInfo
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.methods.base import Method
from medssl.methods.voco import VoCo
from medssl.objectives.base import Mixture, Objective
from medssl.optim import Optim
from medssl.views.base import Views
from medssl.views.by_kind import ViewsByKind
from medssl.views.clip import ClipViews
from medssl.views.multi_crop import MultiCrop
from medssl.views.resized_volume import ResizedVolumeViews
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


@dataclass
class ToyReader:
    """One recording in memory, read like one of a cohort."""

    data: NDArray[Any]
    row: int = 0
    kind: str = "volume"
    patient: str = "P0"
    fill: int = 0
    spacing_mm: tuple[float, ...] | None = None
    rate_hz: float | None = None
    points: NDArray[np.int64] | None = None
    input_range: tuple[float, float] = (0.0, 1.0)
    scale: float = 1 / 1000
    reads: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def recording(self) -> str:
        return f"R{self.row}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape[1:]

    @property
    def record(self) -> dict[str, Any]:
        known = {"fill": self.fill, "patient": self.patient, "recording": self.recording}
        return {**known, "label_age": 40.0 + self.row, "label_radius": 3.0 + self.row}

    def read(self, start: Sequence[int], size: Sequence[int], key: str = "image") -> NDArray[Any]:
        self.reads.append((tuple(start), tuple(size)))
        out = np.full((len(self.data), *size), self.fill, self.data.dtype)
        low = [max(0, s) for s in start]
        high = [max(a, min(n, s + e)) for a, s, e, n in zip(low, start, size, self.shape, strict=True)]
        target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        out[(slice(None), *target)] = self.data[(slice(None), *source)]
        return out

    def input_fields(self) -> dict[str, NDArray[Any]]:
        channels = len(self.data)
        return {
            "input_scale": np.full(channels, self.scale, np.float32),
            "input_offset": np.zeros(channels, np.float32),
            "input_range": np.array(self.input_range, np.float32),
            "row": np.array(self.row, np.int64),
        }

    def foreground(self, mask: str | None = None, label: int | None = None) -> NDArray[np.int64]:
        return np.empty((0, len(self.shape)), np.int64) if self.points is None else self.points


def volume(row: int, shape: tuple[int, int, int] = (8, 24, 24), *, channels: int = 1) -> ToyReader:
    """A body whose texture is nearly the same in every patient, so that positions can be told."""
    common = gaussian_filter(np.random.default_rng(0).normal(size=(channels, *shape)), (0, 2, 2, 2))
    own = gaussian_filter(np.random.default_rng(row + 1).normal(size=(channels, *shape)), (0, 2, 2, 2))
    mixed = common + 0.3 * own
    scaled = 500 + 200 * mixed / max(mixed.std(), 1e-6)
    points = np.stack(np.meshgrid(*(np.arange(0, s, 3) for s in shape), indexing="ij"), -1).reshape(-1, 3)
    data = scaled.clip(20, 1000).astype(np.int16)
    return ToyReader(data, row=row, patient=f"P{row}", spacing_mm=(1.0, 1.0, 1.0), points=points)


def signal(row: int, length: int = 400, *, channels: int = 2) -> ToyReader:
    """A rhythm of the patient's own frequency and shape."""
    rng = np.random.default_rng(row)
    time = np.arange(length) / 100
    waves = [np.sin(2 * np.pi * (1 + row) * (k + 1) * time + rng.uniform(0, 6)) for k in range(channels)]
    data = (400 * np.stack(waves) + rng.normal(0, 20, (channels, length))).astype(np.int16)
    return ToyReader(data, row=row, kind="signal", patient=f"P{row}", rate_hz=100.0, input_range=(-10.0, 10.0))


def video(row: int, shape: tuple[int, int, int] = (24, 20, 20), *, channels: int = 1) -> ToyReader:
    """A sector in black in which a ring beats at the patient's own rate, in speckle; 50 frames a second."""
    frames, height, width = shape
    rng = np.random.default_rng(row)
    y, x = np.mgrid[:height, :width]
    depth, across = y + 1, np.abs(x - (width - 1) / 2)
    phase = np.cos(2 * np.pi * (1 + 0.3 * row) * np.arange(frames) / 25 + rng.uniform(0, 6))
    radius = (0.2 + 0.05 * phase)[:, None, None] * height
    ring = np.exp(-(((np.hypot(y - 0.55 * height, x - 0.5 * width) - radius) / 2) ** 2))
    echo = (60 + 150 * ring) * rng.rayleigh(0.5, (frames, height, width)) * (across < 0.7 * depth)
    data = np.repeat(echo.clip(0, 255).astype(np.uint8)[None], channels, 0)
    return ToyReader(data, row=row, kind="video", patient=f"P{row}", rate_hz=50.0, scale=1 / 255)


def info(kind: str, channels: int) -> CohortInfo:
    names = tuple(f"c{i}" for i in range(channels))
    return CohortInfo(kind=kind, modality="toy", recipe="toy", channels=names)  # type: ignore[arg-type]


def collate(samples: Sequence[Mapping[str, Any]], *, seed: int) -> dict[str, Any]:
    """Samples to a batch, as training does it."""
    stacked = {k: torch.from_numpy(np.stack([np.asarray(s[k]) for s in samples])) for k in samples[0]}
    return {**stacked, "seed": seed}


def volume_encoder(channels: int = 1) -> ResEnc:
    return ResEnc(channels, features=(4, 8), blocks=(1, 1), strides=(1, 2))


def signal_encoder(channels: int = 2) -> ResNet1d:
    return ResNet1d(channels, (8, 16), blocks=1)


@dataclass(frozen=True)
class Case:
    """How one method is tried: what builds it, and what it reads."""

    make: Callable[[], Method]
    kind: str
    channels: int

    def readers(self, count: int) -> list[ToyReader]:
        make = {"volume": volume, "signal": signal, "video": video}[self.kind]
        return [make(row, channels=self.channels) for row in range(count)]

    @property
    def info(self) -> CohortInfo:
        return info(self.kind, self.channels)

    def batch(self, method: Method, *, size: int, position: int = 0, seed: int = 5) -> dict[str, Any]:
        """The batch at a position of training, drawn without state."""
        readers = self.readers(size)
        samples = [method.draw(r, np.random.default_rng([seed, position + i])) for i, r in enumerate(readers)]  # type: ignore[arg-type]
        return collate(samples, seed=seed + position)


def _voco(**options: Any) -> Case:
    def make() -> Method:
        settings = {"crop": (8, 8, 8), "projector": (16, 8), "optim": Optim(lr=1e-2)} | options
        return VoCo(volume_encoder(), **settings)

    return Case(make, "volume", 1)


def joint(method: type[Any], kind: str, **options: Any) -> Case:
    """A case of a method that takes ``(encoder, views, **options)``; ``objective`` and ``weighting`` make one."""
    channels = 1 if kind == "volume" else 2

    def make() -> Method:
        settings = {"projector": (16, 8), "optim": Optim(lr=1e-2)} | options
        count = settings.pop("count", 2)
        for part in ("objective", "weighting"):
            if callable(settings.get(part)):
                settings[part] = settings[part]()
        if kind == "volume":
            made = method(volume_encoder(channels), VolumeViews((8, 8, 8), count=count), **settings)
        else:
            made = method(signal_encoder(channels), SignalViews((128,), count=count, gap_s=1.0), **settings)
        made.prepare(SimpleNamespace(places=range(64), cohorts=[], manifest=None), batch=6)
        return made  # type: ignore[no-any-return]

    return Case(make, kind, channels)


@dataclass(frozen=True)
class ObjectiveCase:
    """How one objective is tried.

    Attributes:
        make: what builds it; ``ready()`` then makes its weights and memory.
        grid: of the maps it takes; empty for embeddings.
        views: of what it is shown.
        labels: integers of six samples that it gets where it needs labels; floats for continuous ones.
        ordered: the order of the samples in the batch matters to it.
    """

    make: Callable[[], Objective]
    grid: tuple[int, ...] = ()
    views: int = 2
    labels: tuple[float, ...] = (0, 0, 1, 2, 2, 1)
    ordered: bool = False

    def ready(self, width: int = 8, samples: int = 64) -> Objective:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = self.make()
            made.fit_width(width)
            made.remember(samples)
        return made

    def given(self, objective: Objective, views: torch.Tensor) -> dict[str, Any]:
        """Everything that the objective may want for these views."""
        n, random = views.shape[1], torch.Generator().manual_seed(11)
        labels = torch.tensor([self.labels[i % 6] for i in range(n)])
        order = torch.randperm(n, generator=random)
        share = torch.full((n,), 0.3)
        known: dict[str, Any] = {
            "targets": views.detach() + 0.1 * torch.randn(views.shape, generator=random),
            "labels": labels if labels.is_floating_point() else labels.long(),
            "mixture": Mixture(0.3 * views[0] + 0.7 * views[1][order], order, share),
            "mask": torch.rand(views.shape[:2] + views.shape[3:], generator=random) < 0.5,
        }
        return {
            "index": torch.arange(n),
            "generator": torch.Generator().manual_seed(5),
            **{k: v for k, v in known.items() if k in objective.needs},
        }


METHODS: dict[str, dict[str, Case]] = {
    "VoCo": {
        "cvpr": _voco(),
        "v1": _voco(variant="v1"),
        "v2": _voco(variant="v2", feature_dropout=0.2),
        "paper": _voco(variant="paper"),
        "resized": _voco(fit="resize", grid=(2, 2, 2), encoder_size=(4, 4, 4)),
    },
}

OBJECTIVES: dict[str, ObjectiveCase] = {}

VIEWS: dict[str, tuple[Callable[[], Views], Callable[[int], ToyReader]]] = {
    "VolumeViews": (lambda: VolumeViews((8, 8, 8), count=3), volume),
    "SignalViews": (lambda: SignalViews((128,), count=3, gap_s=1.0), signal),
    "ClipViews": (lambda: ClipViews((4, 16, 16), count=3, stride=2), video),
    "ResizedVolumeViews": (lambda: ResizedVolumeViews((8, 8, 8), count=3), volume),
}

COMPOSED: dict[str, tuple[Callable[[], Views], Callable[[int], ToyReader]]] = {
    "MultiCrop": (
        lambda: MultiCrop(ClipViews((4, 16, 16), count=3), ClipViews((2, 8, 8), count=4, crop="resized")), video
    ),
    "ViewsByKind": (
        lambda: ViewsByKind(volumes=VolumeViews((8, 8, 8), count=3), video=ClipViews((4, 16, 16), count=3)), volume
    ),
}  # fmt: skip
"""View families that are made of others, which change what they draw."""


def every_case() -> tuple[dict[str, dict[str, Case]], dict[str, ObjectiveCase]]:
    """All methods' and all objectives' cases."""
    for file in sorted(Path(__file__).parent.glob("cases_*.py")):
        importlib.import_module(file.stem)
    return METHODS, OBJECTIVES
