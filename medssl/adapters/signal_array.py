"""Signals in files that hold numbers and nothing else: NumPy, MATLAB, HDF5, delimited text, Parquet.

Such a file does not say how fast it was sampled, so the caller has to. Only a table with a regular time column
whose unit is plain (a name like ``time_ms``, or calendar times) can speak for itself.
"""

from __future__ import annotations

import csv
import gzip
import lzma
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids
from medssl.adapters.signal_common import Decoded
from medssl.errors import UnreadableRecording

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ARRAY_SUFFIXES", "TABLE_SUFFIXES", "load_arrays", "pick_array", "read_array", "read_table"]

ARRAY_SUFFIXES = frozenset({".npy", ".npz", ".mat", ".h5", ".hdf5"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".asc", ".parquet", ".pq"})

_NO_RATE = "the file does not state its sampling rate; declare it with rate_hz"
_TIME_NAME = re.compile(
    r"^(?:t$|(?:time|timestamps?|date_?time|timer|seconds|sec|ms|millis)(?![a-z0-9]))", re.IGNORECASE
)
_TIME_UNITS = (
    (re.compile(r"(?:^|[_\s(\[])(?:ms|msec|millis|milliseconds)[\])]?$", re.IGNORECASE), 1e-3),
    (re.compile(r"(?:^|[_\s(\[])(?:us|usec|microseconds)[\])]?$", re.IGNORECASE), 1e-6),
    (re.compile(r"(?:^|[_\s(\[])(?:s|sec|secs|second|seconds)[\])]?$", re.IGNORECASE), 1.0),
)


def read_array(
    path: Path,
    *,
    rate_hz: float | None = None,
    units: str | None = None,
    channels: Sequence[str] | None = None,
    key: str | None = None,
) -> list[Decoded]:
    """Reads a numeric array: (T,), (C, T) or (T, C) is one signal, three axes are trials of one.

    Time is the axis that is not the one of ``channels``; without channel names it is the longer axis, and a note
    says how the array was taken.

    Args:
        path: one of :data:`ARRAY_SUFFIXES`.
        rate_hz: sampling rate; required.
        units: what the values are in; empty when not given.
        channels: a name a channel.
        key: which array of ``.npz``, ``.mat``, ``.h5`` (a path like ``"group/name"`` for the latter).

    Raises:
        UnreadableRecording: no rate, several arrays and no key, not numeric, or no telling which axis is time.
    """
    arrays = load_arrays(path)
    numeric = {
        name: a for name, a in arrays.items() if a.dtype.kind in "iuf" and a.size > 1 and 1 <= a.squeeze().ndim <= 3
    }
    name, array = pick_array(numeric, arrays, key, path)
    if rate_hz is None:
        raise UnreadableRecording(_NO_RATE, path)
    array = array if array.ndim == 3 else np.atleast_1d(array.squeeze())
    trials = [array] if array.ndim < 3 else list(array)
    prefix = f"'{name}': " if len(numeric) > 1 else ""
    result = []
    for number, trial in enumerate(trials, start=1):
        data, note = _orient(trial, len(channels) if channels else None, path)
        labels = list(channels) if channels else [str(i) for i in range(len(data))]
        notes = [prefix + note] if note else []
        ids = Ids(trial=str(number)) if array.ndim == 3 else Ids()
        result.append(
            Decoded(data, labels, [units or ""] * len(data), rate_hz, named=channels is not None, ids=ids, notes=notes)
        )
    return result


