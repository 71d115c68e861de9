"""DICOM headers: what each file says about itself, read without its pixels.

What is no slice of a volume is refused here, with the reason.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.adapters.dicom_frame import Frame, frames_of, group_value, kind_of, mosaic_count, number, text
from medssl.adapters.dicom_pixels import one_line
from medssl.errors import UnreadableRecording

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["DicomFile", "read_dataset", "read_header"]

HEADER_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "ImageType",
    "InstanceNumber",
    "AcquisitionNumber",
    "StackID",
    "EchoTime",
    "TriggerTime",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "ContentTime",
    "TemporalPositionIdentifier",
    "RepetitionTime",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SpacingBetweenSlices",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "Units",
    "LossyImageCompression",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ComplexImageComponent",
    "DiffusionBValue",
    "SpecificCharacterSet",
)
MOSAIC_TAGS = (0x00190010, 0x0019100A, 0x00290010, 0x00290011, 0x00290012, 0x00291010, 0x00291110, 0x00291210)


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One file as its header describes it.

    Attributes:
        path: the file.
        patient, study, series, instance: PatientID and UIDs; empty where absent.
        modality: the DICOM modality.
        scanner: manufacturer and model.
        units: of the rescaled values: ``"HU"`` for CT, the Units tag for PET, else empty.
        shape: rows and columns of one slice (of one tile of a mosaic).
        colour: decodes to RGB.
        mosaic: slices in a Siemens mosaic; 0 where it is none.
        repetition_s: RepetitionTime in seconds; 0 where absent.
        frames: its slices (see :class:`~medssl.adapters.dicom_frame.Frame`); empty for segmentations.
        notes: what was assumed.
    """

    path: Path
    patient: str
    study: str
    series: str
    instance: str
    modality: str
    scanner: str
    units: str
    shape: tuple[int, int]
    colour: bool
    mosaic: int
    repetition_s: float
    frames: tuple[Frame, ...] = ()
    notes: tuple[str, ...] = ()


@cache
def _tags() -> tuple[int, ...]:
    from pydicom.datadict import tag_for_keyword

    tags = (tag_for_keyword(keyword) for keyword in HEADER_KEYWORDS)
    return (*(tag for tag in tags if tag is not None), *MOSAIC_TAGS)


def read_dataset(path: Path, *, header: bool = False) -> Dataset:
    """Reads a data set, also one without the 128-byte preamble.

    Args:
        path: the file.
        header: only what grouping needs, without pixels.

    Raises:
        UnreadableRecording: it is not DICOM, or is cut short before anything useful.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import ImplicitVRLittleEndian

    options: dict[str, Any] = {"stop_before_pixels": True, "specific_tags": list(_tags())} if header else {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            dataset = dcmread(path, **options)
        except InvalidDicomError:
            try:
                dataset = dcmread(path, force=True, **options)
            except Exception as error:
                raise UnreadableRecording("it is not a DICOM file", path) from error
            if "SOPClassUID" not in dataset:
                raise UnreadableRecording("it is not a DICOM file", path) from None
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        except Exception as error:  # a parser given damaged bytes may raise anything
            raise UnreadableRecording(f"its DICOM header cannot be read: {one_line(error)}", path) from error
    if len(dataset) == 0:
        short = any("End of file" in str(warning.message) for warning in said)
        raise UnreadableRecording("the file is cut short" if short else "its data set is empty", path)
    return dataset


def read_header(path: Path) -> DicomFile:
    """What one file is and where its frames lie.

    Raises:
        UnreadableRecording: not DICOM, not an image, or an image that is no part of a volume; the reason says which.
    """
    dataset = read_dataset(path, header=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values not in the form their type asks for; what cannot be used, raises
            return _interpret(dataset, path)
    except UnreadableRecording:
        raise
    except Exception as error:  # values are parsed on access, so damaged bytes may raise anything here
        raise UnreadableRecording(f"its DICOM header cannot be interpreted: {one_line(error)}", path) from error


def _interpret(dataset: Dataset, path: Path) -> DicomFile:
    modality = text(dataset, "Modality")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise UnreadableRecording(f"it is {kind_of(dataset)}, not an image", path)
    if modality == "RTDOSE":
        raise UnreadableRecording("an RT dose grid, not an image", path)
    mosaic = mosaic_count(dataset, path)
    notes: tuple[str, ...] = ()
    frames: list[Frame] = []
    if modality != "SEG":  # segmentations are put together frame by segment, see dicom_seg
        frames, notes = frames_of(dataset, path, modality, mosaic)
    if "ModalityLUTSequence" in dataset:
        raise UnreadableRecording("its values need a Modality LUT, which is not supported", path)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        notes += ("MONOCHROME1 (shown inverted by viewers): values kept as stored",)
    shape = (int(dataset.Rows), int(dataset.Columns))
    if mosaic:
        tiles = int(np.ceil(np.sqrt(mosaic)))
        shape = (shape[0] // tiles, shape[1] // tiles)
    colour = int(dataset.get("SamplesPerPixel") or 1) > 1
    colour = colour or dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
    repetition = number(group_value(dataset, 0, "MRTimingAndRelatedParametersSequence", "RepetitionTime")) or 0.0
    rescale = text(dataset, "RescaleType")
    units = text(dataset, "Units") or ("HU" if modality == "CT" and rescale in ("", "HU", "US") else "")
    scanner = f"{text(dataset, 'Manufacturer')} {text(dataset, 'ManufacturerModelName')}".strip()
    return DicomFile(
        path=path,
        patient=text(dataset, "PatientID"),
        study=text(dataset, "StudyInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        instance=text(dataset, "SOPInstanceUID"),
        modality=modality,
        scanner=scanner,
        units=units,
        shape=shape,
        colour=colour,
        mosaic=mosaic,
        repetition_s=repetition / 1000,
        frames=tuple(frames),
        notes=notes,
    )
