"""Any tree of DICOM files, as a PACS export or a CD leaves it.

Get the data: your own. Licence, citation: of your data.

Layout: none wanted. Headers are read (no pixels), files grouped into series, and each series becomes one item: a CT
or MR volume, or as many as it holds. What is no image volume (reports, structure sets, segmentations, DICOMDIR,
other files) is rejected with its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from medssl.adapters.dicom import Series, list_series
from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Dicom"]


class Dicom(Recipe):
    """Series of a DICOM tree.

    Args:
        modalities: DICOM modalities to take; all image volumes when empty.
        patient: what tells patients apart: ``"id"`` (PatientID), or, where ids were blanked, ``"study"``
            (StudyInstanceUID) or ``"folder"`` (first folder below the source). A series without it is rejected.
            ``"any"`` takes the first of these that is there: enough to name predictions, too little for a cohort.
        intensity: ``"auto"`` keeps Hounsfield units of CT and scales others by robust percentiles.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"

    def __init__(
        self,
        *,
        modalities: Sequence[str] = ("CT", "MR"),
        patient: Literal["id", "study", "folder", "any"] = "id",
        intensity: Literal["auto", "ct", "mr", "none"] = "auto",
        spacing_mm: float | tuple[float, float, float] | None = None,
    ) -> None:
        if patient not in ("id", "study", "folder", "any"):
            raise RecipeError(f"patient '{patient}' is unknown; use id, study, folder or any")
        self.modalities = frozenset(m.upper() for m in modalities)
        self.patient = patient
        self.intensity = intensity
        self.spacing_mm = spacing_mm
        self.modality = {frozenset({"CT"}): "ct", frozenset({"MR"}): "mri"}.get(self.modalities, "dicom")

    def preparation(self) -> VolumePreparation:
        """Hounsfield units for CT, robust percentiles for the rest."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity=self.intensity)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every series, in order of its first file."""
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
        known = {"id": series.patient, "study": series.study, "folder": folders[0] if folders else ""}
        named = next((name for name in known.values() if name.strip()), source.name)
        patient = {**known, "any": named}[self.patient]
        if not patient.strip():
            return Rejected(
                str(series.source),
                f"nothing says whose it is (patient={self.patient}); try patient=study or patient=folder",
            )
        recording = series.series or "_".join((patient, *folders))
        return Item(
            tuple(file.path for file in series.files),
            Ids(patient, series.study, recording),
            scanner=first.scanner,
        )