def load_arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """Every array of a file of :data:`ARRAY_SUFFIXES`, by name; never unpickled.

    Raises:
        UnreadableRecording: the file is not of its format, or holds Python objects.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in {".npy", ".npz"}:
            with path.open("rb") as file:  # by itself NumPy leaves a damaged archive open
                loaded = np.load(file, allow_pickle=False)  # whichever of the two it is, whatever it is called
                return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        if suffix == ".mat":
            return _load_mat(path)
        return _load_hdf5(path, matlab=False)
    except MemoryError:
        raise
    except Exception as error:  # a foreign parser on a foreign file: anything can come
        text = " ".join(str(error).split())
        pickled = "it holds Python objects, which are never unpickled; save plain numbers" if "pickle" in text else text
        raise UnreadableRecording(f"not a readable {suffix} file: {pickled}", path) from error


def _load_mat(path: Path) -> Mapping[str, NDArray[Any]]:
    from scipy.io import loadmat

    with path.open("rb") as file:
        head = file.read(128)
    if b"MATLAB 7.3" in head or head[:8] == b"\x89HDF\r\n\x1a\n":
        return _load_hdf5(path, matlab=True)
    contents = loadmat(path)
    return {name: value for name, value in contents.items() if isinstance(value, np.ndarray) and name[:2] != "__"}


def _load_hdf5(path: Path, *, matlab: bool) -> Mapping[str, NDArray[Any]]:
    import h5py

    found: dict[str, NDArray[Any]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf" and not name.startswith("#"):
            # MATLAB writes column-major, so its axes come back reversed.
            found[name] = np.asarray(item[()]).T if matlab else np.asarray(item[()])

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def pick_array(
    numeric: Mapping[str, NDArray[Any]], every: Mapping[str, NDArray[Any]], key: str | None, path: Path
) -> tuple[str, NDArray[Any]]:
    """The array of that name, or the only numeric one.

    Raises:
        UnreadableRecording: none, or several and no ``key``; the reason lists what there is.
    """
    listing = ", ".join(f"{name} {value.shape} {value.dtype}" for name, value in every.items()) or "nothing"
    if key is not None and path.suffix.lower() != ".npy":
        if key not in numeric:
            raise UnreadableRecording(f"no numeric array '{key}' of one to three axes in it; it holds {listing}", path)
        return key, numeric[key]
    if not numeric:
        raise UnreadableRecording(f"no numeric array of one to three axes in it; it holds {listing}", path)
    if len(numeric) > 1:
        raise UnreadableRecording(f"it holds several arrays ({listing}); choose one with key", path)
    return next(iter(numeric.items()))


def _orient(array: NDArray[Any], n_channels: int | None, path: Path) -> tuple[NDArray[Any], str]:
    """(C, T), and a note where that took a decision."""
    if array.ndim == 1:
        array = array[None]
    rows, columns = array.shape
    if n_channels is not None:
        if n_channels not in (rows, columns):
            raise UnreadableRecording(f"{n_channels} channels were named, the array is {rows} x {columns}", path)
        if rows == columns:
            raise UnreadableRecording(f"no telling which axis of {rows} x {columns} is time", path)
        return (array, "") if rows == n_channels else (array.T, "read as (time, channel), as the channel names say")
    if rows == columns:
        raise UnreadableRecording(f"no telling which axis of {rows} x {columns} is time; name the channels", path)
    if rows < columns:
        return array, ""
    return array.T, f"read as (time, channel): of {rows} x {columns} the longer axis is taken as time"


def read_table(
    path: Path,
    *,
    rate_hz: float | None = None,
    units: str | None = None,
    channels: Sequence[str] | None = None,
) -> Decoded:
    """Reads a table with a row a sample and a column a channel.

    Args:
        path: one of :data:`TABLE_SUFFIXES`, text also compressed (``.gz``, ``.xz``).
        rate_hz: sampling rate; may be left out where a regular time column of plain unit tells it.
        units: what the values are in; empty when not given.
        channels: columns to keep when the table has a header, otherwise a name a column.

    Raises:
        UnreadableRecording: no rate, an irregular time column, or no numeric columns.
    """
    table, has_header = _load_table(path)
    notes: list[str] = []
    times = [column for column in table.columns if has_header and _TIME_NAME.match(str(column).strip())][:1]
    if times:
        rate_hz = _rate(table, str(times[0]), rate_hz, notes, path)
        table = table.drop(columns=times)
    if rate_hz is None:
        raise UnreadableRecording(_NO_RATE, path)
    if not has_header and channels is not None:
        if len(channels) != table.shape[1]:
            raise UnreadableRecording(
                f"{len(channels)} channels were named, the table has {table.shape[1]} columns", path
            )
        table.columns = list(channels)
    elif channels is not None:
        lacking = [name for name in channels if name not in table.columns]
        if lacking:
            raise UnreadableRecording(
                f"no column {', '.join(lacking)}; it has {', '.join(map(str, table.columns))}", path
            )
        table = table[list(channels)]
    table = _numeric(table, notes)
    if table.shape[1] == 0:
        raise UnreadableRecording("no numeric columns in it", path)
    values = table.to_numpy()
    values = values if values.dtype.kind in "iu" else values.astype(np.float32)
    labels = [str(column).strip() for column in table.columns]
    named = has_header or channels is not None
    return Decoded(values.T, labels, [units or ""] * len(labels), rate_hz, named=named, notes=notes)


def _load_table(path: Path) -> tuple[pd.DataFrame, bool]:
    import pandas as pd

    suffix = next((s for s in reversed(path.suffixes) if s.lower() in TABLE_SUFFIXES), ".csv").lower()
    try:
        if suffix in {".parquet", ".pq"}:
            return pd.read_parquet(path), True
        separator, decimal, has_header = _dialect(path, suffix)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            table = pd.read_csv(path, sep=separator, decimal=decimal, header=0 if has_header else None, comment="#")
        if not isinstance(table.index, pd.RangeIndex):  # pandas made leading cells an index, which shifts the columns
            raise ValueError("its rows have more cells than its first line")
    except (ValueError, OSError, EOFError, lzma.LZMAError, pd.errors.ParserError) as error:
        raise UnreadableRecording(f"not a readable table: {' '.join(str(error).split())}", path) from error
    return table.dropna(axis=1, how="all") if separator == r"\s+" else table, has_header


def _dialect(path: Path, suffix: str) -> tuple[str, str, bool]:
    """Separator, decimal sign, and whether the first line names the columns."""
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix.lower(), open)
    with opener(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        lines = [line for line in (file.readline(1 << 16) for _ in range(20)) if line.strip() and line[0] != "#"]
    if not lines:
        raise ValueError("it is empty")
    try:
        separator = "\t" if suffix == ".tsv" else csv.Sniffer().sniff("".join(lines), delimiters=",;\t").delimiter
    except csv.Error:
        separator = next((mark for mark in ",;\t" if mark in lines[0]), r"\s+")
    decimal = "," if separator == ";" and re.search(r"\d,\d", "".join(lines)) else "."
    cells = re.split(separator, lines[0].strip())
    return (
        separator,
        decimal,
        not all(_is_number(cell.strip(' "').replace(decimal, ".")) for cell in cells if cell.strip()),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numeric(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Numeric columns; cells that are not numbers become NaN, columns of text are left out, both with a note."""
    import pandas as pd

    keep: dict[Any, Any] = {}
    for column in table.columns:
        values = pd.to_numeric(table[column], errors="coerce")
        bad = int((values.isna() & table[column].notna()).sum())
        if len(values) and values.notna().sum() < 0.5 * len(values):
            notes.append(f"column '{column}' is not numeric and is left out")
            continue
        if bad:
            notes.append(f"column '{column}': {bad} cells are not numbers and are read as NaN")
        keep[column] = values
    return pd.DataFrame(keep)


