"""Every signal format that MNE reads, as decoded rows with the unit each channel was stored in."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.channels import unit_name, volts_per
from medssl.adapters.recording import Event, Ids
from medssl.adapters.signal_common import Decoded, demographics, select_rows
from medssl.adapters.signal_edf import EdfHeader, read_edf_header
from medssl.errors import MedSSLError, UnreadableRecording

__all__ = ["MNE_FOLDERS", "MNE_SUFFIXES", "read_with_mne"]

MNE_SUFFIXES = frozenset(
    {".edf", ".bdf", ".gdf", ".vhdr", ".ahdr", ".fif", ".fif.gz", ".set", ".cnt", ".data", ".eeg", ".lay", ".nxe"}
    | {".rec", ".cdt", ".cdt.dpa", ".dap", ".rs3", ".nedf", ".ns3", ".sqd", ".con"}
)
MNE_FOLDERS = frozenset({".mff", ".mefd", ".ds"})

_CHUNK_VALUES = 1 << 22  # float64 values decoded at a time, so that a night of EEG never exists twice
_SLEEP_STAGE = re.compile(r"^sleep[ _]stage|^stage[ _-]", re.IGNORECASE)
# Warnings that say nothing about the samples: filters, electrode positions, dates, MNE's own naming of duplicates.
_HARMLESS = re.compile(
    r"(high|low)pass|software filter|not unique|measurement date|montage|digiti[sz]|fiducial|position|"
    r"naming conventions|same electrode|coordinate|head radius|deprecat|Cutoff",
    re.IGNORECASE,
)
_FIFF_UNITS = {107: "V", 112: "T", 201: "T/m", 117: "degC"}


def read_with_mne(path: Path, *, channels: Sequence[str] | None = None) -> list[Decoded]:
    """Decodes a file of one of :data:`MNE_SUFFIXES` (or a folder of :data:`MNE_FOLDERS`).

    An EDF+D file with gaps gives one signal for each uninterrupted stretch; every other file gives one.

    Raises:
        UnreadableRecording: MNE cannot read it, or it holds no signals.
    """
    suffix = path.suffix.lower()
    header = read_edf_header(path) if suffix in {".edf", ".bdf"} else None
    if header is not None and not header.labels:
        raise UnreadableRecording("annotations only, no signals", path)
    options: dict[str, Any] = {}
    if header is not None and channels is not None:
        rows = select_rows(header.labels, channels, path)
        # Only what is wanted: channels of other rates would make MNE resample for nothing.
        options["include"] = [header.labels[i] for i in rows]
        header = _only(header, set(options["include"]))
    with _guard(path), _quiet() as caught:
        raw = _open(path, suffix, options)
        labels = list(header.labels) if header and len(header.labels) == len(raw.ch_names) else list(raw.ch_names)
        rows = sorted(set(select_rows(labels, channels, path)))
        data, units = _samples(raw, rows, labels, header)
        events = _events(raw, path, gaps=header is not None and bool(_jumps(header).size))
    decoded = Decoded(
        data=data,
        labels=[labels[i] for i in rows],
        units=units,
        rate_hz=float(raw.info["sfreq"]),
        events=events,
        meta=header.meta if header else _meta(raw),
        notes=(*_notes(raw, header, suffix), *_warned(caught)),
    )
    return _stretches(decoded, header) if header and header.starts_s else [decoded]


@contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Collects what MNE warns about instead of printing it."""
    import mne

    with warnings.catch_warnings(record=True) as caught, mne.use_log_level("WARNING"):
        warnings.simplefilter("always")
        yield caught


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Turns whatever MNE raises on a damaged file into a refusal with its reason."""
    try:
        yield
    except (MemoryError, MedSSLError):
        raise
    except Exception as error:  # a foreign parser on a foreign file: anything can come
        raise UnreadableRecording(_reason(error), path) from error


def _open(path: Path, suffix: str, options: dict[str, Any]) -> Any:
    import mne

    if suffix == ".rec":  # EDF under the name that some sleep laboratories give it, which MNE takes from no path
        with path.open("rb") as file:
            return mne.io.read_raw_edf(file, preload=True, verbose="WARNING", **options)
    if suffix == ".data":
        options = {**options, "ch_type": "eeg"}
    if suffix == ".eeg" and path.with_suffix(".vhdr").exists():
        path = path.with_suffix(".vhdr")
    try:
        return mne.io.read_raw(path, preload=False, verbose="WARNING", **options)
    except UnicodeDecodeError:
        if suffix not in {".edf", ".bdf"}:
            raise
        # Annotations of files from before EDF+ became UTF-8 are Latin-1.
        return mne.io.read_raw(path, preload=False, verbose="WARNING", encoding="latin1", **options)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"a file it refers to is missing: {Path(error.filename or str(error)).name}"
    text = " ".join(str(error).split())
    if "epochs" in text.lower() and "trial" in text.lower():
        return "holds epochs, not a continuous recording; export the continuous data"
    return f"MNE cannot read it: {text[:300] or type(error).__name__}"


def _samples(
    raw: Any, rows: list[int], labels: list[str], header: EdfHeader | None
) -> tuple[NDArray[np.float32], list[str]]:
    """(C, T) float32 and the unit of each row, in the unit the file states rather than MNE's SI."""
    n_times = int(raw.n_times)
    scaled = [_unit(raw, row, labels, header) for row in rows]
    factor = np.array([factor for _, factor in scaled])[:, None]
    data = np.empty((len(rows), n_times), dtype=np.float32)
    # MNE interpolates slower channels piece by piece, so a file of mixed rates is decoded in one piece.
    mixed = header is not None and len(set(header.rates_hz)) > 1
    step = n_times if mixed else max(1, _CHUNK_VALUES // len(rows))
    for start in range(0, n_times, step):
        stop = min(n_times, start + step)
        np.multiply(raw[rows, start:stop][0], factor, out=data[:, start:stop], casting="same_kind")
    return data, [unit for unit, _ in scaled]


def _unit(raw: Any, row: int, labels: list[str], header: EdfHeader | None) -> tuple[str, float]:
    """The unit a channel is stored in and the factor from MNE's value to it."""
    kind = raw.get_channel_types(picks=[row])[0]
    if kind == "stim":
        return "", 1.0
    scales = raw._raw_extras[0].get("units") if isinstance(raw._raw_extras[0], dict) else None
    if scales is not None and len(scales) == len(raw.ch_names):  # EDF, BDF, GDF
        scale = float(scales[row])
        if header is not None:
            return header.units[row], 1.0 / scale
        return {1e-6: "uV", 1e-3: "mV"}.get(scale, ""), 1.0 / scale
    stated = unit_name((raw._orig_units or {}).get(raw.ch_names[row], ""))
    if stated:
        volts = volts_per(stated)
        if volts:
            return stated, 1.0 / volts
        siemens = stated in {"µS", "uS"}
        return ("S" if siemens else stated), 1.0
    return _FIFF_UNITS.get(int(raw.info["chs"][row]["unit"]), ""), 1.0


def _events(raw: Any, path: Path, *, gaps: bool) -> list[Event]:
    """MNE's annotations, in seconds from the first sample."""
    import mne

    # MNE drops annotations past the end of the concatenated samples; with gaps those are genuine.
    annotations = mne.read_annotations(path) if gaps else raw.annotations
    shift = raw.first_time if not gaps and annotations.orig_time is not None else 0.0
    events = []
    for annotation in annotations:
        value = str(annotation["description"])
        names: tuple[str, ...] = tuple(annotation.get("ch_names", None) or ())
        events.append(
            Event(
                onset_s=float(annotation["onset"]) - float(shift),
                duration_s=float(annotation["duration"]),
                kind="stage" if _SLEEP_STAGE.search(value) else "annotation",
                value=value,
                channel=names[0] if len(names) == 1 else "",
            )
        )
    return events


def _meta(raw: Any) -> dict[str, Any]:
    """Age and sex where the file states them; FIF: 1 is male, 2 is female."""
    subject = raw.info.get("subject_info") or {}
    sex = {1: "M", 2: "F"}.get(int(subject.get("sex") or 0))
    born, measured = subject.get("birthday"), raw.info.get("meas_date")
    age = None
    if born is not None and measured is not None and born.year >= 1900:
        age = f"{(measured.date() - born).days / 365.25:.1f}"
    return demographics(age, sex)


def _notes(raw: Any, header: EdfHeader | None, suffix: str) -> list[str]:
    notes = []
    if suffix == ".set":
        notes.append("EEGLAB states no unit; microvolts are assumed")
    if suffix == ".gdf" and not all(np.isin(raw._raw_extras[0].get("units", 1.0), (1e-6, 1e-3))):
        notes.append("some channels state no voltage unit; their values are as stored")
    if header is None:
        return notes
    rate = float(raw.info["sfreq"])
    slow = [f"'{n}' ({r:g} Hz)" for n, r in zip(header.labels, header.rates_hz, strict=True) if abs(r - rate) > 1e-6]
    if slow:
        notes.append(f"channels of a lower rate are upsampled to {rate:g} Hz: {', '.join(slow)}")
    if header.missing_bytes:
        notes.append(f"the file is {header.missing_bytes} bytes shorter than its header says; read to its end")
    if header.n_records == -1:
        notes.append("the header leaves the number of records open; read to the end of the file")
    return notes


def _warned(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """What MNE warned about, once each, unless it concerns only its own bookkeeping."""
    texts = (
        " ".join(str(w.message).split())[:200] for w in caught if issubclass(w.category, (RuntimeWarning, UserWarning))
    )
    return [f"MNE: {text}" for text in dict.fromkeys(texts) if not _HARMLESS.search(text)]


def _only(header: EdfHeader, labels: set[str]) -> EdfHeader:
    keep = [i for i, label in enumerate(header.labels) if label in labels]
    return replace(
        header,
        labels=tuple(header.labels[i] for i in keep),
        units=tuple(header.units[i] for i in keep),
        rates_hz=tuple(header.rates_hz[i] for i in keep),
    )


def _jumps(header: EdfHeader) -> NDArray[np.intp]:
    """Index of every record that does not start where the one before ends (by more than half a sample)."""
    tolerance = 0.5 / max(header.rates_hz)
    return np.flatnonzero(np.abs(np.diff(header.starts_s) - header.record_s) > tolerance) + 1


def _stretches(decoded: Decoded, header: EdfHeader) -> list[Decoded]:
    """Cuts the concatenated records of an EDF+D file where time jumps; event times follow their stretch."""
    starts = np.asarray(header.starts_s)
    tolerance = 0.5 / decoded.rate_hz
    jumps = _jumps(header)
    if jumps.size == 0:
        decoded.notes = (*decoded.notes, "marked discontinuous (EDF+D), but its records follow without a gap")
        return [decoded]
    per_record = round(header.record_s * decoded.rate_hz)
    edges = [0, *jumps.tolist(), len(starts)]
    parts: list[Decoded] = []
    kept = 0
    for number, (first, last) in enumerate(pairwise(edges), start=1):
        begin, end = float(starts[first]), float(starts[last - 1]) + header.record_s
        parts.append(
            Decoded(
                data=decoded.data[:, first * per_record : last * per_record],
                labels=decoded.labels,
                units=decoded.units,
                rate_hz=decoded.rate_hz,
                events=[
                    Event(e.onset_s - begin, e.duration_s, e.kind, e.value, e.channel)
                    for e in decoded.events
                    if begin - tolerance <= e.onset_s < end
                ],
                meta=decoded.meta,
                ids=Ids(recording=f"stretch{number}"),
                notes=(*decoded.notes, f"EDF+D with gaps: stretch {number} of {len(edges) - 1}, from {begin:g} s"),
            )
        )
        kept += len(parts[-1].events)
    lost = len(decoded.events) - kept
    if lost:
        for part in parts:
            part.notes = (*part.notes, f"{lost} events inside the gaps are left out")
    return parts
