"""ACDC: cine MRI of the heart in short axis, end-diastolic and end-systolic frames with three structures, 150 patients.

Get the data: https://www.creatis.insa-lyon.fr/Challenge/acdc/ (registration). Licence: see the terms there. Cite:
Bernard O. et al., IEEE Transactions on Medical Imaging 37(11):2514-2525, 2018 (doi 10.1109/TMI.2018.2837502).

Layout: ``{training,testing}/patientNNN/`` with ``Info.cfg`` (frame numbers ED and ES, Group, Height in cm, Weight in
kg), ``patientNNN_frameMM.nii.gz``, ``patientNNN_frameMM_gt.nii.gz`` and the whole cine ``patientNNN_4d.nii.gz``, which
is passed over with that reason. Both frames are recordings of one patient: the label ``phase`` says which is which,
``group`` is NOR, MINF, DCM, HCM or RV. Mask ``heart``: 1 right ventricle, 2 myocardium, 3 left ventricle.

Splits: ``split`` is train (patients 1 to 100) or test (101 to 150), as released. ``split_chaitanya2020`` is that of
global and local contrast (NeurIPS 2020, ED frames only): pretrain (52, used unlabelled), test (20), train. Its labelled
subsets are 1 patient: 002 | 042 | 095 | 022 | 062; 2 patients: 042 062 | 002 042 | 042 095 | 002 022 | 002 095; 8
patients: 002 022 042 062 095 and 003 023 043 | 063 094 043 | 003 094 023. Validate on 031 and 071: the published 011 is
among its 78 training patients too. Slices there are 1.367 mm in plane, with the source's spacing between slices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import cell, files_below, in_pairs, numbers, require_folder, text
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["ACDC"]

FRAME = re.compile(r"(?P<patient>patient(?P<number>\d{3}))_frame(?P<frame>\d+)(?P<gt>_gt)?\.nii(\.gz)?")
TEST = numbers("7-10 27-30 47-50 67-70 87-90")
PRETRAIN = numbers("1-6 12 17-26 37-46 57-66 72 77-86 97-100")
LAST_TRAINING = 100


class ACDC(Recipe):
    """ED and ES frames with the mask ``heart`` and the labels phase, group, height_cm and weight_kg.

    Args:
        require_labels: reject frames without label map; otherwise they are taken unlabelled.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own (5 to 10 mm between slices).
    """

    kind = "volume"
    modality = "mri"
    mask_labels = {"heart": {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}}  # noqa: RUF012

    def __init__(
        self,
        *,
        require_labels: bool = True,
        spacing_mm: float | tuple[float, float, float] | None = (5.0, 1.0, 1.0),
    ) -> None:
        self.require_labels = require_labels
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """5 mm between slices, 1 mm in plane; MR by robust percentiles."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every single frame with what ``Info.cfg`` says of it; the 4-D files are named as passed over."""
        files = files_below(require_folder(source, "acdc"), (".nii.gz", ".nii"))
        frames = {f: m for f in files if (m := FRAME.fullmatch(f.name))}
        if not frames:
            raise RecipeError(f"no patientNNN_frameMM.nii.gz below '{source}'; recipe 'acdc' wants the unpacked folder")
        images = {_case(m): f for f, m in frames.items() if not m["gt"]}
        label_maps = {_case(m): f for f, m in frames.items() if m["gt"]}
        for found in in_pairs(images, label_maps, require=self.require_labels):
            yield found if isinstance(found, Rejected) else _item(*found, match=frames[found[1]])
        for file in files:
            if file not in frames:
                yield Rejected(str(file), _why_not(file))


def _case(match: re.Match[str]) -> str:
    return f"{match['patient']}_frame{match['frame']}"


def _item(case: str, image: Path, label_map: Path | None, *, match: re.Match[str]) -> Item:
    number, frame, info = int(match["number"]), int(match["frame"]), _info(image.parent / "Info.cfg")
    labels = {
        "phase": next((phase for phase in ("ED", "ES") if info.get(phase) == str(frame)), None),
        "group": info.get("Group"),
        "height_cm": cell(info.get("Height")),
        "weight_kg": cell(info.get("Weight")),
        "split": "train" if number <= LAST_TRAINING else "test",
    }
    if number <= LAST_TRAINING:
        labels["split_chaitanya2020"] = "test" if number in TEST else "pretrain" if number in PRETRAIN else "train"
    return Item(image, Ids(match["patient"], recording=case), {"heart": label_map} if label_map else {}, labels)


def _info(file: Path) -> dict[str, str | None]:
    """``Key: value`` lines; nothing where the file is missing."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return {key.strip(): text(value) for key, _, value in (line.partition(":") for line in lines)}


def _why_not(file: Path) -> str:
    if file.name.removesuffix(".gz").removesuffix(".nii").endswith("_4d"):
        return "the whole cine (4-D); its annotated frames are taken instead"
    return "its name is not that of a frame (patientNNN_frameMM.nii.gz)"
