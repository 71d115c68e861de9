"""Any tree of DICOM files, as a PACS export or a CD leaves it.

Get the data: your own. Licence, citation: of your data.

Layout: none wanted. Headers are read (no pixels), files grouped into series, and each series becomes one item: a CT
or MR volume, or as many as it holds. What is no image volume (reports, structure sets, segmentations, DICOMDIR,
other files) is rejected with its kind. With ``kind=video`` every file of ultrasound is a clip, named by its
SOPInstanceUID.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from medssl.adapters.dicom import Series, list_series
from medssl.adapters.dicom_frame import kind_of, text
from medssl.adapters.dicom_header import read_dataset
from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.preparation import Preparation
from medssl.cohort.reading import VideoItem
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import VideoPreparation
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Dicom"]

USUAL = {"volume": ("CT", "MR"), "video": ("US", "IVUS")}


class Dicom(Recipe):
    """Series of a DICOM tree, or its clips of ultrasound.

    Args:
        kind: ``"volume"`` or ``"video"`` (ultrasound clips).
        modalities: DICOM modalities to take; all images when empty. By default CT and MR of volumes, US and IVUS of
            clips.
        patient: what tells patients apart: ``"id"`` (PatientID), or, where ids were blanked, ``"study"``
            (StudyInstanceUID) or ``"folder"`` (first folder below the source). A series without it is rejected.
            ``"any"`` takes the first of these that is there: enough to name predictions, too little for a cohort.
        intensity: ``"auto"`` keeps Hounsfield units of CT and scales others by robust percentiles; of volumes.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind: Literal["volume", "video"]  # type: ignore[misc]  # chosen by an option here

    def __init__(
        self,
        *,
        kind: Literal["volume", "video"] = "volume",
        modalities: Sequence[str] | None = None,
        patient: Literal["id", "study", "folder", "any"] = "id",
        intensity: Literal["auto", "ct", "mr", "none"] = "auto",
        spacing_mm: float | tuple[float, float, float] | None = None,
    ) -> None:
        if kind not in ("volume", "video"):
            raise RecipeError(f"kind '{kind}' is unknown; use volume or video")
        if patient not in ("id", "study", "folder", "any"):
            raise RecipeError(f"patient '{patient}' is unknown; use id, study, folder or any")
        self.kind = kind
        self.modalities = frozenset(m.upper() for m in (USUAL[kind] if modalities is None else modalities))
        self.patient = patient
        self.intensity = intensity
        self.spacing_mm = spacing_mm
        one = {frozenset({"CT"}): "ct", frozenset({"MR"}): "mri"}.get(self.modalities, "dicom")
        self.modality = "us" if kind == "video" else one

    def preparation(self) -> Preparation:
        """Hounsfield units for CT, robust percentiles for the rest; clips as ``VideoPreparation`` does by default."""
        if self.kind == "video":
            return VideoPreparation()
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity=self.intensity)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every series, in order of its first file; or every clip, in order of path."""
        if self.kind == "video":
            yield from self._clips(source)
            return
        try:
            series, rejected = list_series(require_folder(source, "dicom"))
        except UnreadableRecording as error:
            raise RecipeError(f"nothing to read in '{source}': {error.reason}") from error
        if not series:
            raise RecipeError(f"no DICOM image below '{source}' ({len(rejected)} other files)")
        yield from rejected
        for one in series:
            yield self._item(one, source)

    def _item(self, series: Series, source: Path) -> Item | Rejected:
        first = series.files[0]
        kinds = sorted({file.modality for file in series.files})
        if self.modalities and not set(kinds) <= self.modalities:
            return Rejected(str(series.source), f"modality {'/'.join(kinds)}, not {'/'.join(sorted(self.modalities))}")
        folders = first.path.relative_to(source).parts[:-1]
        patient = self._whose(series.patient, series.study, folders, source)
        if not patient:
            return Rejected(str(series.source), self._nobody())
        recording = series.series or "_".join((patient, *folders))
        return Item(
            tuple(file.path for file in series.files),
            Ids(patient, series.study, recording),
            scanner=first.scanner,
        )

    def _clips(self, source: Path) -> Iterator[Item | Rejected]:
        files = files_below(require_folder(source, "dicom"))
        if not files:
            raise RecipeError(f"nothing to read in '{source}': the folder holds no files")
        found = [self._clip(file, source) for file in files]
        if all(isinstance(one, Rejected) and "not a DICOM file" in one.reason for one in found):
            raise RecipeError(f"no DICOM image below '{source}' ({len(found)} other files)")
        yield from found

    def _clip(self, file: Path, source: Path) -> Item | Rejected:
        try:
            header = read_dataset(file, header=True)
            modality, kind = text(header, "Modality"), kind_of(header)
            study, instance = text(header, "StudyInstanceUID"), text(header, "SOPInstanceUID")
            named = text(header, "PatientID")
        except UnreadableRecording as error:
            return Rejected(str(file), error.reason)
        if "Rows" not in header:
            return Rejected(str(file), f"it is {kind}, not an image")
        if self.modalities and modality not in self.modalities:
            return Rejected(str(file), f"modality {modality or '(none)'}, not {'/'.join(sorted(self.modalities))}")
        folders = file.relative_to(source).parts[:-1]
        patient = self._whose(named, study, folders, source)
        if not patient:
            return Rejected(str(file), self._nobody())
        return VideoItem(file, Ids(patient, study, instance or "_".join((patient, *folders, file.stem))))

    def _whose(self, named: str, study: str, folders: Sequence[str], source: Path) -> str:
        """The patient, or nothing where the wanted place does not say."""
        known = {"id": named, "study": study, "folder": folders[0] if folders else ""}
        first = next((name for name in known.values() if name.strip()), source.name)
        patient = {**known, "any": first}[self.patient]
        return patient if patient.strip() else ""

    def _nobody(self) -> str:
        return f"nothing says whose it is (patient={self.patient}); try patient=study or patient=folder"
