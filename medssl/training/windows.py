"""Windows of recordings: where they start, and how they are read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.cohort import Cohort
from medssl.views.clip_sampling import clip_starts

__all__ = [
    "PLAIN",
    "ClipRule",
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
