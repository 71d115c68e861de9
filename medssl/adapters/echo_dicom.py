"""Ultrasound DICOM → recordings: every photometric interpretation and transfer syntax, decoded frame by frame.

What a header says of colours is not always so (luminance and chrominance under a header that says RGB, or colours that
were converted already): the decoded background, which is black in ultrasound, decides.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.dicom_frame import kind_of, number, text
from medssl.adapters.dicom_header import read_dataset
from medssl.adapters.dicom_pixels import one_line
from medssl.adapters.echo_clip import DEFAULT_RATE_HZ, MOST_BYTES, Clip, regular_rate
from medssl.adapters.echo_colour import looks_like_green_fault, looks_like_ybr, ybr_full_to_rgb
from medssl.adapters.echo_region import ultrasound_region
from medssl.adapters.echo_stream import decode_stream
from medssl.adapters.recording import Event, Ids, Recording, sha256_of
from medssl.errors import UnreadableRecording

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["read_echo_dicom"]

MPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108))
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "YBR_PARTIAL_422"})
GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
PALETTE = "PALETTE COLOR"
# of the packages that decode them; baseline JPEG and JPEG 2000 work with Pillow as well
PACKAGES = {
    "JPEG": "pylibjpeg-libjpeg",
    "JPEG 2000": "pylibjpeg-openjpeg",
    "RLE": "pylibjpeg-rle",
    "HTJ2K": "pylibjpeg-openjpeg",
}


def read_echo_dicom(path: Path | str, *, colour: bool = False, most_bytes: int = MOST_BYTES) -> Recording:
    """Reads one ultrasound DICOM file.

    MONOCHROME1 is inverted, palettes are applied, luminance and chrominance become RGB, more than 8 bits become 8 (with
    a note). Frames are cut to the largest two-dimensional tissue region that the header names.

    Args:
        path: the file.
        colour: keep RGB (axes ``"tyxc"``); otherwise grey (``"tyx"``).
        most_bytes: of decoded frames; what comes after is not read, with a note.

    Returns:
        A recording with ``rate_hz`` (None for a single frame), ``spacing_mm`` (y, x) where the region gives it,
        R waves as events, the label ``heart_rate`` where known, and the ids of the header. Names and birth dates are
        never read.

    Raises:
        UnreadableRecording: not DICOM, not ultrasound, no tissue region among its regions, or pixels that cannot be
            decoded; the reason names the transfer syntax and the package it needs.
    """
    path = Path(path)
    if path.is_dir():
        raise UnreadableRecording("it is a folder, not a DICOM file", path)
    if not path.is_file():
        raise UnreadableRecording("it does not exist", path)
    if path.stat().st_size == 0:
        raise UnreadableRecording("the file is empty", path)
    dataset = read_dataset(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in private or unused tags
            return _read(dataset, path, colour=colour, most_bytes=most_bytes)
    except UnreadableRecording:
        raise
    except Exception as error:  # values are parsed on access, so damaged bytes may raise anything here
        raise UnreadableRecording(f"its DICOM header cannot be interpreted: {one_line(error)}", path) from error


def _read(dataset: Dataset, path: Path, *, colour: bool, most_bytes: int) -> Recording:
    if "Rows" not in dataset or "Columns" not in dataset or "PixelData" not in dataset:
        raise UnreadableRecording(f"it is {kind_of(dataset)}, not an image", path)
    if not dataset.PixelData:
        raise UnreadableRecording("it holds no frame: its pixel data are empty", path)
    promised = _promised(dataset, path)
    modality = text(dataset, "Modality")
    if modality not in ("US", "IVUS") and "Ultrasound" not in kind_of(dataset):
        raise UnreadableRecording(f"its modality is '{modality}', not ultrasound", path)
    notes: list[str] = []
    region = ultrasound_region(dataset, path, notes)
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if syntax in MPEG:
        # a region box would have to be cut before colours are counted, which a stream decoder cannot know: cut after
        recording = _stream(dataset, path, colour=colour, most_bytes=most_bytes)
        recording = recording.with_(data=np.ascontiguousarray(recording.data[(slice(None), *region.box)]))
    else:
        clip = Clip(path, colour=colour, most_bytes=most_bytes)
        for frame in _frames(dataset, path, promised, notes):
            if not clip.add(frame[region.box]) and clip.full:
                break
        recording = clip.recording()
    if len(recording.data) < promised and not any("bytes" in note for note in recording.notes):
        notes.append(f"the header promises {promised} frames, {len(recording.data)} could be decoded")
    recording = _timed(dataset, recording, notes)
    quality = dict(recording.quality) | region.quality
    burnt = text(dataset, "BurnedInAnnotation").upper()
    if burnt in ("YES", "NO"):
        quality["burned_in_annotation"] = float(burnt == "YES")
    heart_rate = number(dataset.get("HeartRate"))
    return recording.with_(
        spacing_mm=region.spacing_mm,
        quality=quality,
        labels={"heart_rate": heart_rate} if heart_rate else {},
        events=_r_waves(dataset),
        ids=Ids(text(dataset, "PatientID"), text(dataset, "StudyInstanceUID"), text(dataset, "SOPInstanceUID")),
        scanner=f"{text(dataset, 'Manufacturer')} {text(dataset, 'ManufacturerModelName')}".strip(),
        source_sha256=sha256_of(path),
    ).noted(*notes)


def _promised(dataset: Dataset, path: Path) -> int:
    """NumberOfFrames; 1 where there is none."""
    stated = dataset.get("NumberOfFrames")
    count = 1 if stated is None or stated == "" else int(stated)
    if count < 1:
        raise UnreadableRecording(f"it holds no frame: its NumberOfFrames is {count}", path)
    return count


def _frames(dataset: Dataset, path: Path, promised: int, notes: list[str]) -> Iterator[NDArray[np.uint8]]:
    """Frames (Y, X) or (Y, X, 3) RGB, uint8, in order; stops with a note where the data end early."""
    kind = text(dataset, "PhotometricInterpretation")
    if kind not in COLOUR | GREY | {PALETTE}:
        raise UnreadableRecording(f"its photometric interpretation '{kind}' is not known", path)
    bits = int(dataset.get("BitsStored") or 8)
    repair: str | None = None
    raw = False
    for index in range(promised):
        try:
            pixels = _decoded(dataset, path, index, raw=raw)
            if index == 0 and kind in COLOUR:
                repair = _repair(pixels, kind)
                raw = repair == "twice"
                pixels = _decoded(dataset, path, index, raw=True) if raw else pixels
        except UnreadableRecording as error:
            if index == 0:
                raise
            notes.append(f"frames from number {index + 1} on are damaged or missing: {error.reason}")
            return
        if index == 0 and repair:
            notes.append(_REPAIRS[repair].format(kind=kind))
        if index == 0 and kind in GREY and bits > 8:
            notes.append(f"{bits} bits a pixel brought to 8")
        if kind == PALETTE:
            yield _through_palette(pixels, dataset)
        elif kind in GREY:
            yield _eight_bits(pixels, dataset, bits, inverted=kind == "MONOCHROME1")
        else:
            yield ybr_full_to_rgb(pixels) if repair == "never" else pixels


_REPAIRS = {
    "twice": "the header says {kind} but the decoder returned RGB already: not converted a second time",
    "never": "the header says {kind} but the pixels are luminance and chrominance: converted to RGB",
}


def _repair(pixels: NDArray[np.uint8], kind: str) -> str | None:
    """Whether colours were converted twice, or never though they ought to; None where the header is right."""
    if kind != "RGB" and looks_like_green_fault(pixels):
        return "twice"
    return "never" if looks_like_ybr(pixels) else None


def _decoded(dataset: Dataset, path: Path, index: int, *, raw: bool) -> NDArray[Any]:
    """One frame, as pydicom decodes it: YBR as RGB unless ``raw``."""
    from pydicom.pixels.utils import pixel_array

    try:
        return np.asarray(pixel_array(dataset, index=index, raw=raw))
    except BaseException as error:
        # decoders raise anything on damaged data; the Rust one even panics with what is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID", ""), "name", "unknown transfer syntax")
        package = next((p for name, p in sorted(PACKAGES.items(), reverse=True) if syntax.startswith(name)), "")
        hint = f"; `pip install {package}` may help" if package and "missing" in str(error).lower() else ""
        raise UnreadableRecording(f"its pixels ({syntax}) cannot be decoded: {one_line(error)}{hint}", path) from error


def _through_palette(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut

    coloured = np.asarray(apply_color_lut(pixels, dataset))[..., :3]
    return np.asarray(coloured >> 8 if coloured.dtype == np.uint16 else coloured, dtype=np.uint8)


def _eight_bits(pixels: NDArray[Any], dataset: Dataset, bits: int, *, inverted: bool) -> NDArray[np.uint8]:
    """Grey values of 0 to 255; signed ones are shifted first."""
    top = (1 << bits) - 1
    values = pixels.astype(np.int32)
    if int(dataset.get("PixelRepresentation") or 0):
        values += 1 << (bits - 1)
    values = np.clip(values, 0, top)
    values = top - values if inverted else values
    return np.asarray(values >> (bits - 8) if bits > 8 else values * 255 // top, dtype=np.uint8)


def _stream(dataset: Dataset, path: Path, *, colour: bool, most_bytes: int) -> Recording:
    """A whole MPEG stream in the pixel data, which only a video decoder reads."""
    from pydicom.encaps import generate_fragments

    stream = b"".join(generate_fragments(dataset.PixelData))
    return decode_stream(BytesIO(stream), path, colour=colour, most_bytes=most_bytes)


def _timed(dataset: Dataset, recording: Recording, notes: list[str]) -> Recording:
    """Rate and frame times: FrameTime, FrameTimeVector, CineRate, RecommendedDisplayFrameRate, in this order."""
    count = len(recording.data)
    if count < 2:
        return recording.with_(rate_hz=None, frame_times=None)
    frame_ms, cine = number(dataset.get("FrameTime")), number(dataset.get("CineRate"))
    vector = np.atleast_1d(np.asarray(dataset.get("FrameTimeVector") or [], dtype=np.float64))
    if frame_ms and frame_ms > 0:
        rate = 1000 / frame_ms
        if cine and cine > 0 and abs(cine / rate - 1) > 0.05:
            notes.append(f"FrameTime ({rate:.4g} a second) and CineRate ({cine:g}) differ: FrameTime taken")
        return recording.with_(rate_hz=rate, frame_times=None)
    if len(vector) >= count:
        times = np.cumsum(vector[:count]) / 1000  # increments; the first belongs to the first frame
        found, even = regular_rate(times - times[0])
        if found:
            return recording.with_(rate_hz=found, frame_times=None if even else times - times[0])
    shown = number(dataset.get("RecommendedDisplayFrameRate"))
    for value in (cine, shown):
        if value and value > 0:
            return recording.with_(rate_hz=value, frame_times=None)
    if recording.rate_hz is None:
        notes.append(f"no frame rate in the header: {DEFAULT_RATE_HZ:g} frames a second taken")
    return recording.with_(rate_hz=recording.rate_hz or DEFAULT_RATE_HZ)


def _r_waves(dataset: Dataset) -> tuple[Event, ...]:
    """R waves of the ECG, in seconds from the first frame."""
    times = np.atleast_1d(np.asarray(dataset.get("RWaveTimeVector") or [], dtype=np.float64)) / 1000
    return tuple(Event(float(t), 0.0, "r_wave", "R") for t in times if np.isfinite(t) and t >= 0)
