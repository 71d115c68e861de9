"""The arrays of a cohort: Zarr v3 on disk, written and read with tensorstore.

One recording is one Zarr group; its image, each of its masks and its foreground coordinates are arrays whose inner
chunks all lie in **one shard object**, so a million recordings are a million files, not a billion. Short records of
equal shape share one packed array instead (leading axis: record). The layout is specified in ``docs/formats.md``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from medssl.cohort.preparation import Prepared
from medssl.errors import CohortError

__all__ = [
    "FOREGROUND",
    "IMAGE",
    "Foreground",
    "Profile",
    "array_sha256",
    "chunk_shape",
    "create_array",
    "mask_key",
    "open_array",
    "read_array",
    "read_context",
    "read_foreground",
    "replace_folder",
    "write_group",
    "write_recording",
]

Profile = Literal["fast", "archive"]

IMAGE = "image"
FOREGROUND = "foreground"

CHUNK_BYTES = 1 << 16
CHUNK_VOXELS = 32**3
SIGNAL_SAMPLES = (2000, 4000)
VIDEO_FRAMES = 16

_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_NO_ENDIAN = {"name": "bytes"}
_CRC = {"name": "crc32c"}

# The process in which tensorstore started its threads. A child made by fork() has the flag but not the threads.
_owner_lock = threading.Lock()
_owner_pid: int | None = None


def mask_key(name: str) -> str:
    """Name of the array that holds a mask, inside the recording's group."""
    return f"mask.{quote(name, safe=' ')}"


