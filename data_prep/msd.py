"""Medical Segmentation Decathlon layout: ``imagesTr/``, ``labelsTr/``, ``imagesTs/``, ``dataset.json``.

Get the data: http://medicaldecathlon.com (or its AWS Open Data mirror); one folder a task, e.g.
``Task04_Hippocampus``. Licence: CC BY-SA 4.0. Cite: Antonelli M. et al., The Medical Segmentation Decathlon, Nature
Communications 13:4128, 2022; Simpson A. L. et al., arXiv 1902.09063, 2019.

One file is one patient (the source gives no other ids). A fourth axis is the MR sequence. Images without a label,
labels without an image, and stray files anywhere below the folder are rejected with what is wrong with each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medssl.adapters.recording import Ids, Read, Rejected, sha256_of
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["MSD"]

SUFFIXES = (".nii.gz", ".nii")
NAMES = {"mri": ("mri", "mr", "t1", "t2", "flair", "adc"), "ct": ("ct",)}


class MSD(Recipe):
    """A task of the Decathlon; its label map becomes the mask ``labels``.

    Args:
        modality: ``"mri"`` or ``"ct"`` (Hounsfield units); checked against ``dataset.json``.
        require_labels: reject images of ``imagesTr`` that have no label; otherwise they are taken unlabelled.
        test_images: take ``imagesTs`` too, unlabelled.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"

    def __init__(
        self,
        *,
        modality: Literal["mri", "ct"] = "mri",
        require_labels: bool = True,
        test_images: bool = True,
        spacing_mm: float | tuple[float, float, float] | None = None,
    ) -> None:
        self.modality = modality
        self.require_labels = require_labels
        self.test_images = test_images
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """MR by robust percentiles, CT in Hounsfield units."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="ct" if self.modality == "ct" else "mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Pairs of ``imagesTr`` and ``labelsTr``, then everything else that lies there."""
        files = files_below(require_folder(source, "msd"), SUFFIXES)
        if not files:
            raise RecipeError(f"no .nii.gz below '{source}'; recipe 'msd' wants the folder that holds imagesTr")
        listed = self._describe(source)
        by_role = {role: {_stem(f): f for f in files if f.parent == source / role} for role in ROLES}
        for name, image in by_role["imagesTr"].items():
            label = by_role["labelsTr"].get(name)
            if label is None and self.require_labels:
                yield Rejected(str(image), f"image without label: no labelsTr/{image.name}")
                continue
            yield Item(image, Ids(patient=name, recording=name), masks={"labels": label} if label else {})
        if self.test_images:
            for name, image in by_role["imagesTs"].items():
                yield Item(image, Ids(patient=name, recording=name))
        for name, label in by_role["labelsTr"].items():
            if name not in by_role["imagesTr"]:
                yield _stray(label, by_role)
        yield from (_stray(f, by_role) for f in files if f.parent.name not in ROLES or f.parent.parent != source)
        for name in listed:
            if name not in by_role["imagesTr"]:
                yield Rejected(str(source / "imagesTr" / f"{name}.nii.gz"), "listed in dataset.json, but not there")

    def read(self, item: Item) -> Read:
        """As any volume, but a fourth axis is the sequence, not time."""
        return read_item(self.kind, item, fourth_axis="channel")

    def _describe(self, source: Path) -> list[str]:
        """Label names and modality from ``dataset.json``; returns the names of the images it lists."""
        file = source / "dataset.json"
        if not file.is_file():
            return []
        try:
            about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            self.mask_labels = {"labels": {int(k): str(v) for k, v in about.get("labels", {}).items() if int(k)}}
            stated = " ".join(str(v) for v in about.get("modality", {}).values()).lower()
            listed = [_stem(Path(case["image"])) for case in about.get("training", [])]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecipeError(f"'{file}' is not as the Decathlon writes it ({error}); mend or remove it") from error
        other = "ct" if self.modality == "mri" else "mri"
        if set(stated.split()) & set(NAMES[other]) and not set(stated.split()) & set(NAMES[self.modality]):
            raise RecipeError(f"'{file}' says modality {stated}; add --options modality={other}")
        return listed


ROLES = ("imagesTr", "labelsTr", "imagesTs")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _stray(file: Path, by_role: dict[str, dict[str, Path]]) -> Rejected:
    """Why a file that is in no pair was not taken, from what is in it."""
    name = _stem(file)
    try:
        labels, grid = _look(file)
    except Exception as error:  # any fault of a stray file is only one more reason not to take it
        return Rejected(str(file), f"cannot be read: {error}")
    if not labels:
        missing = "" if name in by_role["labelsTr"] else f": no labelsTr/{name}.nii.gz"
        return Rejected(str(file), f"image without label{missing}" if missing else "image outside imagesTr")
    size = file.stat().st_size
    twins = [f for f in by_role["labelsTr"].values() if f != file and f.stat().st_size == size]
    copy = next((f for f in twins if sha256_of(f) == sha256_of(file)), None)
    reason = f"label without image: no imagesTr/{name}.nii.gz" if name not in by_role["imagesTr"] else "second label"
    return Rejected(str(file), f"{reason} (grid {grid}{f'; a copy of the label of {_stem(copy)}' if copy else ''})")


def _look(file: Path) -> tuple[bool, str]:
    """Whether a volume looks like a label map (few whole values), and its grid in words."""
    import nibabel

    image: Any = nibabel.load(file)
    values = np.unique(np.asarray(image.dataobj))
    few = len(values) <= 32 and bool(np.all(values == np.rint(values)))
    sizes = "x".join(f"{v:.3g}" for v in image.header.get_zooms()[:3])
    return few, f"{'x'.join(str(n) for n in image.shape)} at {sizes} mm"
