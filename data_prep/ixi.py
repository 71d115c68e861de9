"""IXI T1-weighted brain MRI of healthy adults, with age, sex and automatic brain regions.

Get the data: https://brain-development.org/ixi-dataset/ (``IXI-T1.tar``); region labels (DLMUSE) as distributed
with CBICA's NiChart. Licence: images CC BY-SA 3.0; regions under the SBIA software and data licence (research
only). Cite: IXI, Information eXtraction from Images (EPSRC GR/S21533/02); Bashyam V. M. et al., DLMUSE.

Layout: ``t1/IXInnn-SITE-mmmm_T1.nii.gz``, ``dlmuse/IXInnn-SITE-mmmm_T1_DLMUSE.nii.gz`` (optional),
``participants.tsv`` with subject, age, sex (optional). One file a subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.recording import Ids, Read, Rejected
from medssl.cohort.finding import cell, files_below, require_folder, rows_by
from medssl.cohort.merging import merge_labels
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["IXI"]

STRUCTURES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("cerebral cortex", tuple(range(100, 208))),
    ("cerebral white matter", tuple(range(81, 96))),
    ("basal ganglia", (23, 30, 36, 37, 55, 56, 57, 58, 75, 76)),
    ("thalamus", (59, 60)),
    ("hippocampus", (47, 48)),
    ("amygdala", (31, 32)),
    ("lateral ventricles", (49, 50, 51, 52)),
    ("third and fourth ventricle", (4, 11)),
    ("cerebellar cortex", (38, 39, 71, 72, 73)),
    ("cerebellar white matter", (40, 41)),
    ("brain stem", (35, 61, 62)),
    ("cortical CSF", (1,)),
)
"""Merged structures and their DLMUSE indices; 46 and 69, which the source does not name, stay background."""


class IXI(Recipe):
    """T1 volumes with the mask ``structures`` (12 merged DLMUSE structures) and the labels age and sex.

    Args:
        regions: also keep all DLMUSE regions, as the mask ``regions``.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"
    modality = "mri"
    mask_labels = {"structures": {i: name for i, (name, _) in enumerate(STRUCTURES, start=1)}}  # noqa: RUF012

    def __init__(self, *, regions: bool = False, spacing_mm: float | tuple[float, float, float] | None = 2.0) -> None:
        self.regions = regions
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """2 mm isotropic, MR by robust percentiles."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """T1 volumes with their label maps and what the table says of the subject."""
        files = files_below(require_folder(source, "ixi"), (".nii.gz", ".nii"))
        images = [f for f in files if "-T1." in f.name or "_T1." in f.name]
        if not images:
            raise RecipeError(f"no file named like IXI002-Guys-0828-T1.nii.gz below '{source}'")
        masks = ("structures", "regions") if self.regions else ("structures",)
        maps = {f.name.split("_T1_DLMUSE")[0]: f for f in files if "_T1_DLMUSE" in f.name}
        people = rows_by(source / "participants.tsv", "subject")
        for image in images:
            subject = image.name.split("_T1.")[0].split("-T1.")[0]
            person = people.get(subject, {})
            parts = subject.split("-")
            regions = maps.pop(subject, None)
            yield Item(
                image,
                Ids(patient=subject, recording=subject),
                masks=dict.fromkeys(masks, regions) if regions else {},
                labels={"age": cell(person.get("age")), "sex": person.get("sex")},
                site=person.get("site") or (parts[1] if len(parts) > 1 else ""),
            )
        for file in maps.values():
            yield Rejected(str(file), "label map without image")

    def read(self, item: Item) -> Read:
        """The volume, with its regions merged into structures."""
        groups = {value: indices for value, (_, indices) in enumerate(STRUCTURES, start=1)}
        return merge_labels(read_item(self.kind, item), "structures", groups, others="background")
