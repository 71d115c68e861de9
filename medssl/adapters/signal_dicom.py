"""DICOM waveform objects (12-lead, general and ambulatory ECG and their relatives): one signal a multiplex group."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Event, Ids
from medssl.adapters.signal_common import Decoded, demographics, plausible_id
from medssl.errors import UnreadableRecording

__all__ = ["read_dicom_waveforms"]


def read_dicom_waveforms(path: Path) -> list[Decoded]:
    """Decodes every multiplex group, in calibrated units, with its annotations.

    Raises:
        UnreadableRecording: not DICOM, or without waveforms.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path)
            groups = list(dataset.get("WaveformSequence", []))
            decoded = [_group(dataset, group, index) for index, group in enumerate(groups)]
        except MemoryError:
            raise
        except Exception as error:  # a foreign parser on a foreign file: anything can come
            raise UnreadableRecording(f"not a readable DICOM waveform: {error}", path) from error
    if not decoded:
        raise UnreadableRecording("a DICOM file without waveforms; images are read by the volume adapter", path)
    return decoded


def _group(dataset: Any, group: Any, index: int) -> Decoded:
    from pydicom.waveforms.numpy_handler import multiplex_array

    samples: NDArray[Any] = multiplex_array(dataset, index, as_raw=False)
    raw = multiplex_array(dataset, index, as_raw=True) if "WaveformPaddingValue" in group else None
    data = np.ascontiguousarray(samples.T, dtype=np.float32)
    notes = []
    if raw is not None:
        padding = _padding(group, raw.dtype)
        padded = np.equal(raw.T, padding)
        if padded.any():
            data[padded] = np.nan
            notes.append(f"{int(padded.sum())} padding samples read as NaN")
    definitions = list(group.ChannelDefinitionSequence)
    label = str(group.get("MultiplexGroupLabel", "") or "")
    skews = [float(d.get("ChannelTimeSkew", 0) or 0) for d in definitions]
    if any(skews):
        notes.append("channels state a time skew, which is not corrected")
    return Decoded(
        data=data,
        labels=[_source(d, i) for i, d in enumerate(definitions)],
        units=[_unit(d) for d in definitions],
        rate_hz=float(group.SamplingFrequency),
        events=_events(dataset, group, index),
        meta=demographics(dataset.get("PatientAge"), dataset.get("PatientSex")),
        ids=Ids(patient=plausible_id(dataset.get("PatientID")), recording=label or f"group{index + 1}"),
        scanner=" ".join(str(dataset.get(k, "") or "") for k in ("Manufacturer", "ManufacturerModelName")).strip(),
        site=str(dataset.get("InstitutionName", "") or ""),
        notes=notes,
    )


def _padding(group: Any, dtype: np.dtype[Any]) -> Any:
    value = group.WaveformPaddingValue
    return np.frombuffer(value, dtype=dtype)[0] if isinstance(value, bytes) else dtype.type(value)


def _source(definition: Any, index: int) -> str:
    """The lead's name: the meaning of its code, else its label."""
    codes: Sequence[Any] = definition.get("ChannelSourceSequence", None) or []
    meaning = str(codes[0].get("CodeMeaning", "") or "") if codes else ""
    return meaning or str(definition.get("ChannelLabel", "") or "") or f"channel {index + 1}"


def _unit(definition: Any) -> str:
    codes: Sequence[Any] = definition.get("ChannelSensitivityUnitsSequence", None) or []
    return str(codes[0].get("CodeValue", "") or "") if codes else ""


def _events(dataset: Any, group: Any, index: int) -> list[Event]:
    """Annotations that point at samples of this group (samples are counted from 1)."""
    events = []
    for item in dataset.get("WaveformAnnotationSequence", None) or []:
        channels = [int(c) for c in item.get("ReferencedWaveformChannels", None) or []]
        positions = item.get("ReferencedSamplePositions", None)
        if positions is None or (channels and channels[0] != index + 1):
            continue
        concept: Sequence[Any] = item.get("ConceptNameCodeSequence", None) or []
        value = str(item.get("UnformattedTextValue", "") or (concept[0].get("CodeMeaning", "") if concept else ""))
        several = isinstance(positions, Sequence) or hasattr(positions, "__iter__")
        onsets = [(int(p) - 1) / float(group.SamplingFrequency) for p in (positions if several else [positions])]
        last = onsets[-1] if str(item.get("TemporalRangeType", "")) == "SEGMENT" else onsets[0]
        events.append(Event(onsets[0], last - onsets[0], "annotation", value))
    return events
