"""Crops and windows of labelled items: random ones for training, fixed ones for testing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.cohort import Cohort
from medssl.training.targets import Target
from medssl.views.clip_sampling import clip_starts

__all__ = [
    "PLAIN",
    "ClipRule",
    "LabelledBags",
    "LabelledCrops",
    "LabelledWindows",
    "LazyWindows",
    "Recordings",
    "cut",
    "fixed_starts",
    "middle_start",
    "random_start",
    "start_around",
]

Starts = tuple[int, ...]


def cut(array: NDArray[Any], start: Sequence[int], size: Sequence[int], fill: int) -> NDArray[Any]:
    """A crop (C, *size) of (C, *shape); what lies outside is ``fill``."""
    shape = array.shape[1:]
    low = [min(max(s, 0), n) for s, n in zip(start, shape, strict=True)]
    high = [min(max(s + e, 0), n) for s, e, n in zip(start, size, shape, strict=True)]
    inside = array[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
    if inside.shape[1:] == tuple(size):
        return inside
    out = np.full((array.shape[0], *size), fill, dtype=array.dtype)
    place = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
    if all(b > a for a, b in zip(low, high, strict=True)):
        out[(slice(None), *place)] = inside
    return out


def middle_start(length: int, extent: int) -> int:
    """Start of a centred window; where it is longer than the recording, the odd sample of padding comes last."""
    return (length - extent) // 2 if length >= extent else -((extent - length) // 2)


def random_start(shape: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> Starts:
    """Anywhere inside; along axes that are too short, centred with equal padding."""
    return tuple(
        int(rng.integers(0, n - e + 1)) if n > e else middle_start(n, e) for n, e in zip(shape, size, strict=True)
    )


def start_around(centre: Sequence[int], shape: Sequence[int], size: Sequence[int]) -> Starts:
    """Centred on a voxel, moved inside the volume where it would reach beyond its edge."""
    return tuple(
        min(max(int(c) - e // 2, 0), n - e) if n > e else middle_start(n, e)
        for c, n, e in zip(centre, shape, size, strict=True)
    )


def fixed_starts(shape: Sequence[int], size: Sequence[int], most: int) -> list[Starts]:
    """At most ``most`` windows spread evenly over a recording, first and last at its ends; one centred if it fits.

    >>> fixed_starts((25,), (10,), 8), fixed_starts((25,), (10,), 2), fixed_starts((6,), (10,), 8)
    ([(0,), (8,), (15,)], [(0,), (15,)], [(-2,)])
    """
    counts = [max(1, -(-n // e)) for n, e in zip(shape, size, strict=True)]
    while int(np.prod(counts)) > most:
        counts[int(np.argmax(counts))] -= 1
    axes = []
    for n, e, k in zip(shape, size, counts, strict=True):
        axes.append([middle_start(n, e)] if k == 1 or n <= e else [round(i * (n - e) / (k - 1)) for i in range(k)])
    return list(itertools.product(*axes))


@dataclass(frozen=True)
class ClipRule:
    """Which clips of a video are seen, as EchoNet-Dynamic samples them (Ouyang et al., Nature 580:252, 2020).

    The default is what every other recording gets: windows without gaps, spread over it.

    Attributes:
        period: frames of the video from one frame of a clip to the next.
        every: testing sees the clips at all starts that the video has instead of a few spread over it; what a video is
            too short for is black, at its end.
    """

    period: int = 1
    every: bool = False

    def span(self, size: Starts) -> Starts:
        """(frames, y, x) of the video that a clip of ``size`` reaches over."""
        return size if self.period == 1 else ((size[0] - 1) * self.period + 1, *size[1:])

    def starts(self, shape: Sequence[int], size: Starts, windows: int) -> list[Starts]:
        """First samples (frames, rows, columns) of the windows that are seen in testing.

        Args:
            shape: of the recording.
            size: of a window.
            windows: most of them; with ``every``, most at one start.

        >>> ClipRule(period=2, every=True).starts((6, 4, 4), (2, 4, 4), 8)
        [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)]
        """
        if not self.every:
            return fixed_starts(shape, self.span(size), windows)
        places = fixed_starts(shape[1:], size[1:], windows)
        return [(int(first), *place) for first in clip_starts(shape[0], size[0], self.period) for place in places]

    def read(self, recordings: Recordings, row: int, start: Sequence[int], size: Starts) -> NDArray[Any]:
        """Stored integers (C, *size) of a window."""
        stored = recordings.read(row, start, self.span(size))
        return stored if self.period == 1 else np.ascontiguousarray(stored[:, :: self.period])


PLAIN = ClipRule()


class LazyWindows(Sequence[NDArray[np.float32]]):
    """Windows that are made when they are asked for: the clips of a video at all starts are many times the video.

    Args:
        make: start → network input (C, *size).
        starts: of the windows.
    """

    def __init__(self, make: Callable[[Starts], NDArray[np.float32]], starts: Sequence[Starts]) -> None:
        self.make, self.starts = make, starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.make(start) for start in self.starts[index]]
        return self.make(self.starts[index])


class Recordings:
    """Reads recordings of a cohort, from memory once they were decoded if all of them fit.

    Args:
        cohort: the cohort.
        channels: indices of the channels to read, in order; None reads all.
        rows: those that will be read.
        masks: names of masks that will be read.
        cache_gb: memory for decoded recordings, a process.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        channels: Sequence[int] | None,
        rows: NDArray[np.int64],
        masks: Sequence[str] = (),
        cache_gb: float,
    ) -> None:
        self.cohort = cohort
        self.channels = None if channels is None else list(channels)
        self.masks = masks
        voxels = sum(int(np.prod(cohort.manifest["shape"].iloc[row])) for row in np.unique(rows))
        count = len(self.channels or cohort.info.channels)
        self.fits = voxels * (2 * count + len(masks)) <= cache_gb * 2**30
        self._decoded: dict[tuple[int, str], NDArray[Any]] = {}
        self._fields: dict[int, dict[str, NDArray[Any]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": {}, "_fields": {}}

    def shape(self, row: int) -> tuple[int, ...]:
        """(Z, Y, X) or (T,)."""
        return tuple(int(n) for n in self.cohort.manifest["shape"].iloc[row])

    def read(self, row: int, start: Sequence[int], size: Sequence[int], key: str = "image") -> NDArray[Any]:
        """Stored integers (C, *size)."""
        chosen = self.channels if key == "image" else None
        if not self.fits:
            return self.cohort.reader(row).read(start, size, key, chosen)
        return cut(self.whole(row, key), start, size, 0 if key != "image" else self._fill(row))

    def whole(self, row: int, key: str = "image") -> NDArray[Any]:
        """The whole recording, as stored."""
        if (row, key) in self._decoded:
            return self._decoded[row, key]
        array = self.cohort.reader(row).read_all(key)
        if key == "image" and self.channels is not None:
            array = np.ascontiguousarray(array[self.channels])
        if self.fits:
            self._decoded[row, key] = array
        return array

    def fields(self, row: int) -> dict[str, NDArray[Any]]:
        """What turns stored integers into network input."""
        if row not in self._fields:
            fields = dict(self.cohort.reader(row).input_fields())
            if self.channels is not None:
                for name in ("input_scale", "input_offset"):
                    fields[name] = fields[name][self.channels]
            self._fields[row] = fields
        return self._fields[row]

    def network_input(self, row: int, stored: NDArray[Any]) -> NDArray[np.float32]:
        """``clamp(stored · scale + offset)``: (…, C, *size) integers to float32, on the host."""
        fields = self.fields(row)
        tail = (1,) * len(self.shape(row))
        x = stored.astype(np.float32)
        x *= fields["input_scale"].reshape(-1, *tail)
        x += fields["input_offset"].reshape(-1, *tail)
        return np.clip(x, *fields["input_range"], out=x)

    def _fill(self, row: int) -> int:
        return int(self.cohort.manifest["fill"].iloc[row])


class LabelledCrops:
    """Training crops of a segmentation target: a share of them centred on a labelled voxel, classes equally often.

    Args:
        target: the masks.
        items: indices of the items used.
        recordings: how they are read.
        size: (z, y, x) of a crop.
        foreground: share of crops centred on a voxel of a class.
    """

    def __init__(
        self, target: Target, items: NDArray[np.int64], recordings: Recordings, *, size: Starts, foreground: float
    ) -> None:
        self.target = target
        self.items = items
        self.recordings = recordings
        self.size = size
        self.foreground = foreground
        self.class_of = np.zeros(256, dtype=np.uint8)
        self.class_of[list(target.values)] = np.arange(len(target.values), dtype=np.uint8)

    def order(self, rng: np.random.Generator) -> NDArray[Any]:
        """Every item once."""
        return rng.permutation(self.items)

    def name(self, item: int) -> str:
        """The recording's id."""
        return str(self.target.cohort.manifest["recording"].iloc[int(self.target.rows[item])])

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (1, C, *size) stored integers, ``y`` (1, *size) class indices."""
        row = int(self.target.rows[item])
        start = self._start(row, rng)
        mask = self.recordings.read(row, start, self.size, f"mask:{self.target.name}")
        image = self.recordings.read(row, start, self.size)
        return {**self.recordings.fields(row), "x": image[None], "y": self.class_of[mask]}

    def _start(self, row: int, rng: np.random.Generator) -> Starts:
        shape = self.recordings.shape(row)
        if rng.random() < self.foreground:
            reader = self.target.cohort.reader(row)
            for label in rng.permutation(self.target.values[1:]):  # the next class where this one is absent
                points = reader.foreground(self.target.name, int(label))
                if len(points):
                    return start_around(points[int(rng.integers(len(points)))], shape, self.size)
        return random_start(shape, self.size, rng)


class LabelledWindows:
    """Training windows of a classification or regression target.

    A window lies anywhere in a labelled recording, or around the middle of an event; a share of the crops of volumes is
    centred on a voxel of the body. With ``balance``, a class is drawn first (of several labels at once, none is one
    more), then a patient who has it, then an item, so that neither a frequent class nor a long recording dominates.

    Args:
        target: labels or events.
        items: indices of the items used.
        recordings: how they are read.
        size: of a window or crop.
        balance: draw classes equally often.
        foreground: share of the crops of volumes and video that are centred on a voxel of the body or sector.
        rule: which clips of video there are.
    """

    def __init__(
        self,
        target: Target,
        items: NDArray[np.int64],
        recordings: Recordings,
        *,
        size: Starts,
        balance: bool,
        foreground: float = 0.0,
        rule: ClipRule = PLAIN,
    ) -> None:
        self.target = target
        self.items = items
        self.recordings = recordings
        self.size = size
        self.rule = rule
        self.foreground = foreground if target.cohort.info.kind != "signal" else 0.0
        self.groups = _by_class_and_patient(target, items) if balance and target.task == "classification" else []

    def order(self, rng: np.random.Generator) -> NDArray[Any]:
        """Every item once, or as many balanced draws."""
        if not self.groups:
            return rng.permutation(self.items)
        picks = []
        for u, v, w in rng.random((len(self.items), 3)):
            patients = self.groups[int(u * len(self.groups))]
            items = patients[int(v * len(patients))]
            picks.append(items[int(w * len(items))])
        return np.array(picks)

    def name(self, item: int) -> str:
        """The recording's id."""
        return str(self.target.cohort.manifest["recording"].iloc[int(self.target.rows[item])])

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (1, C, *size) stored integers, ``y`` the item's true value."""
        row = int(self.target.rows[item])
        if self.target.onset_s is None:
            start = self._start(row, rng)
        else:
            start = (self.target.starts(np.array([item]), self.size[0])[0],)
        y = self.target.y[item]
        value = y if isinstance(y, np.ndarray) else y.item()
        x = self.rule.read(self.recordings, row, start, self.size)
        return {**self.recordings.fields(row), "x": x[None], "y": value}

    def _start(self, row: int, rng: np.random.Generator) -> Starts:
        shape, span = self.recordings.shape(row), self.rule.span(self.size)
        if self.foreground and rng.random() < self.foreground:
            points = self.target.cohort.reader(row).foreground()
            if len(points):
                return start_around(points[int(rng.integers(len(points)))], shape, span)
        return random_start(shape, span, rng)


class LabelledBags(LabelledWindows):
    """Training bags: several windows of a labelled recording, spread over it with random starts.

    Args:
        target, items, recordings, size, balance, rule: see ``LabelledWindows``.
        windows: of a bag, at most; a recording that holds fewer gives fewer, and ``known`` is false for the rest.
    """

    def __init__(
        self,
        target: Target,
        items: NDArray[np.int64],
        recordings: Recordings,
        *,
        size: Starts,
        balance: bool,
        windows: int,
        rule: ClipRule = PLAIN,
    ) -> None:
        super().__init__(target, items, recordings, size=size, balance=balance, rule=rule)
        self.windows = windows

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (N, C, *size) stored integers, ``known`` (N,), ``y`` the item's true value."""
        row = int(self.target.rows[item])
        starts = self._starts(self.recordings.shape(row), rng)
        windows = [self.rule.read(self.recordings, row, start, self.size) for start in starts]
        x = np.zeros((self.windows, *windows[0].shape), dtype=windows[0].dtype)
        x[: len(windows)] = windows
        y = self.target.y[item]
        value = y if isinstance(y, np.ndarray) else y.item()
        return {**self.recordings.fields(row), "x": x, "known": np.arange(self.windows) < len(windows), "y": value}

    def _starts(self, shape: Sequence[int], rng: np.random.Generator) -> list[Starts]:
        """As many windows as testing sees; each moves at random as far as half way to its neighbours."""
        span = self.rule.span(self.size)
        fixed = fixed_starts(shape, span, self.windows)
        if len(fixed) == 1:
            return [random_start(shape, span, rng)]
        last = np.array(shape) - np.array(span)
        reach = np.maximum(last // (len(fixed) - 1) // 2, 0)
        moved = np.array(fixed) + rng.integers(-reach, reach + 1, (len(fixed), len(reach)))
        inside = np.where(last > 0, np.clip(moved, 0, np.maximum(last, 0)), np.array(fixed))
        return [tuple(int(s) for s in start) for start in inside]


def _by_class_and_patient(target: Target, items: NDArray[np.int64]) -> list[list[NDArray[np.int64]]]:
    """Items of every patient of every class that occurs; of several labels at once, having none is one more class."""
    y = target.y[items]
    having = [*(y.T > 0), ~(y > 0).any(1)] if target.multilabel else [y == c for c in range(len(target.classes))]
    groups = []
    for own in having:
        chosen = items[own]
        patients = target.patients[chosen]
        groups.append([chosen[patients == p] for p in sorted(set(patients))])
    return [g for g in groups if g]