def array_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of shape, type and decoded little-endian values; independent of chunking and compression."""
    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{values.dtype.str}{list(values.shape)}".encode())
    digest.update(values.data if values.size else b"")
    return digest.hexdigest()


def chunk_shape(
    shape: Sequence[int], *, itemsize: int, spacing_mm: Sequence[float] | None = None, axes: str = ""
) -> tuple[int, ...]:
    """Inner chunk of an array with a leading channel axis: about 64 KiB decoded.

    Volumes (C, Z, Y, X) get one channel x 32³ voxels, or a block of as many voxels that is equally long in
    millimetres along every axis; signals (C, T) get all channels x 2000 to 4000 samples; video (axes ``"ctyx"``) gets
    one channel x 16 whole frames.

    >>> chunk_shape((1, 320, 512, 512), itemsize=2)
    (1, 32, 32, 32)
    >>> chunk_shape((1, 40, 512, 512), itemsize=2, spacing_mm=(6.0, 0.8, 0.8))
    (1, 8, 64, 64)
    >>> chunk_shape((12, 100_000), itemsize=2)
    (12, 2704)
    """
    channels, *rest = shape
    if axes == "ctyx":
        return (1, min(VIDEO_FRAMES, max(rest[0], 1)), *rest[1:])
    if len(rest) == 1:
        low, high = SIGNAL_SAMPLES
        wanted = [min(max(CHUNK_BYTES // (channels * itemsize), low), high)]
        lead = channels
    else:
        wanted = _isometric(rest, spacing_mm)
        lead = 1
    # spread the chunks evenly: an axis of 35 makes 2 x 18, not 32 + 3, which would store 29 padded planes
    few = [len(rest) == 1 or n <= 3 * c for n, c in zip(rest, wanted, strict=True)]
    even = [math.ceil(n / math.ceil(n / c)) if f else c for n, c, f in zip(rest, wanted, few, strict=True)]
    return (lead, *_shuffled(lead, rest, even))


def _shuffled(lead: int, shape: Sequence[int], chunk: Sequence[int]) -> tuple[int, ...]:
    """Grow one axis until a chunk has a multiple of 8 values: Blosc does not bit-shuffle anything else, which would
    nearly double the size. The axis is the one that needs the least padding."""

    def grown(axis: int) -> tuple[int, ...]:
        others = lead * math.prod(c for a, c in enumerate(chunk) if a != axis)
        step = 8 // math.gcd(others, 8)
        return tuple(math.ceil(c / step) * step if a == axis else c for a, c in enumerate(chunk))

    def stored(candidate: tuple[int, ...]) -> int:
        return math.prod(math.ceil(n / c) * c for n, c in zip(shape, candidate, strict=True))

    return min((grown(axis) for axis in range(len(chunk))), key=stored)


def _isometric(shape: Sequence[int], spacing_mm: Sequence[float] | None) -> list[int]:
    """Powers of two with about ``CHUNK_VOXELS`` voxels, near to equal length in millimetres."""
    spacing = spacing_mm if spacing_mm else (1.0,) * len(shape)
    budget = round(math.log2(CHUNK_VOXELS))
    side = (CHUNK_VOXELS * math.prod(spacing)) ** (1 / len(shape))
    ideal = [math.log2(max(side / s, 1.0)) for s in spacing]
    most = [math.ceil(math.log2(max(n, 1))) for n in shape]
    powers = [min(math.floor(i), m) for i, m in zip(ideal, most, strict=True)]
    while sum(powers) < budget:
        open_axes = [a for a in range(len(shape)) if powers[a] < most[a]]
        if not open_axes:
            break
        axis = max(open_axes, key=lambda a: (ideal[a] - powers[a], -a))
        powers[axis] += 1
    return [min(2**p, n) for p, n in zip(powers, shape, strict=True)]


# ---------------------------------------------------------------------------------------------------- tensorstore
def _tensorstore() -> Any:
    """The tensorstore module, refused in a child forked after the parent used it (tensorstore would abort there)."""
    global _owner_pid
    import tensorstore

    with _owner_lock:
        if _owner_pid is None:
            _owner_pid = os.getpid()
        elif _owner_pid != os.getpid():
            raise CohortError(
                "this process was forked after its parent had read a cohort, which the store cannot survive; start "
                "workers with multiprocessing_context='forkserver' or 'spawn'"
            )
    return tensorstore


def read_context(*, cache_bytes: int = 1 << 24, threads: int = 1) -> Any:
    """Limits for the readers of one process: a small cache (it keeps shard indices) and few threads.

    Loaders run one process a core, so more threads here only cost switches.
    """
    limit = {"limit": threads}
    return _tensorstore().Context(
        {
            "cache_pool": {"total_bytes_limit": cache_bytes},
            "data_copy_concurrency": limit,
            "file_io_concurrency": limit,
        }
    )


def open_array(location: Path | str, context: Any = None) -> Any:
    """Open a stored array for reading.

    Args:
        location: folder of the array, or a tensorstore kvstore URL (``gs://bucket/...``).

    Raises:
        CohortError: missing or damaged.
    """
    ts = _tensorstore()
    kvstore: Any = _files(location) if "://" not in str(location) else f"{location}/"
    specification = {
        "driver": "zarr3",
        "kvstore": kvstore,
        "recheck_cached_metadata": False,  # a stored array never changes
        "recheck_cached_data": False,
    }
    try:
        return ts.open(specification, open=True, read=True, context=context).result()
    except ValueError as error:
        raise CohortError(
            f"array '{location}' is missing or damaged ({_first_line(error)}); run `medssl cohort verify`"
        ) from error


def read_array(opened: Any) -> NDArray[Any]:
    """All values of an opened (and possibly sliced) array.

    Raises:
        CohortError: damaged on disk.
    """
    try:
        values: NDArray[Any] = opened.read().result()
    except ValueError as error:
        raise CohortError(
            f"the store is damaged ({_first_line(error)}); run `medssl cohort verify` and prepare it again"
        ) from error
    return values


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _codecs(
    dtype: np.dtype[Any], chunk: Sequence[int], profile: Profile, *, shuffle: bool = True
) -> list[dict[str, Any]]:
    endian = _LITTLE_ENDIAN if dtype.itemsize > 1 else _NO_ENDIAN
    blosc = {
        "cname": "lz4" if profile == "fast" else "zstd",
        "clevel": 5,
        "shuffle": "bitshuffle" if shuffle else "noshuffle",
        "typesize": dtype.itemsize,
        "blocksize": 0,
    }
    sharding = {
        "chunk_shape": list(chunk),
        "codecs": [endian, {"name": "blosc", "configuration": blosc}],
        "index_codecs": [_LITTLE_ENDIAN, _CRC],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]


def create_array(
    folder: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    *,
    chunk: Sequence[int],
    axes: Sequence[str],
    shard: Sequence[int] | None = None,
    fill: int = 0,
    profile: Profile = "fast",
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Create an array and return the open tensorstore. ``shard`` defaults to the whole array."""
    whole = shape if shard is None else shard
    metadata = {
        "shape": list(shape),
        "data_type": dtype.name,
        "fill_value": fill,
        "dimension_names": list(axes),
        "attributes": dict(attributes or {}),
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [max(math.ceil(n / c), 1) * c for n, c in zip(whole, chunk, strict=True)]},
        },
        # bytes of grey levels compress as they are; their bits apart do not
        "codecs": _codecs(dtype, chunk, profile, shuffle=list(axes) != list("ctyx")),
    }
    specification = {"driver": "zarr3", "kvstore": _files(folder), "metadata": metadata}
    return _tensorstore().open(specification, create=True, open=False, context=_write_context()).result()


def _files(folder: Path | str) -> dict[str, str]:
    """A folder for tensorstore, which refuses paths with ``..`` in them."""
    return {"driver": "file", "path": f"{Path(folder).resolve()}/"}


