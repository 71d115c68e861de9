"""What every reader of a signal format shares: from decoded rows to a :class:`Recording`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.channels import preferred_unit, same_channel, unique_names, unit_name, volts_per
from medssl.adapters.recording import Event, Ids, Recording
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["Decoded", "demographics", "finish", "plausible_id", "select_rows"]

_VOLT_UNITS = ("nV", "uV", "mV", "V")


@dataclass
class Decoded:
    """A signal as a format's reader decoded it, before names and units are put in order.

    Attributes:
        data: (C, T) samples in ``units``; owned by the reader, may be changed in place.
        labels: channel labels as the file spells them.
        units: a unit a channel as the file spells it; ``""`` where it states none.
        rate_hz: samples a second.
        named: whether ``labels`` come from the file (False: they are numbers the reader made up).
        events, meta, ids, scanner, site, notes: as in :class:`Recording` (``meta`` are its ``labels``).
    """

    data: NDArray[Any]
    labels: Sequence[str]
    units: Sequence[str]
    rate_hz: float
    named: bool = True
    events: Sequence[Event] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    ids: Ids = field(default_factory=Ids)
    scanner: str = ""
    site: str = ""
    notes: Sequence[str] = ()


def select_rows(labels: Sequence[str], channels: Sequence[str] | None, path: str | Path) -> list[int]:
    """Rows of the wanted channels, in the order wanted; all rows when ``channels`` is None.

    Raises:
        UnreadableRecording: a wanted channel is not in the file.
    """
    if channels is None:
        return list(range(len(labels)))
    names, _ = unique_names(labels)
    rows = []
    for want in channels:
        exact = [i for i, (name, label) in enumerate(zip(names, labels, strict=True)) if want in (name, label)]
        found = exact or [i for i, name in enumerate(names) if same_channel(name, want)]
        if not found:
            raise UnreadableRecording(f"channel '{want}' is not among its channels: {', '.join(names)}", path)
        rows.append(found[0])
    return rows


def finish(
    decoded: Decoded,
    path: str | Path,
    *,
    sha256: str,
    rate_hz: float | None = None,
    units: str | None = None,
    channels: Sequence[str] | None = None,
) -> Recording:
    """Selects channels, gives them their one name, converts voltages, and checks what no format may break.

    Args:
        decoded: the signal; its ``data`` may be changed in place.
        path: the source as given.
        sha256: digest of the source's bytes.
        rate_hz: the rate the caller declared; must agree with the file's own.
        units: a voltage unit all voltages are handed over in; None for mV (ECG) and uV (the rest).
        channels: those to keep, in this order.

    Raises:
        UnreadableRecording: no samples, no valid rate, a rate that differs from the one declared, a missing channel.
        ConfigError: ``units`` is not a voltage.
    """
    if decoded.data.ndim != 2 or 0 in decoded.data.shape:
        raise UnreadableRecording("no samples in it", path)
    if not np.isfinite(decoded.rate_hz) or decoded.rate_hz <= 0:
        raise UnreadableRecording(f"sampling rate {decoded.rate_hz} Hz is not possible", path)
    if rate_hz is not None and abs(rate_hz - decoded.rate_hz) > 1e-3 * decoded.rate_hz:
        raise UnreadableRecording(
            f"the file says {decoded.rate_hz:g} Hz, rate_hz={rate_hz:g} was declared; leave rate_hz out", path
        )
    rows = select_rows(decoded.labels, channels, path)
    names, notes = unique_names([decoded.labels[i] for i in rows])
    data = decoded.data if rows == list(range(len(decoded.labels))) else decoded.data[rows]
    stated = [unit_name(decoded.units[i]) for i in rows]
    data, final = _convert(data, names, stated, units)
    kept = {decoded.labels[i] for i in rows}
    return Recording(
        data=data,
        axes="ct",
        rate_hz=float(decoded.rate_hz),
        channels=names,
        units=final,
        ids=decoded.ids,
        labels=dict(decoded.meta),
        events=_rename_events(decoded.events, dict(zip((decoded.labels[i] for i in rows), names, strict=True)), kept),
        scanner=decoded.scanner,
        site=decoded.site,
        source=str(path),
        source_sha256=sha256,
        notes=(*decoded.notes, *notes) if decoded.named else tuple(decoded.notes),
    )


def _convert(
    data: NDArray[Any], names: Sequence[str], stated: Sequence[str], units: str | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Scales voltage rows to their unit; leaves integers alone when nothing has to be scaled."""
    target = unit_name(units) if units else None
    if target is not None and volts_per(target) is None and any(volts_per(unit) for unit in stated):
        raise ConfigError(f"units '{units}' is not a voltage; use one of {', '.join(_VOLT_UNITS)}")
    final: list[str] = []
    factors = np.ones(len(names))
    for row, (name, unit) in enumerate(zip(names, stated, strict=True)):
        have = volts_per(unit)
        wanted = (target or preferred_unit(name, unit)) if have else unit
        want = volts_per(wanted)
        if have and want:
            factors[row] = have / want
        final.append(wanted)
    scaled: list[int] = np.flatnonzero(factors != 1.0).tolist()
    if scaled or data.dtype == np.float64:
        data = np.ascontiguousarray(data, dtype=np.float32)
    for row in scaled:
        data[row] *= np.float32(factors[row])
    return np.ascontiguousarray(data), tuple(final)


def _rename_events(events: Sequence[Event], names: Mapping[str, str], kept: set[str]) -> tuple[Event, ...]:
    """Events in order of time, their channels under the new names; those of channels left out are left out."""
    result = [
        Event(e.onset_s, e.duration_s, e.kind, e.value, names.get(e.channel, e.channel))
        for e in events
        if not e.channel or e.channel in kept
    ]
    return tuple(sorted(result, key=lambda e: e.onset_s))


def demographics(age: object = None, sex: object = None) -> dict[str, Any]:
    """Age in years and sex ``"M"``/``"F"`` where they are plausible; what is not is left out.

    >>> demographics("069Y", "female"), demographics("-1", "Unknown"), demographics("18M", None)
    ({'age': 69.0, 'sex': 'F'}, {}, {'age': 1.5})
    """
    result: dict[str, Any] = {}
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(y|m|w|d)?[a-z]*\s*", str(age), re.IGNORECASE)
    if match:
        years = float(match[1]) / {"m": 12.0, "w": 52.18, "d": 365.25}.get((match[2] or "y").lower(), 1.0)
        # De-identified sets write 300 for "over 89" and -1 (or 0) for "unknown".
        if 0 < years <= 120:
            result["age"] = years
    letter = {"m": "M", "f": "F"}.get(str(sex or "").strip().lower()[:1])
    if letter and re.fullmatch(r"m|f|(fe)?male", str(sex).strip(), re.IGNORECASE):
        result["sex"] = letter
    return result


def plausible_id(text: object) -> str:
    """A patient identifier as the file states it; ``""`` for blanks and the fillers scrubbed files carry.

    >>> plausible_id("SBJ-123"), plausible_id("000000000"), plausible_id("anonymous")
    ('SBJ-123', '', '')
    """
    value = str(text or "").strip()
    filler = not value.strip("0-. ") or value.lower() in {"x", "none", "unknown", "anonymous", "anonymized", "n/a"}
    return "" if filler else value
