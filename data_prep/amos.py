"""AMOS22: abdominal CT and MRI with 15 organs, 500 and 100 patients.

Get the data: https://zenodo.org/records/7262581 (``amos22.zip``). Licence: CC BY 4.0. Cite: Ji Y. et al., AMOS: A
Large-Scale Abdominal Multi-Organ Benchmark for Versatile Medical Image Segmentation, NeurIPS 2022 (arXiv 2206.08023).

Layout: ``images{Tr,Va,Ts}/amos_NNNN.nii.gz``, ``labels{Tr,Va}/amos_NNNN.nii.gz``, ``dataset.json``; beside them, if
wanted, ``labeled_data_meta_0000_0599.csv`` for sex, age, site and scanner. Numbers up to 500 are CT, larger ones MRI
(the release's text leaves 500 open; by its intensities it is CT). Mask ``organs``: the 15 of ``ORGANS`` below, of
which MRI has 1 to 13 only; 15 is the prostate of men and the uterus of women. The unlabelled extra archives (numbers
from 5000) are for the recipe ``folder``.

Splits: ``split`` is train, val, or unlabelled for ``imagesTs`` (its labels are kept by the organisers). Papers report
on val: ``medssl cohort split COHORT --test-where split=val``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from medssl.adapters.recording import Ids, Read, Rejected
from medssl.cohort.finding import files_below, in_pairs, require_folder, rows_by
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["AMOS"]

NAME = re.compile(r"amos_(?P<number>\d{4})\.nii(\.gz)?")
PARTS = {"Tr": "train", "Va": "val", "Ts": "unlabelled"}
LAST_CT = 500
META = "labeled_data_meta_0000_0599.csv"
ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder"),
    "prostate or uterus",
)


class AMOS(Recipe):
    """Volumes with the mask ``organs`` and the labels modality, sex and age.

    Args:
        modality: ``"ct"`` (Hounsfield units), ``"mri"``, or ``"both"``, each prepared in its own way.
        require_labels: reject images of train and val that have no label map; otherwise they are taken unlabelled.
        test_images: take ``imagesTs`` too, unlabelled.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"
    mask_labels = {"organs": dict(enumerate(ORGANS, start=1))}  # noqa: RUF012

    def __init__(
        self,
        *,
        modality: Literal["ct", "mri", "both"] = "ct",
        require_labels: bool = True,
        test_images: bool = True,
        spacing_mm: float | tuple[float, float, float] | None = 1.5,
    ) -> None:
        if modality not in ("ct", "mri", "both"):
            raise RecipeError(f"modality '{modality}' is unknown; use ct, mri or both")
        self.modality = "ct and mri" if modality == "both" else modality
        self.require_labels = require_labels
        self.test_images = test_images
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """1.5 mm isotropic; CT in Hounsfield units with the window of soft tissue, MR by robust percentiles."""
        intensity: dict[str, Literal["ct", "mr", "auto"]] = {"ct": "ct", "mri": "mr", "ct and mri": "auto"}
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity=intensity[self.modality], window=(-175.0, 250.0))

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Pairs of train and val, test images, and files elsewhere."""
        files = files_below(require_folder(source, "amos"), (".nii.gz", ".nii"))
        folders = {f"{what}{part}" for what in ("images", "labels") for part in PARTS}
        named = {f: m["number"] for f in files if f.parent.name in folders and (m := NAME.fullmatch(f.name))}
        if not named:
            raise RecipeError(f"no imagesTr/amos_NNNN.nii.gz below '{source}'; recipe 'amos' wants the folder amos22")
        people = _people(source)
        for part in PARTS if self.test_images else ("Tr", "Va"):
            images, label_maps = (
                {n: f for f, n in named.items() if f.parent.name == f"{what}{part}" and _modality(n) in self.modality}
                for what in ("images", "labels")
            )
            for found in in_pairs(images, label_maps, require=part != "Ts" and self.require_labels):
                if isinstance(found, Rejected):
                    yield found
                else:
                    yield _item(*found, split=PARTS[part], person=people.get(int(found[0]), {}))
        for file in files:
            if file not in named:
                yield Rejected(str(file), "not amos_NNNN.nii.gz in a folder such as imagesTr or labelsTr")

    def read(self, item: Item) -> Read:
        """The volume; of CT its unit is known."""
        read = read_item(self.kind, item)
        units = ("HU",) if item.labels.get("modality") == "ct" else ("",)
        return Read([r.with_(units=units) for r in read.recordings], read.rejected)


def _modality(number: str) -> str:
    return "ct" if int(number) <= LAST_CT else "mri"


def _item(number: str, image: Path, label_map: Path | None, *, split: str, person: Mapping[str, str | None]) -> Item:
    name = f"amos_{number}"
    age = re.match(r"\d+", person.get("Patient's Age") or "")
    labels: dict[str, Any] = {
        "modality": _modality(number),
        "split": split,
        "sex": person.get("Patient's Sex"),
        "age": float(age[0]) if age else None,
    }
    return Item(
        image,
        Ids(name, recording=name),
        masks={"organs": label_map} if label_map else {},
        labels=labels,
        site=person.get("Site") or "",
        scanner=person.get("Manufacturer's Model Name") or "",
    )


def _people(source: Path) -> dict[int, dict[str, str | None]]:
    table = next((f for f in (source / META, source.parent / META) if f.is_file()), source / META)
    return {int(number): row for number, row in rows_by(table, "amos_id").items() if number.isdigit()}
