"""Label volumes → DICOM-SEG that refers to the source series, through highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.dicom import Series, list_series
from medssl.adapters.dicom_frame import Frame
from medssl.adapters.dicom_header import read_dataset
from medssl.adapters.dicom_pixels import one_line
from medssl.adapters.dicom_stacks import LPS_TO_RAS
from medssl.adapters.recording import Recording
from medssl.errors import MedSSLError, UnreadableRecording

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["write_segmentation"]

NEEDED = ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)


def write_segmentation(path: Path, labels: NDArray[Any], like: Recording, names: Mapping[int, str]) -> None:
    """Writes a BINARY segmentation object.

    Segment numbers are the labels themselves, so every number up to the largest is declared.

    Args:
        path: the file to write.
        labels: ``(Z, Y, X)`` integers on the grid of ``like``.
        like: a recording read from DICOM; its ``source`` is read again for the headers.
        names: label → segment name.

    Raises:
        MedSSLError: the source is no DICOM, its slices are not found again, or it lacks what a SEG must carry.
    """
    if labels.size and int(labels.min()) < 0:
        raise MedSSLError(f"{path}: a DICOM-SEG cannot hold negative labels; write .nii.gz instead")
    frames = _slices(like)
    # Phases and multi-frame files name one file several times: highdicom wants every data set once.
    files = list(dict.fromkeys(frame.path for frame in frames))
    sources = [_completed(read_dataset(file)) for file in files]
    absent = [keyword for keyword in NEEDED if not sources[0].get(keyword)]
    if absent:
        lacking = ", ".join(absent)
        raise MedSSLError(
            f"{like.source}: a DICOM-SEG must refer to its source, which lacks {lacking}; write .nii.gz instead"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names of people not in the form the standard prefers
            segmentation = _build(labels, frames, sources, names)
            segmentation.save_as(path)
    except Exception as error:  # highdicom raises of any kind where the source lacks something
        raise MedSSLError(
            f"{like.source}: a DICOM-SEG cannot be made from this series ({one_line(error)}); write .nii.gz instead"
        ) from error


def _slices(like: Recording) -> list[Frame]:
    """The source frame of every slice of ``like``, found again by position."""
    if not like.source or "dicom_modality" not in like.labels:
        raise MedSSLError(f"{like.source or 'the source'}: not read from DICOM, so no DICOM-SEG; write .nii.gz instead")
    try:
        series, _ = list_series(like.source)
    except UnreadableRecording as error:
        raise MedSSLError(f"{error}: the source series is needed again to write a DICOM-SEG") from error
    own = [one for one in series if one.series and like.ids.recording.startswith(one.series)]
    matches = [found for one in (own or series) if (found := _match(one, like))]
    if len(matches) != 1:
        what = "no series has" if not matches else f"{len(matches)} series have"
        raise MedSSLError(f"{like.source}: {what} the slices of this recording; write .nii.gz instead")
    return matches[0]


def _match(series: Series, like: Recording) -> list[Frame]:
    assert like.affine is not None
    shape = tuple(like.data.shape[axis] for axis in like.spatial_axes)
    lps = like.affine.copy()
    lps[:3] *= LPS_TO_RAS[:, None]
    wanted = lps[:3, 3] + np.arange(shape[0])[:, None] * lps[:3, 0]
    x = lps[:3, 2] / np.linalg.norm(lps[:3, 2])
    candidates = [
        frame
        for file in series.files
        if file.shape == shape[1:]
        for frame in file.frames
        if np.abs(frame.orientation[0] - x).max() < 2e-3
    ]
    if not candidates:
        return []
    apart = np.linalg.norm(wanted[:, None] - np.stack([frame.position for frame in candidates]), axis=-1)
    if float(apart.min(axis=1).max()) > 0.1 * float(np.linalg.norm(lps[:3, 0])):
        return []
    return [candidates[i] for i in apart.argmin(axis=1)]


def _completed(dataset: Dataset) -> Dataset:
    """Without pixels, and with the attributes that may be empty but must be there (DICOM type 2)."""
    if "PixelData" in dataset:
        del dataset.PixelData
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    return dataset


def _descriptions(last: int, names: Mapping[int, str], version: str) -> list[Any]:
    """What each label up to the last one stands for."""
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="medssl", version=version, family=codes.DCM.ArtificialIntelligence
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=names.get(number, f"label {number}")[:64],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number in range(1, last + 1)
    ]


def _build(labels: NDArray[Any], frames: list[Frame], sources: list[Dataset], names: Mapping[int, str]) -> Dataset:
    import highdicom
    from pydicom.uid import generate_uid

    import medssl

    version = str(getattr(medssl, "__version__", "0"))
    last = max(1, int(labels.max()), *names) if names else max(1, int(labels.max()))
    first = frames[0]
    step = (
        float(np.linalg.norm(frames[-1].position - first.position)) / max(1, len(frames) - 1) or first.slice_mm or 1.0
    )
    orientation = [float(v) for v in first.orientation.ravel()]
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=labels.astype(np.uint8 if last < 256 else np.uint16),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(last, names, version),
        series_instance_uid=generate_uid(),
        series_number=1000,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="medssl",
        manufacturer_model_name="medssl",
        software_versions=version,
        device_serial_number="0",
        content_description="medssl prediction",
        pixel_measures=highdicom.PixelMeasuresSequence(
            pixel_spacing=list(first.spacing), slice_thickness=first.slice_mm or step, spacing_between_slices=step
        ),
        plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", orientation),
        plane_positions=[
            highdicom.PlanePositionSequence("PATIENT", [float(v) for v in frame.position]) for frame in frames
        ],
    )
