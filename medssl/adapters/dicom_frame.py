"""One DICOM slice as its header describes it: place, size, rescale and time, whatever kind of file it lies in.

Classic single-slice files, enhanced multi-frame files (functional groups) and Siemens mosaics all become the same
:class:`Frame`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import UnreadableRecording

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Frame", "frames_of", "group_value", "kind_of", "mosaic_count", "number", "plane_of", "text"]

# Image types that are volumes of their own even where all else is equal: complex parts and Dixon images.
PARTS = frozenset(
    {"M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "LOCALIZER", "ADC"}
    | {"W", "F", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE", "IP", "OP"}
)
PROJECTIONS = frozenset({"CR", "DX", "MG", "XA", "RF", "IO", "PX"})


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice as its header describes it.

    Attributes:
        path: its file.
        index: its number in the decoded file.
        instance: its SOPInstanceUID; files that share one are copies.
        position: centre of its first voxel, LPS millimetres.
        orientation: ``(2, 3)``: direction of growing column number, then of growing row number (LPS).
        spacing: millimetres between rows, between columns.
        slice_mm: SpacingBetweenSlices, else SliceThickness; 0 where neither is given.
        slope, intercept: its rescale.
        times: what can put frames of one position in order, by name (see ``dicom_stacks.ORDER``); times in seconds.
        part: what separates volumes inside one series: stack, echo, complex part.
        lossy: the pixels went through lossy compression.
    """

    path: Path
    index: int
    instance: str
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    slice_mm: float
    slope: float
    intercept: float
    times: Mapping[str, float]
    part: tuple[str, ...]
    lossy: bool


def frames_of(dataset: Dataset, path: Path, modality: str, mosaic: int) -> tuple[list[Frame], tuple[str, ...]]:
    """All slices of a data set, and notes on what was assumed.

    Args:
        dataset: its header.
        path: its file.
        modality: its modality.
        mosaic: number of slices if it is a mosaic (see :func:`mosaic_count`), else 0.

    Raises:
        UnreadableRecording: it is no part of a volume; the reason says why.
    """
    count = int(dataset.get("NumberOfFrames") or 1)
    if group_value(dataset, 0, "PlanePositionSequence", "ImagePositionPatient") is None:
        return _without_position(dataset, path, modality, count)
    if count > 1 and not dataset.get("PerFrameFunctionalGroupsSequence"):
        raise UnreadableRecording(f"{count} frames without a position each (no functional groups)", path)
    if count > 1 and len(dataset.PerFrameFunctionalGroupsSequence) < count:
        raise UnreadableRecording(f"{count} frames but fewer functional groups: the header is incomplete", path)
    frames = [plane_of(dataset, path, i) for i in range(count)]
    return (_mosaic_frames(dataset, frames[0], mosaic), ()) if mosaic else (frames, ())


