"""Sunnybrook cardiac MRI: short-axis slices as PNG with the area of the left ventricle, end diastole and end systole.

Get the data: https://www.cardiacatlas.org/sunnybrook-cardiac-data/ (45 patients, DICOM and contours); as PNG with
filled contours from https://github.com/mshunshin/SegNetCMR (``Data``), which is what this recipe reads. Licence: CC0
1.0 (public domain). Cite: Radau P. et al., Evaluation Framework for Algorithms Segmenting Short Axis Cardiac MRI, The
MIDAS Journal, 2009.

Layout: ``SC-HF-I-01-IM-0001-0048.dcm.png`` below a folder ``images`` and, under the same name, below a folder
``labels`` (0 and 255), in any further folders; ``slices.tsv`` with image and frame (ED or ES) where there is one.
The last number counts slices and phases together: slice (n - 1) // 20, phase (n - 1) % 20 + 1. All slices of one phase
are one recording, so a patient has two; slices without contour at the apex are in neither. The label ``phase`` is ED or
ES, ``group`` the pathology, from the name. Mask ``lv``: 1 endocardial area of the left ventricle.

PNG files know no voxel size: the nominal one of the challenge's page is taken and noted (8 mm between slices, 320 mm of
256 pixels). A stack that lacks a slice, or the label of one, is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medssl.adapters.image_stack import read_image_stack
from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.finding import files_below, require_folder, rows_by
from medssl.cohort.geometry import default_affine
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Sunnybrook"]

NAME = re.compile(r"(?P<patient>SC-(?P<group>HF-I|HF-NI|HYP|N)-\d+)-IM-\d+-(?P<number>\d+)(\.dcm)?\.png")
GROUPS = {
    "HF-I": "heart failure with infarction",
    "HF-NI": "heart failure without infarction",
    "HYP": "hypertrophy",
    "N": "healthy",
}
PHASES = 20


class Sunnybrook(Recipe):
    """Stacks of slices at one phase with the mask ``lv`` and the labels phase and group.

    Args:
        require_labels: reject stacks without labels; otherwise they are taken unlabelled.
        voxel_mm: size (z, y, x) that the files do not tell.
        spacing_mm: voxel size to resample to; None keeps that of ``voxel_mm``.
    """

    kind = "volume"
    modality = "mri"
    mask_labels = {"lv": {1: "left ventricle"}}  # noqa: RUF012

    def __init__(
        self,
        *,
        require_labels: bool = True,
        voxel_mm: tuple[float, float, float] = (8.0, 1.25, 1.25),
        spacing_mm: float | tuple[float, float, float] | None = None,
    ) -> None:
        self.require_labels = require_labels
        self.voxel_mm = tuple(voxel_mm)
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """MR by robust percentiles."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """The stack of every patient and phase."""
        files = files_below(require_folder(source, "sunnybrook"), (".png",))
        images = {f.name: f for f in files if _below(f, source, "images") and NAME.fullmatch(f.name)}
        labels = {f.name: f for f in files if _below(f, source, "labels")}
        if not images:
            raise RecipeError(f"no images/.../SC-HF-I-01-IM-0001-0048.dcm.png below '{source}' (recipe 'sunnybrook')")
        table = rows_by(source / "slices.tsv", "image")
        phases = {Path(image).name: row.get("frame") for image, row in table.items()}
        stacks: dict[tuple[str, int], dict[int, Path]] = {}
        for name, file in images.items():
            patient, place, phase = _place(name)
            stacks.setdefault((patient, phase), {})[place] = file
        for (patient, phase), slices in stacks.items():
            ordered = [slices[place] for place in sorted(slices)]
            found = [labels[f.name] for f in ordered if f.name in labels]
            fault = _fault(slices, len(found), require=self.require_labels)
            if fault:
                yield Rejected(str(ordered[0]), f"phase {phase} of {patient}: {fault}")
                continue
            yield Item(
                tuple(ordered),
                Ids(patient, recording=f"{patient}_phase{phase:02d}"),
                masks={"lv": found[0].parent} if found else {},
                labels={"phase": phases.get(ordered[0].name), "group": _group(ordered[0].name)},
            )
        for file in files:
            if file.name not in images:
                what = "label without image" if labels.get(file.name) == file else "its name is not that of a slice"
                yield Rejected(str(file), what)

    def read(self, item: Item) -> Read:
        """The slices of one phase as a volume, and their labels as its mask."""
        assert isinstance(item.path, tuple)
        try:
            stack = read_image_stack(item.path)
            labels = {"lv": _mask(item.masks["lv"], item.path, stack)} if "lv" in item.masks else {}
        except UnreadableRecording as error:
            return Read([], [Rejected(error.path, error.reason)])
        size = " x ".join(f"{v:g}" for v in self.voxel_mm)
        taken = f"voxel size and orientation are not in the files: taken as {size} mm along S, A, R"
        placed = stack.with_(
            affine=default_affine(self.voxel_mm),
            spacing_mm=self.voxel_mm,
            ids=item.ids,
            labels={**item.labels, **labels},
            source=item.source,
        )
        return Read([placed.noted(taken)], [])


def _below(file: Path, source: Path, folder: str) -> bool:
    return folder in (part.lower() for part in file.relative_to(source).parts[:-1])


def _place(name: str) -> tuple[str, int, int]:
    """Patient, slice and phase of a file name."""
    match = NAME.fullmatch(name)
    assert match is not None
    return match["patient"], (int(match["number"]) - 1) // PHASES, (int(match["number"]) - 1) % PHASES + 1


def _group(name: str) -> str:
    match = NAME.fullmatch(name)
    assert match is not None
    return GROUPS[match["group"]]


def _fault(slices: dict[int, Path], labelled: int, *, require: bool) -> str:
    """Why a stack cannot be used; empty when it can."""
    gaps = sorted(set(range(min(slices), max(slices))) - set(slices))
    if gaps:
        return f"slice {gaps[0]} between slices {min(slices)} and {max(slices)} is missing"
    if labelled < len(slices) and (labelled or require):
        return f"{len(slices) - labelled} of {len(slices)} slices have no label"
    return ""


def _mask(folder: Path, images: Sequence[Path], stack: Recording) -> np.ndarray:
    labels = read_image_stack([folder / image.name for image in images]).data
    if labels.shape != stack.data.shape:
        raise UnreadableRecording(f"the labels have size {labels.shape}, the slices {stack.data.shape}", folder)
    odd = np.setdiff1d(labels, (0, 255))
    if odd.size:
        raise UnreadableRecording(f"a label has the value {odd[0]}, which is neither 0 nor 255", folder)
    return (labels > 0).astype(np.uint8)
