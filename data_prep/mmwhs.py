"""MM-WHS 2017: whole-heart CT and MRI, seven structures, 20 labelled and 40 unlabelled patients of each.

Get the data: http://www.sdspeople.fudan.edu.cn/zhuangxiahai/0/mmwhs/ (registration). Licence: see the terms there.
Cite: Zhuang X. et al., Medical Image Analysis 58:101537, 2019; Zhuang X., Shen J., Medical Image Analysis 31:77-87,
2016.

Layout: ``mr_train_1001_image.nii.gz`` with ``mr_train_1001_label.nii.gz``, ``ct_train_...``, and for testing
``mr_test_2001_image.nii.gz`` and so on, in any folders. CT and MRI of one number are different patients.
Mask ``heart``: 205 myocardium, 420 left atrium, 500 left ventricle, 550 right atrium, 600 right ventricle, 820
ascending aorta, 850 pulmonary artery become 1 to 7. A label map with any other value is refused, since what it
means is a guess (421 is said to occur): ``relabel`` says what it stands for.

Splits: ``split`` is train, or unlabelled for the test images (their labels are kept by the organisers).
``split_chaitanya2020`` (MRI; global and local contrast, NeurIPS 2020): test 1011 to 1020, train the others, which also
serve for pre-training. Its labelled subsets are 1 patient: 1003 | 1006 | 1008 | 1001 | 1009; 2 patients: 1001 1003 |
1009 1008 | 1006 1002 | 1010 1007; 8 patients: 1001 to 1010 without 1002 1005 | 1001 1008 | 1002 1007, which validate.
``split_nguyen2023`` (CT and MRI; joint image and volume, AAAI 2023): 13 train, 3 val, 4 test. The loader released with
it merges all labels above 1 into one, so that its left atrium is always empty; this recipe does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from medssl.adapters.recording import Ids, Read, Rejected
from medssl.cohort.finding import files_below, in_pairs, numbers, require_folder
from medssl.cohort.merging import merge_labels
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["MMWHS"]

NAME = re.compile(
    r"(?P<patient>(?P<modality>ct|mr)_(?P<part>train|test)_(?P<number>\d{4}))_(?P<what>image|label)\.nii(\.gz)?"
)
STRUCTURES = {
    205: "myocardium",
    420: "left atrium",
    500: "left ventricle",
    550: "right atrium",
    600: "right ventricle",
    820: "ascending aorta",
    850: "pulmonary artery",
}
CHAITANYA_TEST = numbers("1011-1020")
NGUYEN_VAL, NGUYEN_TEST = numbers("1004 1007 1013"), numbers("1002 1010 1012 1019")


class MMWHS(Recipe):
    """Volumes of one modality with the mask ``heart``.

    Args:
        modality: ``"mri"`` or ``"ct"`` (Hounsfield units).
        require_labels: reject training images that have no label map; otherwise they are taken unlabelled.
        test_images: take the test images too, unlabelled.
        relabel: value in a label map that is none of the seven → the one it stands for, e.g. ``{"421": 420}``.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own. VoCo takes 1.5 mm for CT and 1 mm
            for MRI.
    """

    kind = "volume"
    mask_labels = {"heart": dict(enumerate(STRUCTURES.values(), start=1))}  # noqa: RUF012

    def __init__(
        self,
        *,
        modality: Literal["mri", "ct"] = "mri",
        require_labels: bool = True,
        test_images: bool = True,
        relabel: Mapping[str, int] | None = None,
        spacing_mm: float | tuple[float, float, float] | None = 1.5,
    ) -> None:
        if modality not in ("mri", "ct"):
            raise RecipeError(f"modality '{modality}' is unknown; use mri or ct")
        self.modality = modality
        self.require_labels = require_labels
        self.test_images = test_images
        self.relabel = {int(odd): int(meant) for odd, meant in (relabel or {}).items()}
        self.spacing_mm = spacing_mm
        unknown = set(self.relabel.values()) - set(STRUCTURES)
        if unknown:
            raise RecipeError(f"relabel gives {min(unknown)}; use one of {', '.join(map(str, STRUCTURES))}")

    def preparation(self) -> VolumePreparation:
        """1.5 mm isotropic; MR by robust percentiles, CT in Hounsfield units with a window for contrast agent."""
        if self.modality == "ct":
            return VolumePreparation(spacing_mm=self.spacing_mm, intensity="ct", window=(0.0, 1700.0))
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Pairs of the wanted modality, test images, and files of other names; the other modality is left alone."""
        files = files_below(require_folder(source, "mmwhs"), (".nii.gz", ".nii"))
        named = {f: m for f in files if (m := NAME.fullmatch(f.name))}
        wanted = {f: m for f, m in named.items() if m["modality"] == {"mri": "mr", "ct": "ct"}[self.modality]}
        if not wanted:
            raise RecipeError(
                f"no {self.modality} file named like mr_train_1001_image.nii.gz below '{source}' "
                f"({len(named)} of the other modality)"
            )
        for part in ("train", "test") if self.test_images else ("train",):
            images, label_maps = (
                {m["patient"]: f for f, m in wanted.items() if (m["part"], m["what"]) == (part, what)}
                for what in ("image", "label")
            )
            for found in in_pairs(images, label_maps, require=part == "train" and self.require_labels):
                yield found if isinstance(found, Rejected) else _item(*found, match=wanted[found[1]])
        for file in files:
            if file not in named:
                yield Rejected(str(file), "its name is not like mr_train_1001_image.nii.gz")

    def read(self, item: Item) -> Read:
        """The volume, with its structures numbered 1 to 7."""
        classes = {
            new: (value, *(odd for odd, meant in self.relabel.items() if meant == value))
            for new, value in enumerate(STRUCTURES, start=1)
        }
        return merge_labels(read_item(self.kind, item), "heart", classes, others="refuse")


def _item(patient: str, image: Path, label_map: Path | None, *, match: re.Match[str]) -> Item:
    number, training = int(match["number"]), match["part"] == "train"
    labels = {"split": "train" if training else "unlabelled"}
    if training and match["modality"] == "mr":
        labels["split_chaitanya2020"] = "test" if number in CHAITANYA_TEST else "train"
    if training:
        labels["split_nguyen2023"] = "val" if number in NGUYEN_VAL else "test" if number in NGUYEN_TEST else "train"
    return Item(image, Ids(patient, recording=patient), {"heart": label_map} if label_map else {}, labels)
