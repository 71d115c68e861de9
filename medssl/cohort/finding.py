"""What recipes share when they look for files: stable order, tables, cells."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from medssl.adapters.recording import Rejected
from medssl.errors import RecipeError

__all__ = [
    "cell",
    "files_below",
    "in_pairs",
    "is_companion",
    "last_held_out",
    "numbers",
    "read_rows",
    "require_folder",
    "rows_by",
    "text",
]

Key = TypeVar("Key", int, str)

_EMPTY = {"", "n/a", "na", "nan", "none", "null"}
_LISTS = re.compile(r"\s*[,;|]\s*")
# A header, and the suffixes of the files that belong to it and are read with it.
_COMPANIONS = {
    ".hea": (".dat", ".mat", ".atr"),
    ".vhdr": (".eeg", ".vmrk", ".dat"),
    ".set": (".fdt",),
    ".hdr": (".img", ".img.gz"),
    ".mhd": (".raw", ".zraw"),
    ".nhdr": (".raw", ".raw.gz"),
}


def require_folder(source: Path, recipe: str) -> Path:
    """The folder itself.

    Raises:
        RecipeError: it is not there, or is a file.
    """
    if not source.is_dir():
        what = "is a file" if source.is_file() else "does not exist"
        raise RecipeError(f"'{source}' {what}; recipe '{recipe}' wants a folder")
    return source


def files_below(source: Path, suffixes: Iterable[str] = ()) -> list[Path]:
    """All files below a folder in an order that is the same on every machine; hidden files and folders left out.

    Args:
        source: where to look.
        suffixes: what a file name must end with, any case; all files when empty.
    """
    wanted = tuple(s.lower() for s in suffixes)
    found = [
        path
        for path in source.rglob("*")
        if (not wanted or path.name.lower().endswith(wanted))
        and not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(source).parts)
        and path.is_file()
    ]
    return sorted(found, key=lambda p: _natural(p.relative_to(source).as_posix()))


def _natural(name: str) -> list[tuple[int, str]]:
    """``case_2`` before ``case_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def is_companion(path: Path) -> bool:
    """Whether a file is read along with a header beside it (``100.dat`` with ``100.hea``)."""
    name = path.name.lower()
    for header, companions in _COMPANIONS.items():
        for suffix in companions:
            if name.endswith(suffix) and path.with_name(path.name[: -len(suffix)] + header).is_file():
                return True
    return False


def in_pairs(
    images: Mapping[str, Path], label_maps: Mapping[str, Path], *, require: bool
) -> Iterator[tuple[str, Path, Path | None] | Rejected]:
    """Images with the label maps of the same case, in the images' order; then what is left over.

    Args:
        images: case → file. label_maps: case → file.
        require: reject an image that has no label map; otherwise it comes with None.
    """
    for case, image in images.items():
        label_map = label_maps.get(case)
        if label_map is None and require:
            yield Rejected(str(image), "image without label map")
        else:
            yield case, image, label_map
    for case, label_map in label_maps.items():
        if case not in images:
            yield Rejected(str(label_map), "label map without image")


def numbers(ranges: str) -> frozenset[int]:
    """The whole numbers of a list as papers print it.

    >>> sorted(numbers("1-3 12"))
    [1, 2, 3, 12]
    """
    ends = [part.partition("-")[::2] for part in ranges.split()]
    return frozenset(n for first, last in ends for n in range(int(first), int(last or first) + 1))


def last_held_out(classes: Mapping[Key, str | None], counts: Mapping[str, int]) -> dict[Key, str]:
    """A split that some papers take: in order, the last of each class are for testing, as many before for validation.

    Args:
        classes: patient → class; those of other classes, or of none, are in no part.
        counts: class → how many are the last.

    >>> last_held_out({1: "a", 2: "a", 3: "a", 4: "b", 5: None}, {"a": 1, "b": 1})
    {1: 'train', 2: 'val', 3: 'test', 4: 'test'}
    """
    split: dict[Key, str] = {}
    for name, count in counts.items():
        for place, patient in enumerate(sorted((p for p, c in classes.items() if c == name), reverse=True)):
            split[patient] = "test" if place < count else "val" if place < 2 * count else "train"
    return {patient: split[patient] for patient in classes if patient in split}


def rows_by(file: Path, key: str) -> dict[str, dict[str, str | None]]:
    """Rows of a table that may be missing, by the value of one column; rows without that value are left out.

    Raises:
        RecipeError: as :func:`read_rows`, or the table has no such column.
    """
    rows = read_rows(file) if file.is_file() else []
    if rows and key not in rows[0]:
        raise RecipeError(f"table '{file}' has no column '{key}'; there are {', '.join(rows[0])}")
    return {value: row for row in rows if (value := row[key])}


def read_rows(file: Path) -> list[dict[str, str | None]]:
    """Rows of a .csv, .tsv or .parquet table as text; empty cells and ``n/a`` become None.

    Raises:
        RecipeError: missing, of another kind, not UTF-8, or with a header that names a column twice.
    """
    try:
        rows = _parquet_rows(file) if file.suffix.lower() == ".parquet" else _text_rows(file)
    except FileNotFoundError as error:
        raise RecipeError(f"table '{file}' does not exist") from error
    except IsADirectoryError as error:
        raise RecipeError(f"'{file}' is a folder; give the table file itself") from error
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise RecipeError(f"table '{file}' cannot be read: {error}") from error
    return [{name: text(value) for name, value in row.items()} for row in rows]


def _text_rows(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() in {".tsv", ".txt"} else ",")
        header = [name.strip() for name in reader.fieldnames or ()]
        if len(set(header)) < len(header):
            raise ValueError(f"a column stands in the header twice: {', '.join(header)}")
        reader.fieldnames = header
        rows = list(reader)
    ragged = next((i for i, row in enumerate(rows, start=2) if None in row), None)
    if ragged:
        raise ValueError(f"line {ragged} has more cells than the header")
    return rows


def _parquet_rows(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def text(value: Any) -> str | None:
    """A cell as text without outer blanks; None where it says nothing. Lists are joined by commas."""
    if isinstance(value, list | tuple):
        return ",".join(str(v) for v in value)
    stripped = "" if value is None else str(value).strip()
    return None if stripped.lower() in _EMPTY else stripped


def cell(value: str | None, *, several: bool = False) -> Any:
    """A label from a cell: a number where it reads as one, else its text; a list of texts for ``several``.

    >>> cell("34.5"), cell("M"), cell(None), cell("AF, PVC", several=True)
    (34.5, 'M', None, ['AF', 'PVC'])
    """
    if value is None:
        return None
    if several:
        return [part for part in _LISTS.split(value) if part]
    try:
        return float(value)
    except ValueError:
        return value
