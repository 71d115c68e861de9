"""BTCV: abdominal CT with 13 organs, 30 labelled and 20 unlabelled patients.

Get the data: https://www.synapse.org/Synapse:syn3193805 (registration; ``Abdomen/RawData.zip``). Licence: see the
terms there. Cite: Landman B. et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015.

Layout: ``RawData/Training/img/img0001.nii.gz``, ``RawData/Training/label/label0001.nii.gz``,
``RawData/Testing/img/img0061.nii.gz``; the folders above ``img`` and ``label`` may be called otherwise.
Mask ``organs``: 1 spleen, 2 right kidney, 3 left kidney, 4 gallbladder, 5 oesophagus, 6 liver, 7 stomach, 8 aorta, 9
inferior vena cava, 10 portal and splenic vein, 11 pancreas, 12 right and 13 left adrenal gland. Not every organ is in
every patient (a gallbladder or kidney may have been removed).

Splits: ``split`` is train, or unlabelled for the test images (their labels are kept by the organisers).
``split_monai`` is the division in 24 and 6 patients of MONAI's examples, which VoCo and SwinUNETR report on: val is
0035 to 0040. Those results are the best validation Dice, so they are no test results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import files_below, in_pairs, numbers, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["BTCV"]

NAME = re.compile(r"(?P<what>img|label)(?P<number>\d{4})\.nii(\.gz)?")
ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland"),
)
LAST_TRAINING = 40  # 0001 to 0010 and 0021 to 0040; testing is 0061 to 0080
MONAI_VAL = numbers("35-40")


class BTCV(Recipe):
    """Portal-venous CT with the mask ``organs``.

    Args:
        require_labels: reject training images that have no label map; otherwise they are taken unlabelled.
        test_images: take the test images too, unlabelled.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"
    modality = "ct"
    mask_labels = {"organs": dict(enumerate(ORGANS, start=1))}  # noqa: RUF012

    def __init__(
        self,
        *,
        require_labels: bool = True,
        test_images: bool = True,
        spacing_mm: float | tuple[float, float, float] | None = 1.5,
    ) -> None:
        self.require_labels = require_labels
        self.test_images = test_images
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """1.5 mm isotropic, Hounsfield units with the window of soft tissue."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="ct", window=(-175.0, 250.0))

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Training pairs, test images, and files of other names."""
        files = files_below(require_folder(source, "btcv"), (".nii.gz", ".nii"))
        named = {f: m for f in files if (m := NAME.fullmatch(f.name))}
        if not named:
            raise RecipeError(f"no img0001.nii.gz or the like below '{source}'; recipe 'btcv' wants the folder RawData")
        images, label_maps = (
            {m["number"]: f for f, m in named.items() if m["what"] == what} for what in ("img", "label")
        )
        training = {n: f for n, f in images.items() if int(n) <= LAST_TRAINING or n in label_maps}
        for found in in_pairs(training, label_maps, require=self.require_labels):
            yield found if isinstance(found, Rejected) else _item(*found)
        if self.test_images:
            yield from (_item(number, f, None) for number, f in images.items() if number not in training)
        yield from (Rejected(str(f), "its name is not like img0001.nii.gz") for f in files if f not in named)


def _item(number: str, image: Path, label_map: Path | None) -> Item:
    labels = {"split": "train" if int(number) <= LAST_TRAINING else "test" if label_map else "unlabelled"}
    if int(number) <= LAST_TRAINING:
        labels["split_monai"] = "val" if int(number) in MONAI_VAL else "train"
    return Item(image, Ids(number, recording=f"img{number}"), {"organs": label_map} if label_map else {}, labels)
