"""DICOM files and folders → volumes.

A folder is triaged by header, grouped into series, and every series becomes as many recordings as it holds volumes.
What is no volume, or cannot be read faithfully, comes back as :class:`Rejected` with its reason; the rest is read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.dicom_frame import Frame
from medssl.adapters.dicom_header import DicomFile, read_dataset, read_header
from medssl.adapters.dicom_pixels import decode_dicom, one_line, physical_values, unmosaic
from medssl.adapters.dicom_seg import read_segmentation
from medssl.adapters.dicom_stacks import Stack, arrange, groups, named
from medssl.adapters.recording import Ids, Read, Recording, Rejected, sha256_of
from medssl.errors import UnreadableRecording

__all__ = ["Series", "list_series", "read_dicom", "read_series"]

Pixels = dict[Path, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Series:
    """The files of one series (of one folder, where headers carry no SeriesInstanceUID).

    Attributes:
        patient, study, series: UIDs and PatientID as in the headers; empty where absent.
        folder: the deepest folder that holds all its files.
        files: their headers, in order of path.
    """

    patient: str
    study: str
    series: str
    folder: Path
    files: tuple[DicomFile, ...]

    @property
    def source(self) -> Path:
        """The file where there is one, else the folder."""
        return self.files[0].path if len(self.files) == 1 else self.folder


def read_dicom(source: Path | str | Sequence[Path | str]) -> Read:
    """Reads every volume in DICOM files.

    Slices are grouped by series, matrix, orientation, stack and echo, sorted by position along the normal, and
    rescaled one by one (CT in HU). Several images at every position become ``"tzyx"``; copies are left out with a
    note; missing slices and uneven gaps are refused with the files concerned. Gantry tilt stays in the data as
    acquired: the affine is sheared accordingly, and a note says so.

    Args:
        source: a file, a folder (searched with its subfolders), or a list of files.

    Returns:
        The recordings, and one entry for everything refused. ``ids.patient`` is the PatientID, ``session`` the
        StudyInstanceUID, ``recording`` the SeriesInstanceUID (with ``-1``, ``-2``, ... where a series holds
        several volumes). Names and birth dates of patients are never read.

    Raises:
        UnreadableRecording: the path does not exist or holds no file at all.
    """
    series, rejected = list_series(source)
    recordings: list[Recording] = []
    for one in series:
        read = read_series(one)
        recordings += read.recordings
        rejected += read.rejected
    return Read(recordings, rejected)


def list_series(source: Path | str | Sequence[Path | str]) -> tuple[list[Series], list[Rejected]]:
    """Groups DICOM files into series by their headers, without reading pixels.

    Args:
        source: as for :func:`read_dicom`.

    Returns:
        The series in order of their first file, and the files that are no images or no DICOM.

    Raises:
        UnreadableRecording: as for :func:`read_dicom`.
    """
    paths = _paths(source)
    rejected: list[Rejected] = []
    found: dict[tuple[str, str, str], list[DicomFile]] = defaultdict(list)
    for path in paths:
        try:
            file = read_header(path)
        except UnreadableRecording as error:
            rejected.append(Rejected(str(path), error.reason))
            continue
        found[(file.patient, file.study, file.series or f"folder {path.parent}")].append(file)
    series = [
        Series(patient, study, files[0].series, _common(files), tuple(files))
        for (patient, study, _), files in found.items()
    ]
    return series, rejected


def _paths(source: Path | str | Sequence[Path | str]) -> list[Path]:
    if not isinstance(source, (str, Path)):
        return [Path(path) for path in source]
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UnreadableRecording("it does not exist", path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    if not files:
        raise UnreadableRecording("the folder holds no files", path)
    return files


def _common(files: Sequence[DicomFile]) -> Path:
    return Path(os.path.commonpath([file.path.parent for file in files]))


def read_series(series: Series) -> Read:
    """Reads the volumes of one series (see :func:`read_dicom`)."""
    recordings: list[Recording] = []
    rejected: list[Rejected] = []
    parts: list[str] = []
    images: list[DicomFile] = []
    pixels: Pixels = {}
    for file in series.files:
        try:
            if file.modality == "SEG":
                recordings.append(read_segmentation(file))
                parts.append(file.path.name)
            else:
                pixels[file.path] = _decode(file)
                images.append(file)
        except UnreadableRecording as error:
            rejected.append(Rejected(error.path, error.reason))
        except Exception as error:  # a header so wrong that only its use shows it
            rejected.append(Rejected(str(file.path), f"it cannot be interpreted: {one_line(error)}"))
    by_path = {file.path: file for file in images}
    for frames in groups(images):
        try:
            stacks = arrange(frames, same=lambda a, b: _same(a, b, pixels), where=series.source)
        except UnreadableRecording as error:
            broken = [r.source for r in rejected]
            hint = f" (could not be read: {', '.join(Path(b).name for b in broken)})" if broken else ""
            rejected.append(Rejected(error.path, error.reason + hint))
            continue
        for stack in stacks:
            rejected += stack.rejected
            try:
                recordings.append(_recording(stack, by_path, pixels))
                parts.append(", ".join(word for word in stack.frames[0][0].part if word))
            except UnreadableRecording as error:
                rejected.append(Rejected(error.path, error.reason))
    return Read(_numbered(recordings, parts), rejected)


def _decode(file: DicomFile) -> NDArray[Any]:
    pixels = decode_dicom(read_dataset(file.path), file.path)
    if file.mosaic:
        pixels = unmosaic(pixels, file.mosaic, file.path)
    if len(pixels) != len(file.frames):
        raise UnreadableRecording(f"{len(pixels)} frames decoded where the header has {len(file.frames)}", file.path)
    return pixels


def _same(one: Frame, other: Frame, pixels: Pixels) -> bool:
    return (one.slope, one.intercept) == (other.slope, other.intercept) and np.array_equal(
        pixels[one.path][one.index], pixels[other.path][other.index]
    )


def _recording(stack: Stack, files: dict[Path, DicomFile], pixels: Pixels) -> Recording:
    flat = [frame for phase in stack.frames for frame in phase]
    first = files[flat[0].path]
    used = list(dict.fromkeys(frame.path for frame in flat))
    several = len(stack.frames) > 1
    if several and first.colour:
        raise UnreadableRecording(f"colour images over time: a video, not a volume ({named(flat)})", first.path.parent)
    data = physical_values(
        [pixels[frame.path][frame.index] for frame in flat],
        np.array([frame.slope for frame in flat]),
        np.array([frame.intercept for frame in flat]),
    )
    if several:
        data = data.reshape(len(stack.frames), len(stack.frames[0]), *data.shape[1:])
    elif first.colour:
        data = np.ascontiguousarray(np.moveaxis(data, -1, 0))
    notes = list(dict.fromkeys(note for path in used for note in files[path].notes)) + stack.notes
    if not first.series:
        notes.append("no SeriesInstanceUID: grouped by folder")
    if any(frame.lossy for frame in flat):
        notes.append("lossily compressed when acquired or archived")
    rate = _rate(stack, first, notes) if several else None
    folder = Path(os.path.commonpath([path.parent for path in used]))
    return Recording(
        data=data,
        axes="tzyx" if several else "czyx" if first.colour else "zyx",
        affine=stack.affine,
        spacing_mm=tuple(float(v) for v in np.linalg.norm(stack.affine[:3, :3], axis=0)),
        rate_hz=rate,
        channels=("red", "green", "blue") if first.colour else (),
        units=() if first.colour else (first.units,),
        frame_times=stack.frame_times,
        ids=Ids(patient=first.patient, session=first.study, recording=first.series or folder.name),
        labels={"dicom_modality": first.modality},
        scanner=first.scanner,
        source=str(used[0] if len(used) == 1 else folder),
        source_sha256=sha256_of(*used),
        notes=tuple(notes),
    )


def _rate(stack: Stack, file: DicomFile, notes: list[str]) -> float | None:
    """Volumes a second where they are evenly timed; from RepetitionTime where the headers carry no times."""
    if stack.frame_times is None:
        if file.repetition_s < 0.3:  # a cine's RepetitionTime is that of its echoes, not of its phases
            return None
        notes.append(f"no acquisition times: the interval of {file.repetition_s:g} s is the RepetitionTime")
        return 1.0 / file.repetition_s
    gaps = np.diff(stack.frame_times)
    return float(1.0 / gaps.mean()) if np.abs(gaps - gaps.mean()).max() <= 0.02 * gaps.mean() else None


def _numbered(recordings: list[Recording], parts: list[str]) -> list[Recording]:
    """Distinct recording ids where one series gave several volumes."""
    if len(recordings) < 2:
        return recordings
    return [
        one.with_(
            ids=Ids(one.ids.patient, one.ids.session, f"{one.ids.recording}-{i}", one.ids.trial),
            notes=(*one.notes, f"volume {i} of {len(recordings)} in its series" + (f": {part}" if part else "")),
        )
        for i, (one, part) in enumerate(zip(recordings, parts, strict=True), 1)
    ]
