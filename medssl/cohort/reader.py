"""Reading a cohort: whole recordings, crops and windows, with one store access each."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medssl.cohort import store
from medssl.cohort.info import CohortInfo
from medssl.cohort.manifest import EVENTS, RECORDINGS
from medssl.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Cohort", "Reader"]

T = TypeVar("T")
Coordinates = Sequence[int] | NDArray[np.integer[Any]]


class _Handles:
    """Open arrays and foreground tables of one process: the most recently used ones, bounded in number."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._items: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The kept object, or a new one; the one unused for longest goes when there are too many."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                kept: T = self._items[key]
                return kept
        made = make()  # outside the lock, for it reads from disk; two threads may both make one, which does no harm
        with self._lock:
            self._items[key] = made
            if len(self._items) > self.most:
                self._items.popitem(last=False)
        return made


class Cohort:
    """A prepared cohort on disk.

    Opening reads ``cohort.json`` only; the manifest and arrays are opened when first needed, once a process. A cohort
    pickles as its path, so it may be handed to workers started with ``spawn`` or ``forkserver``. Workers made by
    ``fork`` from a process that has read arrays get a ``CohortError``: the store's threads do not survive a fork.

    Args:
        path: the cohort's folder.

    Raises:
        CohortError: there is no finished cohort.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = _info(self.path)
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._context: Any = None
        self._arrays = _Handles(most=256)
        self._foregrounds = _Handles(most=64)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "info": self.info}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.info = state["path"], state["info"]
        self._forget()

    def __len__(self) -> int:
        return self.info.n_recordings

    def __repr__(self) -> str:
        return f"Cohort('{self.path}', {len(self)} {self.info.modality or self.info.kind} recordings)"

    @functools.cached_property
    def table(self) -> pa.Table:
        """The manifest as an Arrow table (columnar, small); ``manifest`` is the same for people and for pandas."""
        return _parquet(self.path / RECORDINGS)

    @functools.cached_property
    def manifest(self) -> pd.DataFrame:
        """One row a recording, see ``docs/formats.md``; list columns hold lists, None where absent."""
        frame: pd.DataFrame = self.table.to_pandas()
        for name in frame.columns:
            if frame[name].dtype == object:
                frame[name] = [v.tolist() if isinstance(v, np.ndarray) else v for v in frame[name]]
        return frame

    @functools.cached_property
    def events(self) -> pd.DataFrame:
        """recording, onset_s, duration_s, kind, value, channel; in the order of the manifest, then by onset."""
        frame: pd.DataFrame = _parquet(self.path / EVENTS).to_pandas()
        return frame

    @functools.cached_property
    def _event_spans(self) -> dict[str, tuple[int, int]]:
        names = self.events["recording"].to_numpy(dtype=object)
        starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]]) if len(names) else np.empty(0, np.int64)
        stops = np.r_[starts[1:], len(names)] if len(names) else starts
        return {names[i]: (int(i), int(j)) for i, j in zip(starts, stops, strict=True)}

    def events_of(self, recording: str) -> pd.DataFrame:
        """All events of a recording, by onset."""
        start, stop = self._event_spans.get(recording, (0, 0))
        return self.events.iloc[start:stop]

    def reader(self, row: int) -> Reader:
        """The recording of a manifest row."""
        if not 0 <= row < len(self):
            raise CohortError(f"'{self.path}' has rows 0 to {len(self) - 1}, not {row}")
        return Reader(self, int(row))

    def location(self, array: str) -> Path:
        """Where an array or group of the manifest's ``array`` column lies."""
        return self.path / "arrays" / array

    def array(self, key: str) -> Any:
        """The open tensorstore of ``GROUP/ARRAY``, kept for the next call."""
        self._own()
        return self._arrays.get(key, lambda: store.open_array(self.location(key), self._shared_context()))

    def foreground_of(self, group: str) -> store.Foreground | None:
        """The foreground table of a recording's group, kept for the next call."""
        self._own()
        return self._foregrounds.get(group, lambda: store.read_foreground(self.location(group), self._shared_context()))

    def _own(self) -> None:
        if self._pid != os.getpid():  # forked: the parent's handles must not be used here
            self._forget()

    def _shared_context(self) -> Any:
        if self._context is None:
            self._context = store.read_context()
        return self._context