def _write_context() -> Any:
    limit = {"limit": 1}
    return _tensorstore().Context(
        {"cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": limit, "file_io_concurrency": limit}
    )


def write_group(folder: Path, attributes: Mapping[str, Any] | None = None) -> None:
    """Make a folder a Zarr group, so that any Zarr tool can walk the cohort."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"attributes": dict(attributes or {}), "node_type": "group", "zarr_format": 3})
    (folder / "zarr.json").write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------ one recording
def write_recording(folder: Path, prepared: Prepared, *, profile: Profile = "fast") -> None:
    """Write one recording's group: ``image``, ``mask.NAME`` and ``foreground``. Same input, same bytes."""
    image = prepared.image
    axes = prepared.axes
    write_group(folder)
    chunk = chunk_shape(image.shape, itemsize=image.dtype.itemsize, spacing_mm=prepared.spacing_mm, axes=axes)
    _write(folder / IMAGE, image, chunk=chunk, axes=axes, fill=prepared.fill, profile=profile)
    for name, mask in prepared.masks.items():
        _write(folder / mask_key(name), mask[None], chunk=(1, *chunk[1:]), axes=axes, profile=profile)
    foreground = Foreground.of(prepared)
    if foreground is not None:
        _write(
            folder / FOREGROUND,
            foreground.indices,
            chunk=(max(1, math.ceil(len(foreground.indices) / 8)) * 8,),
            axes=("point",),
            profile="archive",  # read once and kept: small matters more than fast
            attributes={"grid": list(foreground.grid), "groups": foreground.groups},
        )


def _write(folder: Path, array: NDArray[Any], *, chunk: Sequence[int], axes: Sequence[str], **options: Any) -> None:
    store = create_array(folder, array.shape, array.dtype, chunk=chunk, axes=axes, **options)
    if array.size:
        store.write(array).result()


def replace_folder(new: Path, final: Path) -> None:
    """Move a finished folder to its place in one step; what an interrupted run left there is removed first."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)
    new.replace(final)


@dataclass(frozen=True)
class Foreground:
    """Where to look: sampled voxels of the body and of every mask label.

    Attributes:
        grid: (Z, Y, X) of the recording.
        indices: (K,) row-major voxel indices, sorted within each group.
        groups: ``{"mask": name or "", "label": value or -1, "start": i, "stop": j}`` a run of ``indices``.
    """

    grid: tuple[int, ...]
    indices: NDArray[Any]
    groups: list[dict[str, Any]]

    @classmethod
    def of(cls, prepared: Prepared) -> Foreground | None:
        """Gather what the preparation sampled; None when it sampled nothing."""
        parts: list[tuple[str, int, NDArray[Any]]] = []
        if prepared.foreground is not None:
            parts.append(("", -1, prepared.foreground))
        for name in sorted(prepared.mask_foreground):
            parts += [(name, label, points) for label, points in sorted(prepared.mask_foreground[name].items())]
        if not parts:
            return None
        grid = prepared.image.shape[1:]
        dtype = np.dtype(np.uint32 if math.prod(grid) < 2**32 else np.uint64)
        runs: list[NDArray[Any]] = []
        groups: list[dict[str, Any]] = []
        start = 0
        for name, label, points in parts:
            columns = np.asarray(points, dtype=np.int64).reshape(-1, len(grid)).T
            flat = np.atleast_1d(np.ravel_multi_index(tuple(columns), grid))
            runs.append(np.sort(flat).astype(dtype))
            groups.append({"mask": name, "label": int(label), "start": start, "stop": start + len(flat)})
            start += len(flat)
        return cls(tuple(grid), np.concatenate(runs), groups)

    def points(self, mask: str | None = None, label: int | None = None) -> NDArray[np.int64]:
        """(K, n_axes) coordinates of the body (``mask`` None), of a mask, or of one label of it."""
        runs = [
            self.indices[g["start"] : g["stop"]]
            for g in self.groups
            if g["mask"] == (mask or "") and (label is None or g["label"] == label)
        ]
        flat = np.concatenate(runs).astype(np.int64) if runs else np.empty(0, np.int64)
        return np.stack(np.unravel_index(flat, self.grid), axis=1)


def read_foreground(location: Path | str, context: Any = None) -> Foreground | None:
    """The foreground coordinates of a recording's group; None when it has none."""
    folder = Path(str(location)) / FOREGROUND
    if "://" not in str(location) and not folder.is_dir():
        return None
    opened = open_array(f"{location}/{FOREGROUND}", context)
    attributes = opened.spec().to_json()["metadata"]["attributes"]
    return Foreground(tuple(attributes["grid"]), read_array(opened), list(attributes["groups"]))
