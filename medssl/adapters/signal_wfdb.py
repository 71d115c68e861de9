"""WFDB records (PhysioNet): header, signal files of every storage format, beat and rhythm annotations."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Event
from medssl.adapters.signal_common import Decoded, demographics, select_rows
from medssl.errors import MedSSLError, UnreadableRecording

__all__ = ["BEAT_SYMBOLS", "read_wfdb", "wfdb_files"]

BEAT_SYMBOLS = frozenset("NLRBAaJSVrFejnE/fQ?")
"""Annotation symbols that mark a beat (PhysioBank); ``+`` is a rhythm change, all others are remarks."""


def read_wfdb(header_path: Path, *, channels: Sequence[str] | None = None) -> Decoded:
    """Decodes the record of a ``.hea`` file, with the annotations of its ``.atr`` file where there is one.

    Samples marked invalid are NaN. Where channels have several samples a frame they are averaged to the frame
    rate (and a note says so), unless all the wanted ``channels`` share one number of samples a frame: then these
    keep their own rate.

    Raises:
        UnreadableRecording: layout headers, missing segments or signal files, damaged contents.
    """
    import wfdb

    record_name = str(header_path.with_suffix(""))
    try:
        header = wfdb.rdheader(record_name, rd_segments=False)
        _refuse_incomplete(header, header_path)
        decoded = _multi(record_name) if _segments(header) else _single(header, record_name, channels)
        decoded.meta = _meta(header.comments or [])
        decoded.events = _events(header_path, float(header.fs), decoded.data.shape[1] / decoded.rate_hz)
        return decoded
    except (MedSSLError, MemoryError):
        raise
    except Exception as error:  # a foreign parser on a foreign file: anything can come
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise UnreadableRecording(f"wfdb cannot read it: {text}", header_path) from error


def wfdb_files(header_path: Path) -> list[Path]:
    """The files a record consists of, header first, then its segments and signals, then ``.atr``."""
    import wfdb

    header = wfdb.rdheader(str(header_path.with_suffix("")), rd_segments=False)
    files = [header_path]
    for name in _segments(header):
        if name != "~":
            files += [f for f in wfdb_files(header_path.with_name(f"{name}.hea")) if f.suffix != ".atr"]
    files += [header_path.with_name(name) for name in dict.fromkeys(getattr(header, "file_name", None) or [])]
    annotations = header_path.with_suffix(".atr")
    return [f for f in (*files, annotations) if f.is_file()]


def _segments(header: Any) -> list[str]:
    return list(getattr(header, "seg_name", None) or [])


def _refuse_incomplete(header: Any, path: Path) -> None:
    segments = _segments(header)
    missing = [name for name in segments if name != "~" and not path.with_name(f"{name}.hea").is_file()]
    if missing:
        what = (
            f"segment {missing[0]} is"
            if len(missing) == 1
            else f"segments {missing[0]} and {len(missing) - 1} more are"
        )
        raise UnreadableRecording(f"{what} missing beside it, of {len(segments)} in all", path)
    if segments:
        return
    files = list(getattr(header, "file_name", None) or [])
    if not files or not header.n_sig:
        raise UnreadableRecording("the header lists no signals", path)
    if set(files) == {"~"}:
        raise UnreadableRecording("a layout header without samples; read the multi-segment header instead", path)
    absent = [name for name in dict.fromkeys(files) if not path.with_name(name).is_file()]
    if absent:
        raise UnreadableRecording(f"signal file {absent[0]} is missing beside it", path)


def _multi(record_name: str) -> Decoded:
    import wfdb

    record = wfdb.rdrecord(record_name, return_res=32, m2s=True)
    spans = getattr(record, "samps_per_frame", None) or [1]
    notes = _averaged(list(record.sig_name), [s or 1 for s in spans], float(record.fs)) if len(set(spans)) > 1 else []
    return _rows(record, list(range(record.n_sig)), notes)


def _single(header: Any, record_name: str, channels: Sequence[str] | None) -> Decoded:
    import wfdb

    names = _labels(header.sig_name, header.n_sig)
    rows = select_rows(names, channels, record_name)
    spans = [span or 1 for span in header.samps_per_frame or [1] * header.n_sig]
    wanted = {spans[i] for i in rows}
    if wanted != {1} and len(wanted) == 1:
        return _own_rate(record_name, rows, wanted.pop())
    record = wfdb.rdrecord(record_name, channels=rows, return_res=32)
    notes = _averaged(names, spans, float(record.fs)) if wanted != {1} else []
    return _rows(record, list(range(len(rows))), notes)


def _own_rate(record_name: str, rows: list[int], span: int) -> Decoded:
    """Channels that all have ``span`` samples a frame, at ``span`` times the frame rate."""
    import wfdb

    record = wfdb.rdrecord(record_name, channels=rows, return_res=32, smooth_frames=False)
    data = np.stack([np.asarray(signal, dtype=np.float32) for signal in record.e_p_signal])
    return Decoded(
        data=data,
        labels=_labels(record.sig_name, len(rows)),
        units=list(record.units),
        rate_hz=float(record.fs) * span,
        notes=[f"{span} samples a frame, kept at their own rate of {record.fs * span:g} Hz"],
    )


def _rows(record: Any, rows: list[int], notes: list[str]) -> Decoded:
    signal: NDArray[Any] = record.p_signal
    return Decoded(
        data=np.ascontiguousarray(signal.T, dtype=np.float32),
        labels=_labels(record.sig_name, len(rows)),
        units=list(record.units),
        rate_hz=float(record.fs),
        notes=notes,
    )


def _labels(names: Sequence[str | None] | None, count: int) -> list[str]:
    return [name or f"signal {i}" for i, name in enumerate(names or [None] * count)]


def _averaged(names: Sequence[str], spans: Sequence[int], rate_hz: float) -> list[str]:
    fast = [f"'{n}' ({rate_hz * s:g} Hz)" for n, s in zip(names, spans, strict=True) if s > 1]
    return [f"averaged to the frame rate of {rate_hz:g} Hz: {', '.join(fast)}"] if fast else []


def _events(header_path: Path, rate_hz: float, duration_s: float) -> list[Event]:
    """Beats, rhythms (lasting until the next one) and remarks of the ``.atr`` file."""
    if not header_path.with_suffix(".atr").is_file():
        return []
    import wfdb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annotation = wfdb.rdann(str(header_path.with_suffix("")), "atr")
    # Annotations may count at their own clock, stated in the .atr file.
    times = np.asarray(annotation.sample, dtype=np.float64) / float(annotation.fs or rate_hz)
    notes = [str(text or "").replace("\x00", "").strip() for text in annotation.aux_note]
    rhythm_at = [i for i, symbol in enumerate(annotation.symbol) if symbol == "+" and notes[i]]
    until = dict(zip(rhythm_at, [*(times[i] for i in rhythm_at[1:]), duration_s], strict=True)) if rhythm_at else {}
    events = []
    for i, symbol in enumerate(annotation.symbol):
        onset = float(times[i])
        if symbol in BEAT_SYMBOLS:
            events.append(Event(onset, 0.0, "beat", symbol))
        elif i in until:
            events.append(Event(onset, max(0.0, float(until[i]) - onset), "rhythm", notes[i]))
        else:
            events.append(Event(onset, 0.0, "annotation", notes[i] or symbol))
    return events


_PAIR = re.compile(r"<?\b(age|sex|gender)\b>?\s*:\s*(-?[\w.]+)", re.IGNORECASE)
_MIT_LINE = re.compile(r"^\s*(-?\d+)\s+([MF])\b")
_DIAGNOSES = re.compile(r"^\s*Dx\s*:\s*(\S.*)$", re.IGNORECASE)


def _meta(comments: Sequence[str]) -> dict[str, Any]:
    """Age, sex and diagnoses from the comment lines, in the three spellings PhysioNet's collections use."""
    age: str | None = None
    sex: str | None = None
    result: dict[str, Any] = {}
    for line in comments:
        if age is None and sex is None and (match := _MIT_LINE.match(line)):
            age, sex = match[1], match[2]
        for name, value in _PAIR.findall(line):
            if name.lower() == "age":
                age = value
            else:
                sex = value
        if match := _DIAGNOSES.match(line):
            result["dx"] = [code.strip() for code in match[1].split(",") if code.strip()]
    return {**demographics(age, sex), **result}
