"""DICOM segmentation objects (SEG) → label volumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.dicom_frame import plane_of
from medssl.adapters.dicom_header import DicomFile, read_dataset
from medssl.adapters.dicom_pixels import decode_dicom
from medssl.adapters.dicom_stacks import LPS_TO_RAS
from medssl.adapters.recording import Ids, Recording, sha256_of
from medssl.errors import UnreadableRecording

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["read_segmentation"]


def read_segmentation(file: DicomFile) -> Recording:
    """Reads a SEG file: BINARY or LABELMAP as labels, FRACTIONAL as one channel a segment.

    Slices in which nothing is marked may be absent from the file; they come back as zeros as long as the others lie
    on a regular grid.

    Args:
        file: its header.

    Returns:
        ``"zyx"`` with the segment numbers as labels, or ``"czyx"`` with one channel a segment where segments overlap
        or are fractional. ``labels["segments"]`` names them, e.g. ``["1: Liver"]``.

    Raises:
        UnreadableRecording: pixels that cannot be decoded, or frames of several orientations or off the grid.
    """
    path = file.path
    dataset = read_dataset(path)
    pixels = decode_dicom(dataset, path)
    planes = [plane_of(dataset, path, i) for i in range(len(pixels))]
    orientation, spacing = planes[0].orientation, planes[0].spacing
    if any(np.abs(plane.orientation - orientation).max() > 2e-3 for plane in planes):
        raise UnreadableRecording("a segmentation with frames of several orientations", path)
    heights = np.array([plane.position @ np.cross(*orientation) for plane in planes])
    index, step = _grid(heights, planes[0].slice_mm, path)
    kind = str(dataset.get("SegmentationType") or "BINARY")
    numbers = [0 if kind == "LABELMAP" else _segment_number(dataset, i) for i in range(len(pixels))]
    data, axes, channels = _assemble(pixels, index, numbers, kind, int(dataset.get("MaximumFractionalValue") or 1))
    lowest = planes[int(np.argmin(heights))].position
    affine = np.eye(4)
    affine[:3, 0] = np.cross(*orientation) * step * LPS_TO_RAS
    affine[:3, 1] = orientation[1] * spacing[0] * LPS_TO_RAS
    affine[:3, 2] = orientation[0] * spacing[1] * LPS_TO_RAS
    affine[:3, 3] = lowest * LPS_TO_RAS
    affine += 0.0  # no negative zeros
    absent = int(index.max()) + 1 - len(np.unique(index))
    notes = (f"{absent} slices without any frame read as empty",) if absent else ()
    return Recording(
        data=data,
        axes=axes,
        affine=affine,
        spacing_mm=(float(step), *spacing),
        channels=channels,
        ids=Ids(patient=file.patient, session=file.study, recording=file.series or path.stem),
        labels={"dicom_modality": "SEG", "segments": _names(dataset)},
        scanner=file.scanner,
        source=str(path),
        source_sha256=sha256_of(path),
        notes=(*file.notes, *notes),
    )


def _segment_number(dataset: Dataset, frame: int) -> int:
    own = dataset.PerFrameFunctionalGroupsSequence[frame].get("SegmentIdentificationSequence")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0].get("SegmentIdentificationSequence")
    return int((own or shared)[0].ReferencedSegmentNumber)


def _names(dataset: Dataset) -> list[str]:
    return [f"{int(s.SegmentNumber)}: {s.get('SegmentLabel', '')}" for s in dataset.get("SegmentSequence") or []]


def _grid(heights: NDArray[np.float64], stated: float, path: Path) -> tuple[NDArray[np.intp], float]:
    """Slice number of every frame, and the distance between slices."""
    levels = np.unique(np.round(heights, 3))
    gaps = np.diff(levels)
    step = stated or (float(gaps.min()) if len(gaps) else 1.0)
    if len(gaps) and gaps.min() < 0.95 * step:
        step = float(gaps.min())  # SliceThickness, where slices overlap
    position = (heights - heights.min()) / step
    index = np.round(position).astype(np.intp)
    if np.abs(position - index).max() > 0.05:
        raise UnreadableRecording(f"segmentation frames are off a regular grid of {step:.2f} mm", path)
    return index, step


def _assemble(
    pixels: NDArray[Any], index: NDArray[np.intp], numbers: list[int], kind: str, full: int
) -> tuple[NDArray[Any], str, tuple[str, ...]]:
    depth = int(index.max()) + 1
    if kind == "LABELMAP":
        labels = np.zeros((depth, *pixels.shape[1:]), pixels.dtype)
        labels[index] = pixels
        return labels, "zyx", ()
    segments = sorted(set(numbers))
    fractional = kind == "FRACTIONAL"
    label_type = np.dtype(np.uint8 if segments[-1] < 256 else np.uint16)
    labels = np.zeros((depth, *pixels.shape[1:]), label_type)
    overlap = False
    for frame, z, number in zip(pixels, index, numbers, strict=True):
        marked = frame > 0
        overlap = overlap or bool(labels[z][marked].any())
        labels[z][marked] = number
    if not overlap and not fractional:
        return labels, "zyx", ()
    each = np.zeros((len(segments), depth, *pixels.shape[1:]), np.float32 if fractional else np.uint8)
    for frame, z, number in zip(pixels, index, numbers, strict=True):
        each[segments.index(number), z] = frame / full if fractional else frame
    return each, "czyx", tuple(f"segment {number}" for number in segments)