def _rate(table: pd.DataFrame, column: str, declared: float | None, notes: list[str], path: Path) -> float | None:
    """The rate declared, or the one a regular time column of known unit tells."""
    seconds = _seconds(table, column)
    stated = _regular_rate(seconds) if seconds is not None and len(table) > 2 else None
    if declared is not None:
        notes.append(f"column '{column}' is time and is left out; the declared rate of {declared:g} Hz is used")
        if stated is not None and abs(stated - declared) > 0.02 * declared:
            raise UnreadableRecording(f"column '{column}' says {stated:g} Hz, rate_hz={declared:g} was declared", path)
        return declared
    if seconds is None:
        raise UnreadableRecording(f"column '{column}' is time of unknown unit; declare rate_hz", path)
    if stated is None:
        raise UnreadableRecording(f"column '{column}' is not regular in time; resample it or declare rate_hz", path)
    notes.append(f"sampling rate of {stated:g} Hz taken from column '{column}'")
    return stated


def _seconds(table: pd.DataFrame, column: str) -> NDArray[np.float64] | None:
    import pandas as pd

    values = table[column]
    if pd.api.types.is_numeric_dtype(values):
        scale = next((factor for pattern, factor in _TIME_UNITS if pattern.search(column.strip())), None)
        return None if scale is None else np.asarray(values, dtype=np.float64) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parsed = pd.to_datetime(values, errors="coerce")
    if parsed.empty or parsed.isna().any():
        return None
    return np.asarray((parsed - parsed.iloc[0]).dt.total_seconds(), dtype=np.float64)


def _regular_rate(seconds: NDArray[np.float64]) -> float | None:
    """Samples a second when every time stamp is within half a sample of a regular grid; else None."""
    span = seconds[-1] - seconds[0]
    if not np.isfinite(seconds).all() or span <= 0:
        return None
    step = span / (len(seconds) - 1)
    off_grid = np.abs(seconds - seconds[0] - step * np.arange(len(seconds))).max()
    # Averaging over the whole column leaves rounding of the stamps behind; ten digits are none of theirs.
    return float(f"{1.0 / step:.6g}") if off_grid <= 0.5 * step else None
