"""nnU-Net's raw layout: ``imagesTr/CASE_0000.nii.gz`` (one file a channel), ``labelsTr/CASE.nii.gz``, ``dataset.json``.

Get the data: your own, or any data set in nnU-Net's format (https://github.com/MIC-DKFZ/nnUNet,
documentation/dataset_format.md). Licence: of the data set at hand. Cite: Isensee F. et al., nnU-Net, Nature Methods
18:203-211, 2021, and the data set.

Cases without all channels, and labels without images, are rejected. Regions (lists of values in ``labels``) are left
to the user; the label values themselves are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from medssl.adapters.recording import Ids, Read, Rejected
from medssl.adapters.volume import VOLUME_SUFFIXES, stem_of
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import read_channels, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["NNUNet"]

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class NNUNet(Recipe):
    """A data set in nnU-Net's raw format; its label map becomes the mask ``labels``.

    Args:
        modality: ``"mri"`` or ``"ct"`` (Hounsfield units); checked against ``channel_names``.
        patient: regular expression with one group that finds the patient in a case's name, e.g. ``"(sub\\d+)_"``; by
            default a case is a patient.
        require_labels: reject cases of ``imagesTr`` that have no label; otherwise they are taken unlabelled.
        test_images: take ``imagesTs`` too, unlabelled.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"

    def __init__(
        self,
        *,
        modality: Literal["mri", "ct"] = "mri",
        patient: str = "(.+)",
        require_labels: bool = True,
        test_images: bool = True,
        spacing_mm: float | tuple[float, float, float] | None = None,
    ) -> None:
        self.modality = modality
        self.patient = patient
        self.require_labels = require_labels
        self.test_images = test_images
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """MR by robust percentiles, CT in Hounsfield units."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="ct" if self.modality == "ct" else "mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Cases of ``imagesTr`` and ``imagesTs`` with all their channels."""
        if not (require_folder(source, "nnunet") / "imagesTr").is_dir():
            raise RecipeError(f"'{source}' has no imagesTr; recipe 'nnunet' wants the folder DatasetNNN_NAME")
        count = self._describe(source)
        labels = {stem_of(f): f for f in _files(source / "labelsTr")}
        for folder in ("imagesTr", "imagesTs") if self.test_images else ("imagesTr",):
            cases: dict[str, dict[int, Path]] = {}
            for file in _files(source / folder):
                match = CHANNEL.fullmatch(stem_of(file))
                if match is None:
                    yield Rejected(str(file), "its name does not end in _0000, _0001, ... (the channel)")
                    continue
                cases.setdefault(match["case"], {})[int(match["channel"])] = file
            wanted = count or max((len(files) for files in cases.values()), default=0)
            for case, files in cases.items():
                yield self._case(case, files, wanted, labels.pop(case, None), labelled=folder == "imagesTr")
        for case, label in labels.items():
            yield Rejected(str(label), f"label without image: no imagesTr/{case}_0000")

    def read(self, item: Item) -> Read:
        """One file a channel, put together on the grid of the first."""
        if isinstance(item.path, tuple):
            return read_channels(item, [f"channel {i}" for i in range(len(item.path))])
        return read_item(self.kind, item)

    def _case(
        self, case: str, files: dict[int, Path], wanted: int, label: Path | None, *, labelled: bool
    ) -> Item | Rejected:
        first = next(iter(files.values()))
        missing = [f"_{i:04d}" for i in range(wanted) if i not in files]
        if missing:
            return Rejected(str(first), f"case {case} lacks the channels {', '.join(missing)}")
        if labelled and label is None and self.require_labels:
            return Rejected(str(first), f"image without label: no labelsTr/{case}")
        match = re.search(self.patient, case)
        if match is None or not match.groups():
            return Rejected(str(first), f"the pattern '{self.patient}' finds no patient in '{case}'")
        path = tuple(files[i] for i in sorted(files))
        ids = Ids(patient=match[1], recording=case)
        return Item(path if len(path) > 1 else path[0], ids, masks={"labels": label} if label else {})

    def _describe(self, source: Path) -> int:
        """Label names from ``dataset.json``; returns the number of channels (0 when it does not say)."""
        file = source / "dataset.json"
        if not file.is_file():
            return 0
        try:
            about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            names = {int(v): str(k) for k, v in about.get("labels", {}).items() if isinstance(v, int | str) and int(v)}
            channels = [str(v).lower() for v in about.get("channel_names", {}).values()]
        except (ValueError, TypeError, AttributeError) as error:
            raise RecipeError(f"'{file}' is not as nnU-Net writes it ({error}); mend or remove it") from error
        self.mask_labels = {"labels": names}
        if "ct" in channels and self.modality != "ct":
            raise RecipeError(f"'{file}' says the channels are {', '.join(channels)}; add --options modality=ct")
        return len(channels)


def _files(folder: Path) -> list[Path]:
    return [f for f in files_below(folder, VOLUME_SUFFIXES) if f.parent == folder] if folder.is_dir() else []
