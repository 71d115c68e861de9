"""Text files that hold a matrix of numbers: ``.1D`` of AFNI and PCP, CSV, TSV, blanks; with or without a header.

pandas would take a header that begins with ``#`` for a comment and a trailing tab for a column, and say neither.
"""

from __future__ import annotations

import gzip
import lzma
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.errors import UnreadableRecording

__all__ = ["TEXT_SUFFIXES", "Numbers", "read_numbers"]

TEXT_SUFFIXES = frozenset({".1d", ".csv", ".tsv", ".txt", ".par", ".dat"})

_MISSING = {"", "nan", "na", "n/a", "none", "null"}
_LARGEST = 1 << 30
_DECIMAL_COMMAS = re.compile(r"\s*[-+]?\d+,\d+(?:[\t; ]+[-+]?\d+,\d+)+[\t; ]*$")


class Numbers(NamedTuple):
    """A matrix as it stands in a text file.

    Attributes:
        values: (rows, columns) float64; NaN where a cell says that there is no number.
        names: of the columns; empty without a header.
        notes: columns that were left out.
    """

    values: NDArray[np.float64]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def read_numbers(path: Path) -> Numbers:
    """Reads all numbers of a text file, also of one packed with gzip or xz.

    A header is a first line that is no row of numbers; names such as ``#1`` keep their sign. Columns of text beside
    the numbers (``File`` and ``Sub-brick`` of AFNI's ``3dROIstats``) and a column that counts the rows are left out.

    Raises:
        UnreadableRecording: no text, no numbers, rows of different length, decimal commas, or a word among the numbers.
    """
    lines = _lines(path)
    comments = [i for i, line in enumerate(lines) if line.lstrip().startswith("#")]
    body = [line for i, line in enumerate(lines) if i not in set(comments)]
    if not body:
        raise UnreadableRecording("no numbers in it", path)
    if any(_DECIMAL_COMMAS.match(line) for line in body[:2]):
        raise UnreadableRecording("numbers with decimal commas: write them with points", path)
    separator = _separator(body[0])
    rows = [_cells(line, separator) for line in body]
    header: Sequence[str] = ()
    if not all(_number(cell) is not None for cell in rows[0]):
        header, rows = [cell.strip('"') for cell in rows[0]], rows[1:]
    elif comments:
        header = _commented(lines[comments[-1]], separator, len(rows[0]))
    if not rows:
        raise UnreadableRecording("a header, and no numbers below it", path)
    return _matrix(rows, header, path)


def _lines(path: Path) -> list[str]:
    """Lines that are not blank."""
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            raw = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise UnreadableRecording("no such file", path) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UnreadableRecording(f"it cannot be read: {' '.join(str(error).split())}", path) from error
    if len(raw) > _LARGEST:
        raise UnreadableRecording("more than 1 GiB of text", path)
    if b"\0" in raw:
        raise UnreadableRecording("it is not text", path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableRecording("it is not text (UTF-8)", path) from error
    return [line for line in text.splitlines() if line.strip()]


def _separator(line: str) -> str | None:
    """The mark between cells; None for blanks."""
    return next((mark for mark in "\t;," if mark in line), None)


def _cells(line: str, separator: str | None) -> list[str]:
    cells = [cell.strip() for cell in line.split(separator)]
    return cells[:-1] if separator and len(cells) > 1 and not cells[-1] else cells  # a separator at the end


def _commented(line: str, separator: str | None, columns: int) -> list[str]:
    """The names in a line that begins with ``#``, if it has one a column: ``#1 #2 ...`` or ``# left right``."""
    for names in (_cells(line, separator), _cells(line.lstrip().lstrip("#"), separator)):
        if len(names) == columns:
            return names
    return []


def _number(cell: str) -> float | None:
    """The number, NaN for a cell that says there is none, None for a word."""
    if cell.lower() in _MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        return None


def _matrix(rows: Sequence[Sequence[str]], header: Sequence[str], path: Path) -> Numbers:
    width = len(header) or len(rows[0])
    ragged = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if ragged is not None:
        raise UnreadableRecording(f"row {ragged + 1} has {len(rows[ragged])} cells, not {width}", path)
    keep, notes = _numeric_columns(rows, header)
    if not keep:
        raise UnreadableRecording("no column of numbers in it", path)
    try:
        values = np.array([[row[i] for i in keep] for row in rows], dtype=np.float64)
    except ValueError:
        values = _by_cell(rows, keep, path)
    return Numbers(values, tuple(header[i] for i in keep) if header else (), tuple(notes))


def _numeric_columns(rows: Sequence[Sequence[str]], header: Sequence[str]) -> tuple[list[int], list[str]]:
    """Columns to keep; with a header those of words, and one without a name that counts the rows, are left out."""
    keep, notes = list(range(len(rows[0]))), []
    for i, name in enumerate(header):
        column = [row[i] for row in rows]
        counts = not name.strip('"') or name.lower().startswith("unnamed")
        if all(_number(cell) is None for cell in column):
            notes.append(f"column '{name}' is text and left out")
        elif counts and column == [str(k) for k in range(len(rows))]:
            notes.append("the first column counts the rows and is left out")
        elif name.lower() == "sub-brick":
            notes.append("column 'Sub-brick' counts the volumes and is left out")
        else:
            continue
        keep.remove(i)
    return keep, notes


def _by_cell(rows: Sequence[Sequence[str]], keep: Sequence[int], path: Path) -> NDArray[np.float64]:
    values = np.empty((len(rows), len(keep)))
    for r, row in enumerate(rows):
        for c, i in enumerate(keep):
            number = _number(row[i])
            if number is None:
                raise UnreadableRecording(f"'{row[i][:40]}' in row {r + 1}, column {i + 1} is no number", path)
            values[r, c] = number
    return values