class Reader:
    """One recording of a cohort.

    Attributes:
        cohort, row: where it stands.
        kind: of its cohort.
        patient, recording: pseudonyms.
        shape: (Z, Y, X), (T, Y, X) for video, or (T,); without channels.
        channels: names in array order.
        spacing_mm: (z, y, x), of video (y, x), or None. rate_hz: samples or frames a second, or None.
        affine: (4, 4) float64 of the stored grid, columns in array order, or None.
        masks: names of its masks.
    """

    def __init__(self, cohort: Cohort, row: int) -> None:
        self.cohort, self.row = cohort, row

    def __repr__(self) -> str:
        return f"Reader({self.recording!r} of patient {self.patient!r}, {self.shape})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Reader, (self.cohort, self.row)

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """The manifest row as plain Python values."""
        values: dict[str, Any] = self.cohort.table.slice(self.row, 1).to_pylist()[0]
        return values

    def _field(self, name: str) -> Any:
        if "record" in self.__dict__:
            return self.record[name]
        return self.cohort.table.column(name)[self.row].as_py()

    @property
    def kind(self) -> str:
        return self.cohort.info.kind

    @property
    def patient(self) -> str:
        return str(self._field("patient"))

    @property
    def recording(self) -> str:
        return str(self._field("recording"))

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._field("shape"))

    @functools.cached_property
    def channels(self) -> tuple[str, ...]:
        return tuple(self._field("channels"))

    @functools.cached_property
    def masks(self) -> tuple[str, ...]:
        return tuple(self._field("masks"))

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        spacing = self._field("spacing_mm")
        return None if spacing is None else tuple(spacing)

    @property
    def rate_hz(self) -> float | None:
        rate: float | None = self._field("rate_hz")
        return rate

    @property
    def affine(self) -> NDArray[np.float64] | None:
        values = self._field("affine")
        return None if values is None else np.array(values, dtype=np.float64).reshape(4, 4)

    def read(
        self, start: Coordinates, size: Coordinates, key: str = "image", channels: Sequence[int] | None = None
    ) -> NDArray[Any]:
        """A crop or window, as stored integers.

        Args:
            start: first voxel or sample, one number an axis; may be negative or beyond the edge.
            size: extent, one number an axis.
            key: ``"image"``, or ``"mask:NAME"``.
            channels: which channels; all by default.

        Returns:
            (C, *size) of the image, or (1, *size) uint8 of a mask. What lies outside the recording is ``fill`` (0 for
            masks). The array is the caller's own.

        Raises:
            CohortError: no such mask, or a damaged array.
        """
        if not len(start) == len(size) == len(self.shape):
            raise CohortError(f"recording {self.recording} has {len(self.shape)} axes; got start {start}, size {size}")
        source = self._source(key)
        lower = [min(max(int(s), 0), n) for s, n in zip(start, self.shape, strict=True)]
        upper = [min(max(int(s) + int(e), 0), n) for s, e, n in zip(start, size, self.shape, strict=True)]
        inside = all(u > low for low, u in zip(lower, upper, strict=True))
        if inside and all(u - low == e for low, u, e in zip(lower, upper, size, strict=True)):
            return self._fetch(source, lower, upper, channels)
        fill = 0 if key.startswith("mask:") else int(self._field("fill"))
        count = source.shape[-len(self.shape) - 1] if channels is None else len(channels)
        padded = np.full((count, *size), fill, dtype=source.dtype.numpy_dtype)
        if inside:
            place = tuple(slice(low - int(s), u - int(s)) for low, u, s in zip(lower, upper, start, strict=True))
            padded[(slice(None), *place)] = self._fetch(source, lower, upper, channels)
        return padded

    def read_all(self, key: str = "image") -> NDArray[Any]:
        """The whole recording (C, *shape), or a whole mask (1, *shape)."""
        return self.read([0] * len(self.shape), self.shape, key)

    def input_fields(self) -> dict[str, NDArray[Any]]:
        """What turns stored integers into network input, and the manifest row; see ``medssl.views.to_input``."""
        return {
            "input_scale": np.array(self._field("input_scale"), dtype=np.float32),
            "input_offset": np.array(self._field("input_offset"), dtype=np.float32),
            "input_range": np.array(self._field("input_range"), dtype=np.float32),
            "row": np.array(self.row, dtype=np.int64),
        }

    def foreground(self, mask: str | None = None, label: int | None = None) -> NDArray[np.int64]:
        """(K, n_axes) sampled coordinates of the body, of a mask, or of one label of a mask; K may be 0."""
        table = None if self._packed else self.cohort.foreground_of(self._field("array"))
        return np.empty((0, len(self.shape)), np.int64) if table is None else table.points(mask, label)

    def events(self, kind: str) -> pd.DataFrame:
        """This recording's events of one kind, by onset."""
        rows = self.cohort.events_of(self.recording)
        return rows[rows["kind"] == kind].reset_index(drop=True)

    @property
    def _packed(self) -> bool:
        return int(self._field("position")) >= 0

    def _source(self, key: str) -> Any:
        """The opened array that holds ``key``, channel axis first."""
        group = self._field("array")
        if key == store.IMAGE:
            position = int(self._field("position"))
            opened = self.cohort.array(group if position >= 0 else f"{group}/{store.IMAGE}")
            return opened[position] if position >= 0 else opened
        name = key.removeprefix("mask:")
        if not key.startswith("mask:") or name not in self.masks:
            known = ", ".join(["image", *(f"mask:{m}" for m in self.masks)])
            raise CohortError(f"recording {self.recording} has no '{key}'; it has: {known}")
        return self.cohort.array(f"{group}/{store.mask_key(name)}")

    def _fetch(
        self, source: Any, lower: Sequence[int], upper: Sequence[int], channels: Sequence[int] | None
    ) -> NDArray[Any]:
        box = tuple(slice(low, u) for low, u in zip(lower, upper, strict=True))
        lead: Any = slice(None) if channels is None else list(channels)
        return store.read_array(source[(lead, *box)])


def _info(path: Path) -> CohortInfo:
    if not (path / "cohort.json").is_file() and (path / ".prepare").is_dir():
        raise CohortError(f"preparing '{path}' was interrupted; run the same `medssl prepare` again to continue")
    return CohortInfo.read(path / "cohort.json")


def _parquet(file: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file).combine_chunks()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise CohortError(f"'{file}' is missing or damaged; prepare the cohort again") from error
