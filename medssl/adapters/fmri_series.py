"""Ready region series of an fMRI run: text, NumPy, MATLAB, HDF5, and CIFTI ``ptseries``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.signal_array import ARRAY_SUFFIXES, load_arrays, pick_array
from medssl.adapters.text_numbers import TEXT_SUFFIXES, read_numbers
from medssl.errors import UnreadableRecording

__all__ = ["SERIES_SUFFIXES", "RegionSeries", "read_region_series"]

SERIES_SUFFIXES = frozenset(TEXT_SUFFIXES | ARRAY_SUFFIXES | {".ptseries.nii"})

_SECONDS = {"SECOND": 1.0}


class RegionSeries(NamedTuple):
    """Series of the regions of one atlas.

    Attributes:
        data: (N, T) float64.
        names: of the regions.
        tr_s: seconds between two volumes where the file says so, else None.
        notes: decisions taken while reading.
    """

    data: NDArray[np.float64]
    names: tuple[str, ...]
    tr_s: float | None
    notes: tuple[str, ...]


def read_region_series(path: Path, *, regions: int | None = None, key: str | None = None) -> RegionSeries:
    """Reads the region series of one run.

    Args:
        path: one of :data:`SERIES_SUFFIXES`; text also packed (``.gz``, ``.xz``).
        regions: how many the atlas has; tells which axis is time. Without it text has a row a volume, and of an array
            the longer axis is taken as time, with a note.
        key: which array of ``.npz``, ``.mat`` or HDF5.

    Raises:
        UnreadableRecording: not of its format, no series (a connectivity matrix, one volume), or of another atlas.
    """
    if path.name.lower().endswith(".nii"):
        return _checked(_cifti(path), regions, path)
    if _suffix(path) in TEXT_SUFFIXES:
        table = read_numbers(path)
        values, names, notes = table.values, table.names, list(table.notes)
        turned = len(values) == regions != values.shape[1]
        if turned:
            values, names = values.T, ()
            notes.append(f"read as a row a region: {regions} rows, as the atlas has regions")
    else:
        values, note = _array(path, regions, key)
        names, notes = (), [note] if note else []
    labels = names or tuple(f"#{i}" for i in range(1, values.shape[1] + 1))
    return _checked(RegionSeries(values.T, _distinct(labels), None, tuple(notes)), regions, path)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in {".gz", ".xz"}
    return suffixes[-2] if packed else suffixes[-1] if suffixes else ""


def _array(path: Path, regions: int | None, key: str | None) -> tuple[NDArray[np.float64], str]:
    """(T, N) and a note where the orientation took a decision."""
    arrays = load_arrays(path)
    numeric = {n: a for n, a in arrays.items() if a.dtype.kind in "iuf" and a.squeeze().ndim == 2}
    if not numeric and key is None:
        shapes = ", ".join(f"{n or 'array'} {a.shape}" for n, a in arrays.items()) or "nothing"
        raise UnreadableRecording(f"no array of regions and volumes in it; it holds {shapes}", path)
    array = np.asarray(pick_array(numeric, arrays, key, path)[1].squeeze(), dtype=np.float64)
    rows, columns = array.shape
    if regions in (rows, columns) and rows != columns:
        transposed = rows == regions
        return (array.T if transposed else array), ("read as regions x volumes" if transposed else "")
    if _is_connectivity(array):
        raise UnreadableRecording(f"a {rows} x {columns} matrix of connectivity, not series of regions", path)
    if rows == columns:
        raise UnreadableRecording(f"no telling which axis of {rows} x {columns} is time", path)
    if rows > columns:
        return array, f"of {rows} x {columns} the longer axis is taken as time"
    return array.T, f"read as regions x volumes: of {rows} x {columns} the longer axis is taken as time"


def _is_connectivity(array: NDArray[np.float64]) -> bool:
    """Square, symmetric, and with one value along the diagonal."""
    square = array.ndim == 2 and array.shape[0] == array.shape[1] > 1
    if not square or not np.allclose(array, array.T, rtol=0, atol=1e-6, equal_nan=True):
        return False
    diagonal = np.diag(array)[np.isfinite(np.diag(array))]
    return bool(diagonal.size == 0 or np.ptp(diagonal) < 1e-6)


def _cifti(path: Path) -> RegionSeries:
    image = _open_cifti(path)
    if len(image.shape) != 2:
        raise UnreadableRecording(f"{len(image.shape)} axes: series have volumes and parcels", path)
    time, parcels = image.header.get_axis(0), image.header.get_axis(1)
    kinds = f"{type(time).__name__} x {type(parcels).__name__}"
    if kinds == "SeriesAxis x BrainModelAxis":
        raise UnreadableRecording(
            "grayordinates (dtseries), not regions: take the mean of parcels first, for example with "
            "`wb_command -cifti-parcellate`, which gives a ptseries",
            path,
        )
    if kinds != "SeriesAxis x ParcelsAxis":
        raise UnreadableRecording(f"its axes are {kinds}, not volumes and parcels", path)
    factor = _SECONDS.get(str(time.unit).upper())
    names = _distinct([str(name) for name in parcels.name])
    data = np.asarray(image.get_fdata(dtype=np.float64)).T
    return RegionSeries(data, names, None if factor is None else float(time.step) * factor, ())


def _open_cifti(path: Path) -> Any:
    import warnings

    import nibabel
    from nibabel.cifti2.cifti2 import Cifti2Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities of damaged headers, which are refused below
            image = nibabel.load(path)
            if not isinstance(image, Cifti2Image):
                raise UnreadableRecording(f"a {type(image).__name__}, not CIFTI as its name says", path)
            image.get_fdata(dtype=np.float64)
    except UnreadableRecording:
        raise
    except Exception as error:  # a parser given damaged bytes may raise anything
        raise UnreadableRecording(f"not a readable CIFTI file: {' '.join(str(error).split())[:200]}", path) from error
    return image


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Repeated names are numbered, so that a region is found by its name."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(result)


def _checked(series: RegionSeries, regions: int | None, path: Path) -> RegionSeries:
    """The series, unless they are of another atlas or no series at all."""
    count, volumes = series.data.shape
    if regions is not None and count != regions:
        raise UnreadableRecording(f"{count} regions, the atlas has {regions}: made with another atlas", path)
    if volumes < 2 or count < 2:
        raise UnreadableRecording(f"{count} regions x {volumes} volumes are no series of regions", path)
    if not np.isfinite(series.data).any():
        raise UnreadableRecording("no finite number in it", path)
    if _is_connectivity(series.data):
        raise UnreadableRecording(f"a {count} x {volumes} matrix of connectivity, not series of regions", path)
    return series
