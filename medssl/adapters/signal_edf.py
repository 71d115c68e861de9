"""What an EDF/BDF header says that MNE does not pass on: units, rates a channel, the record times of EDF+D.

Field widths and offsets follow the EDF (Kemp et al., 1992) and EDF+ (Kemp and Olivan, 2003) specifications.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from medssl.adapters.signal_common import demographics
from medssl.errors import UnreadableRecording

__all__ = ["EdfHeader", "read_edf_header"]

_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")


@dataclass(frozen=True)
class EdfHeader:
    """The header of an EDF, EDF+ or BDF file.

    Attributes:
        labels, units: of the signal channels (annotation channels left out).
        rates_hz: of the signal channels; 0 where the record duration is 0.
        subtype: ``"EDF+C"``, ``"EDF+D"`` or what else the reserved field holds.
        n_records: data records the header announces, -1 when unknown.
        record_s: seconds a data record.
        starts_s: onset of each record of an EDF+D file, relative to the first; empty otherwise.
        meta: age and sex where the header states them.
        missing_bytes: how much shorter the file is than its header says.
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    rates_hz: tuple[float, ...]
    subtype: str
    n_records: int
    record_s: float
    starts_s: tuple[float, ...]
    meta: dict[str, Any]
    missing_bytes: int


def read_edf_header(path: Path) -> EdfHeader:
    """Reads the header (and, for EDF+D, the time stamp of every record).

    Raises:
        UnreadableRecording: not EDF/BDF, or cut inside its header.
    """
    with path.open("rb") as file:
        fixed = file.read(256)
        try:
            n_signals = int(fixed[252:256])
            n_records = int(fixed[236:244])
            record_s = float(fixed[244:252])
        except ValueError:
            raise UnreadableRecording("not an EDF/BDF file: its header has no valid counts", path) from None
        block = file.read(256 * n_signals)
    if n_signals < 1 or len(block) < 256 * n_signals:
        raise UnreadableRecording("the file ends inside its header", path)
    labels = _fields(block, n_signals, 0, 16)
    try:
        counts = [int(text) for text in _fields(block, n_signals, 216, 8)]
    except ValueError:
        raise UnreadableRecording("the EDF header has no valid number of samples a record", path) from None
    units = _fields(block, n_signals, 96, 8)
    signal = [i for i, label in enumerate(labels) if label not in _ANNOTATIONS]
    subtype = fixed[192:236].decode("latin-1").strip()
    width = 3 if fixed[:1] == b"\xff" else 2
    size = path.stat().st_size - 256 * (1 + n_signals)
    starts: tuple[float, ...] = ()
    if subtype[:5] in {"EDF+D", "BDF+D"}:
        starts = _record_starts(path, labels, counts, width, n_records)
    return EdfHeader(
        labels=tuple(labels[i] for i in signal),
        units=tuple(units[i] for i in signal),
        rates_hz=tuple(counts[i] / record_s if record_s > 0 else 0.0 for i in signal),
        subtype=subtype[:5],
        n_records=n_records,
        record_s=record_s,
        starts_s=starts,
        meta=_patient(fixed) if subtype[:5] in {"EDF+C", "EDF+D", "BDF+C", "BDF+D"} else {},
        missing_bytes=max(0, n_records * sum(counts) * width - size) if n_records > 0 else 0,
    )


def _fields(block: bytes, n: int, offset: int, width: int) -> list[str]:
    first = offset * n
    return [block[first + i * width : first + (i + 1) * width].decode("latin-1").strip(" \0") for i in range(n)]


def _record_starts(path: Path, labels: list[str], counts: list[int], width: int, n: int) -> tuple[float, ...]:
    """The first time stamp of every record, from the time-keeping annotations (EDF+ section 2.2.4)."""
    channel = next((i for i, label in enumerate(labels) if label in _ANNOTATIONS), None)
    if channel is None or n < 1:
        return ()
    record = sum(counts) * width
    head = 256 * (1 + len(labels))
    offset = sum(counts[:channel]) * width
    raw = np.memmap(path, dtype=np.uint8, mode="r", offset=head)
    starts = []
    for index in range(min(n, raw.size // record)):
        stamp = bytes(raw[index * record + offset :][: counts[channel] * width]).split(b"\x14")[0]
        if not re.fullmatch(rb"[+-]\d+(\.\d+)?", stamp):
            raise UnreadableRecording(f"EDF+D record {index} carries no time stamp", path)
        starts.append(float(stamp))
    return tuple(start - starts[0] for start in starts)


def _patient(fixed: bytes) -> dict[str, Any]:
    """Sex and age from the EDF+ patient field ``code sex birthdate name``; the name is never looked at."""
    parts = fixed[8:88].decode("latin-1").split()
    sex = parts[1] if len(parts) > 1 else None
    born = _edf_date(parts[2]) if len(parts) > 2 else None
    recorded = _start_date(fixed)
    age = (recorded - born).days / 365.25 if born and recorded else None
    # The EDF clipping date 30-DEC-1899 and 01-JAN of a round year are fillers often enough, but only the first is sure.
    if born and born.year < 1900:
        age = None
    return demographics(None if age is None else f"{age:.1f}", sex)


def _edf_date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%d-%b-%Y").date()
    except ValueError:
        return None


def _start_date(fixed: bytes) -> date | None:
    parts = fixed[88:168].decode("latin-1").split()
    if len(parts) > 1 and parts[0] == "Startdate" and (stated := _edf_date(parts[1])):
        return stated
    try:
        day, month, year = (int(part) for part in fixed[168:176].decode("latin-1").split("."))
        # EDF: two-digit years from 85 are the last century's.
        return date(year + (1900 if year >= 85 else 2000), month, day)
    except ValueError:
        return None
