"""Twelve-lead ECG in XML: HL7 annotated ECG (aECG), GE MUSE RestingECG, Philips Sierra/PageWriter."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.channels import ECG_12_LEADS
from medssl.adapters.recording import Ids
from medssl.adapters.signal_common import Decoded, demographics, plausible_id
from medssl.adapters.signal_xli import decompress_xli
from medssl.errors import MedSSLError, UnreadableRecording

__all__ = ["parse_xml", "read_xml_ecg"]

Element = ElementTree.Element

_INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def read_xml_ecg(path: Path) -> list[Decoded]:
    """Decodes an ECG document: the rhythm strip first, then the median (representative) beat where there is one.

    Raises:
        UnreadableRecording: not XML, not one of the three formats, or damaged.
    """
    root = parse_xml(path)
    readers: dict[str, Callable[[Element, Path], list[Decoded]]] = {
        "AnnotatedECG": _read_hl7,
        "RestingECG": _read_muse,
        "restingecgdata": _read_philips,
    }
    reader = readers.get(_tag(root))
    if reader is None:
        raise UnreadableRecording(f"XML of kind '{_tag(root)}'; known are {', '.join(readers)}", path)
    try:
        return reader(root, path)
    except (MedSSLError, MemoryError):
        raise
    except Exception as error:  # a document that promises one thing and holds another fails anywhere
        raise UnreadableRecording(f"damaged {_tag(root)} document: {error}", path) from error


def parse_xml(path: Path) -> Element:
    """The root of an XML document that declares no entities.

    Recordings and their annotations never do; a document that does may expand without end or reach for other files.

    Raises:
        UnreadableRecording: it declares entities, or is not well-formed.
    """
    raw = path.read_bytes()
    if any("<!ENTITY".encode(code) in raw for code in ("ascii", "utf-16-le", "utf-16-be")):
        raise UnreadableRecording("the XML declares entities, which a recording does not need; not read", path)
    try:
        return ElementTree.fromstring(raw)
    except ElementTree.ParseError as error:
        raise UnreadableRecording(f"not well-formed XML: {error}", path) from error


def _tag(element: Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _all(element: Element, tag: str) -> Iterator[Element]:
    return (e for e in element.iter() if _tag(e) == tag)


def _first(element: Element, tag: str) -> Element | None:
    return next(_all(element, tag), None)


def _child(element: Element, tag: str) -> Element | None:
    return next((e for e in element if _tag(e) == tag), None)


def _text(element: Element, tag: str) -> str:
    found = _first(element, tag)
    return (found.text or "").strip() if found is not None else ""


def _stack(rows: list[NDArray[Any]]) -> NDArray[np.float32]:
    lengths = sorted({row.size for row in rows})
    if len(lengths) != 1:
        raise ValueError(f"its leads have different lengths: {lengths}")
    return np.stack(rows).astype(np.float32)


# --- HL7 aECG ------------------------------------------------------------------------------------------------


def _read_hl7(root: Element, path: Path) -> list[Decoded]:
    meta, ids = _hl7_patient(root)
    found: list[Decoded] = []
    for kind in ("series", "derivedSeries"):
        for series in _all(root, kind):
            code = _child(series, "code")
            name = (code.get("code", kind) if code is not None else kind).lower()
            model = _text(series, "manufacturerModelName")
            for part, sequence_set in enumerate(_all_own(series, "sequenceSet"), start=1):
                decoded = _hl7_set(sequence_set)
                decoded.meta, decoded.scanner = meta, model
                decoded.ids = Ids(patient=ids, recording=name if part == 1 else f"{name}{part}")
                found.append(decoded)
    if not found:
        raise UnreadableRecording("the aECG document holds no sequences", path)
    return found


def _all_own(series: Element, tag: str) -> Iterator[Element]:
    """Descendants of a series, but not those of the series derived from it."""
    for child in series:
        if _tag(child) == "derivation":
            continue
        if _tag(child) == tag:
            yield child
        else:
            yield from _all_own(child, tag)


def _hl7_set(sequence_set: Element) -> Decoded:
    labels: list[str] = []
    units: list[str] = []
    rows: list[NDArray[Any]] = []
    rate = 0.0
    for sequence in _all(sequence_set, "sequence"):
        code, value = _child(sequence, "code"), _child(sequence, "value")
        if code is None or value is None:
            continue
        name = code.get("code", "")
        if name.startswith("TIME_"):
            rate = _hl7_rate(value)
            continue
        scale = _first(value, "scale")
        origin = _first(value, "origin")
        digits = np.array((_text(value, "digits") or "").split(), dtype=np.float64)
        factor = float(scale.get("value", "1")) if scale is not None else 1.0
        labels.append(name)
        rows.append(digits * factor + (float(origin.get("value", "0")) if origin is not None else 0.0))
        units.append(scale.get("unit", "") if scale is not None else "")
    return Decoded(data=_stack(rows), labels=labels, units=units, rate_hz=rate)


def _hl7_rate(value: Element) -> float:
    """Samples a second from the increment of a generated list of times."""
    step = _first(value, "increment")
    if step is None:
        raise ValueError("the time sequence has no increment, so no regular rate")
    unit = step.get("unit", "s")
    seconds = {"s": 1.0, "ms": 1e-3, "us": 1e-6}.get(unit)
    if seconds is None:
        raise ValueError(f"time increment in '{unit}' is not known; s, ms, us are")
    return 1.0 / (float(step.get("value", "0")) * seconds)


def _hl7_patient(root: Element) -> tuple[dict[str, Any], str]:
    subject = _first(root, "trialSubject")
    if subject is None:
        return {}, ""
    gender, birth, identity = (
        _first(subject, "administrativeGenderCode"),
        _first(subject, "birthTime"),
        _child(subject, "id"),
    )
    recorded = _first(root, "effectiveTime")
    times = [e.get("value", "") for e in recorded] if recorded is not None else []
    age = _years(birth.get("value", "") if birth is not None else "", times[0] if times else "")
    sex = gender.get("code") if gender is not None else None
    return demographics(age, sex), plausible_id(identity.get("extension") if identity is not None else "")


def _years(born: str, recorded: str) -> str | None:
    """Age in years between two dates that start with YYYYMMDD (separators allowed)."""
    try:
        first, last = (datetime.strptime(re.sub(r"\D", "", text)[:8], "%Y%m%d") for text in (born, recorded))
    except ValueError:
        return None
    return f"{(last - first).days / 365.25:.1f}"


# --- GE MUSE -------------------------------------------------------------------------------------------------


def _read_muse(root: Element, path: Path) -> list[Decoded]:
    meta = demographics(_text(root, "PatientAge") + _text(root, "AgeUnits")[:1], _text(root, "Gender"))
    ids = plausible_id(_text(root, "PatientID"))
    found = []
    for waveform in _all(root, "Waveform"):
        decoded = _muse_waveform(waveform)
        decoded.meta, decoded.scanner, decoded.site = meta, _text(root, "AcquisitionDevice"), _text(root, "SiteName")
        decoded.ids = Ids(patient=ids, recording=_text(waveform, "WaveformType").lower())
        found.append(decoded)
    if not found:
        raise UnreadableRecording("the RestingECG document holds no waveforms", path)
    return sorted(found, key=lambda d: d.ids.recording != "rhythm")


def _muse_waveform(waveform: Element) -> Decoded:
    labels: list[str] = []
    units: list[str] = []
    rows: list[NDArray[Any]] = []
    notes: list[str] = []
    for lead in _all(waveform, "LeadData"):
        size = int(_text(lead, "LeadSampleSize") or 2)
        if size != 2:
            raise ValueError(f"{size} bytes a sample; only 2 are known")
        samples = np.frombuffer(base64.b64decode(_text(lead, "WaveFormData")), dtype="<i2")
        stated = int(_text(lead, "LeadSampleCountTotal") or samples.size)
        if samples.size < stated:
            raise ValueError(f"lead {_text(lead, 'LeadID')} has {samples.size} of {stated} samples")
        # Encoders pad the payload; the stated count is the recording.
        rows.append(samples[:stated] * float(_text(lead, "LeadAmplitudeUnitsPerBit") or 1))
        labels.append(_text(lead, "LeadID"))
        units.append(_text(lead, "LeadAmplitudeUnits"))
        if _text(lead, "LeadOff").upper() == "TRUE":
            notes.append(f"lead '{labels[-1]}' is marked as off")
    data = _stack(rows)
    if set(labels) >= {"I", "II"} and not set(labels) & {"III", "aVR", "aVL", "aVF"}:
        data, labels, units = _derive_limb_leads(data, labels, units)
        notes.append("leads III, aVR, aVL, aVF are not stored; computed from I and II")
    exponent = int(_text(waveform, "SampleExponent") or 0)
    rate = float(_text(waveform, "SampleBase")) * 10.0**exponent
    return Decoded(data=data, labels=labels, units=units, rate_hz=rate, notes=notes)


def _derive_limb_leads(
    data: NDArray[np.float32], labels: list[str], units: list[str]
) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """Einthoven's and Goldberger's leads from I and II, all leads in the usual order."""
    one, two = data[labels.index("I")], data[labels.index("II")]
    rows = dict(zip(labels, data, strict=True))
    rows |= {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    order = [name for name in ECG_12_LEADS if name in rows] + [name for name in labels if name not in ECG_12_LEADS]
    known = dict(zip(labels, units, strict=True))
    return np.stack([rows[name] for name in order]), order, [known.get(name, known["I"]) for name in order]


# --- Philips -------------------------------------------------------------------------------------------------


def _read_philips(root: Element, path: Path) -> list[Decoded]:
    waves, signal = _first(root, "parsedwaveforms"), _first(root, "signalcharacteristics")
    if waves is None or signal is None:
        raise UnreadableRecording("the Philips document holds no waveforms", path)
    if waves.get("dataencoding", "Base64") != "Base64":
        raise UnreadableRecording(f"waveforms encoded as {waves.get('dataencoding')}; only Base64 is known", path)
    payload = base64.b64decode(waves.text or "")
    labels = waves.get("leadlabels", "").split() or list(ECG_12_LEADS)
    count = int(waves.get("numberofleads") or _text(signal, "numberchannelsvalid") or len(labels))
    rate = float(_text(signal, "samplingrate"))
    length = round(float(waves.get("durationperchannel", "0")) / 1000 * rate)
    method = waves.get("compressmethod") or waves.get("compression") or "Uncompressed"
    if method == "XLI":
        leads = _undo_limb_prediction(decompress_xli(payload)[:count])
    elif method == "Uncompressed":
        leads = list(np.frombuffer(payload, dtype="<i2").reshape(count, -1))
    else:
        raise UnreadableRecording(f"waveforms compressed as {method}; export them uncompressed or as XLI", path)
    if any(lead.size < length for lead in leads) or len(leads) != count or count > len(labels):
        raise UnreadableRecording(f"{len(leads)} leads of {length} samples expected, not all are there", path)
    resolution = float(_text(signal, "signalresolution") or _text(signal, "resolution") or 1)
    data = _stack([lead[:length] if length else lead for lead in leads]) * np.float32(resolution)
    data, notes = _without_calibration(data, rate)
    patient = _first(root, "generalpatientdata")
    acquisition = _first(root, "dataacquisition")
    return [
        Decoded(
            data=data,
            labels=labels[:count],
            units=["uV"] * count,
            rate_hz=rate,
            meta=demographics(_text(patient, "years"), _text(patient, "sex")) if patient is not None else {},
            ids=Ids(
                patient=plausible_id(_text(patient, "patientid")) if patient is not None else "", recording="rhythm"
            ),
            scanner=_text(acquisition, "machine") if acquisition is not None else "",
            notes=notes,
        )
    ]


def _without_calibration(data: NDArray[np.float32], rate_hz: float) -> tuple[NDArray[np.float32], list[str]]:
    """Cuts the 1 mV calibration pulse (0, 1000 uV, 0 in every lead at once) that carts append to the recording."""
    differs = np.flatnonzero((data != data[0]).any(axis=0))
    end = int(differs[-1]) + 1 if differs.size else 0
    tail = data[0, end:]
    pulse = tail.size >= 0.2 * rate_hz and set(np.unique(tail)) == {0.0, 1000.0}
    if not pulse or end == 0:
        return data, []
    return data[:, :end], [f"calibration pulse cut off the end ({tail.size / rate_hz:g} s)"]


def _undo_limb_prediction(leads: list[NDArray[np.int16]]) -> list[NDArray[Any]]:
    """XLI stores III, aVR, aVL, aVF as what is left after predicting them from I and II."""
    if len(leads) < 6:
        return list(leads)
    one, two, third, right, left, foot = (lead.astype(np.int32) for lead in leads[:6])
    third = two - one - third
    right = -right - (one + two) // 2
    left = (one - third) // 2 - left
    foot = (two + third) // 2 - foot
    return [one, two, third, right, left, foot, *leads[6:]]