def plane_of(dataset: Dataset, path: Path, index: int) -> Frame:
    """One frame of a data set, from its functional groups or the root.

    Args:
        dataset: the data set; pixels are not needed.
        path: its file.
        index: number of the frame.

    Raises:
        UnreadableRecording: no usable orientation or voxel size.
    """

    def value(sequence: str, keyword: str) -> Any:
        return group_value(dataset, index, sequence, keyword)

    cosines = value("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = value("PixelMeasuresSequence", "PixelSpacing")
    if cosines is None or len(cosines) != 6:
        raise UnreadableRecording("it has no ImageOrientationPatient: not a slice of a volume", path)
    if spacing is None or len(spacing) != 2 or not all(0 < float(v) < np.inf for v in spacing):
        raise UnreadableRecording("it has no usable PixelSpacing: its size in millimetres is unknown", path)
    orientation = np.array([float(v) for v in cosines]).reshape(2, 3)
    norms = np.linalg.norm(orientation, axis=1)
    if np.any(np.abs(norms - 1) > 0.01) or abs(float(orientation[0] @ orientation[1])) > 0.01:
        raise UnreadableRecording(f"its ImageOrientationPatient {orientation.ravel().tolist()} is no rotation", path)
    position = np.array([float(v) for v in value("PlanePositionSequence", "ImagePositionPatient")])
    if position.shape != (3,) or not np.isfinite(position).all():
        raise UnreadableRecording("its ImagePositionPatient is no point in space", path)
    slope = number(value("PixelValueTransformationSequence", "RescaleSlope"))
    between = number(value("PixelMeasuresSequence", "SpacingBetweenSlices"))
    thickness = number(value("PixelMeasuresSequence", "SliceThickness"))
    return Frame(
        path=path,
        index=index,
        instance=text(dataset, "SOPInstanceUID"),
        position=position,
        orientation=orientation / norms[:, None],
        spacing=(float(spacing[0]), float(spacing[1])),
        slice_mm=abs(between or thickness or 0.0),
        slope=slope or 1.0,  # a slope of 0 is a known vendor fault for "none"
        intercept=number(value("PixelValueTransformationSequence", "RescaleIntercept")) or 0.0,
        times=_times(dataset, index),
        part=_part(dataset, index),
        lossy=text(dataset, "LossyImageCompression") == "01",
    )


def _part(dataset: Dataset, index: int) -> tuple[str, ...]:
    stack = group_value(dataset, index, "FrameContentSequence", "StackID")
    echo = number(group_value(dataset, index, "MREchoSequence", "EffectiveEchoTime"))
    echo = number(dataset.get("EchoTime")) if echo is None else echo
    kind = group_value(dataset, index, "MRImageFrameTypeSequence", "FrameType") or dataset.get("ImageType") or ()
    tokens = sorted(PARTS.intersection(str(token).strip() for token in kind[2:]))
    return (
        "" if stack is None else f"stack {stack}",
        "" if echo is None else f"echo {echo:.1f} ms",
        " ".join(tokens),
    )


def _times(dataset: Dataset, index: int) -> dict[str, float]:
    content = "FrameContentSequence"
    enhanced = bool(dataset.get("PerFrameFunctionalGroupsSequence"))
    temporal = group_value(dataset, index, content, "TemporalPositionIndex")
    repeat = group_value(dataset, index, content, "FrameAcquisitionNumber")
    trigger = group_value(dataset, index, "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")
    moment = group_value(dataset, index, content, "FrameAcquisitionDateTime")
    moment = moment or group_value(dataset, index, content, "FrameReferenceDateTime")
    moment = moment or dataset.get("AcquisitionDateTime") or dataset.get("AcquisitionTime")
    trigger = dataset.get("TriggerTime") if trigger is None else trigger
    trigger = number(trigger)
    found = {
        "temporal position": number(dataset.get("TemporalPositionIdentifier") if temporal is None else temporal),
        "trigger time": None if trigger is None else trigger / 1000,
        "acquisition time": _seconds(moment),
        "acquisition": number(dataset.get("AcquisitionNumber") if repeat is None else repeat),
        "b value": number(group_value(dataset, index, "MRDiffusionSequence", "DiffusionBValue")),
        "instance number": None if enhanced else number(dataset.get("InstanceNumber")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _seconds(value: Any) -> float | None:
    """Seconds since midnight of a DICOM time or date-time (days are added, so that midnight may be passed)."""
    text = "" if value is None else str(value).strip().split("+")[0].split("&")[0]
    whole, _, fraction = text.partition(".")
    if not whole.isdigit() or len(whole) < 6:
        return None
    days = 0
    if len(whole) >= 14:
        days = date(int(whole[:4]), int(whole[4:6]), int(whole[6:8])).toordinal()
        whole = whole[8:14]
    clock = int(whole[:2]) * 3600 + int(whole[2:4]) * 60 + int(whole[4:6])
    return days * 86400.0 + clock + float(f"0.{fraction}" if fraction.isdigit() else 0)


def _without_position(dataset: Dataset, path: Path, modality: str, count: int) -> tuple[list[Frame], tuple[str, ...]]:
    """Images without a place in space: multi-frame tomography is read in frame order, all else is refused."""
    if modality == "US" or "Ultrasound" in kind_of(dataset):
        raise UnreadableRecording(f"ultrasound {'video' if count > 1 else 'image'}: not a volume", path)
    if modality in PROJECTIONS:
        raise UnreadableRecording(f"a projection image ({modality}): not a volume", path)
    step = number(dataset.get("SpacingBetweenSlices")) or number(dataset.get("SliceThickness"))
    if count == 1 or not step or modality not in ("CT", "MR", "PT"):
        raise UnreadableRecording("it has no ImagePositionPatient: not a slice of a volume", path)
    spacing = [float(v) for v in dataset.get("PixelSpacing") or (1.0, 1.0)]
    notes = ["no slice positions: frames taken in file order as axial slices, the origin in the centre"]
    if "PixelSpacing" not in dataset:
        notes.append("no PixelSpacing: 1 mm assumed")
    half = np.array([dataset.Columns - 1, dataset.Rows - 1, count - 1]) / 2
    start = -half * np.array([spacing[1], spacing[0], step])
    base = Frame(
        path=path,
        index=0,
        instance=text(dataset, "SOPInstanceUID"),
        position=start,
        orientation=np.eye(3)[:2],
        spacing=(spacing[0], spacing[1]),
        slice_mm=step,
        slope=float(number(dataset.get("RescaleSlope")) or 1.0),
        intercept=float(number(dataset.get("RescaleIntercept")) or 0.0),
        times={},
        part=(),
        lossy=text(dataset, "LossyImageCompression") == "01",
    )
    return [_moved(base, i, start + np.array([0.0, 0.0, i * step])) for i in range(count)], tuple(notes)


def _moved(frame: Frame, index: int, position: NDArray[np.float64]) -> Frame:
    return replace(frame, index=index, position=position)


def mosaic_count(dataset: Dataset, path: Path) -> int:
    """Number of slices in a Siemens mosaic; 0 where the image is none."""
    if "MOSAIC" not in (dataset.get("ImageType") or ()):
        return 0
    if 0x0019100A in dataset:
        return int(dataset[0x0019100A].value)
    items = _csa(dataset).get("NumberOfImagesInMosaic", {}).get("items", [])
    if not items:
        raise UnreadableRecording("a Siemens mosaic that does not say how many slices it holds", path)
    return int(items[0])


def _mosaic_frames(dataset: Dataset, whole: Frame, count: int) -> list[Frame]:
    """The slices of a mosaic. Its position is the corner of the mosaic, not of a slice, and is moved accordingly."""
    tiles = int(np.ceil(np.sqrt(count)))
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    x, y = whole.orientation
    dy, dx = whole.spacing
    first = whole.position + x * dx * (columns - columns // tiles) / 2 + y * dy * (rows - rows // tiles) / 2
    normal = np.cross(x, y)
    stated = _csa(dataset).get("SliceNormalVector", {}).get("items", [])
    if len(stated) == 3 and float(np.dot(normal, np.array(stated, dtype=float))) < 0:
        normal = -normal
    return [_moved(whole, i, first + i * whole.slice_mm * normal) for i in range(count)]


def _csa(dataset: Dataset) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls itself experimental on import; only its CSA parser is used
        from nibabel.nicom import csareader

    try:
        header = csareader.get_csa_header(dataset)
    except Exception:  # a private block, often damaged or anonymised away: the callers say what they then miss
        return {}
    return dict(header["tags"]) if header else {}


def group_value(dataset: Dataset, frame: int, sequence: str, keyword: str) -> Any:
    """A value of one frame: its own functional group, else the shared one, else the root of the data set."""
    groups = []
    if dataset.get("PerFrameFunctionalGroupsSequence"):
        groups.append(dataset.PerFrameFunctionalGroupsSequence[frame])
    groups += list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    for group in groups:
        items = group.get(sequence)
        if items and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return dataset.get(keyword)


def number(value: Any) -> float | None:
    """A header value as float; None where it is absent or empty."""
    return None if value is None or str(value).strip() == "" else float(value)


def text(dataset: Dataset, keyword: str) -> str:
    """A header value as text; empty where it is absent."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def kind_of(dataset: Dataset) -> str:
    """What a data set without an image is, for a message."""
    uid = dataset.get("SOPClassUID") or getattr(getattr(dataset, "file_meta", None), "MediaStorageSOPClassUID", "")
    name = getattr(uid, "name", "") or "a header only"
    return f"'{name}' without pixels"
