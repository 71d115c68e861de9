"""Medical Segmentation Decathlon layout: ``imagesTr/``, ``labelsTr/``, ``imagesTs/``, ``dataset.json``.

Get the data: http://medicaldecathlon.com (or its AWS Open Data mirror); one folder a task, e.g.
``Task04_Hippocampus``. Licence: CC BY-SA 4.0. Cite: Antonelli M. et al., The Medical Segmentation Decathlon, Nature
Communications 13:4128, 2022; Simpson A. L. et al., arXiv 1902.09063, 2019.

One file is one patient (the source gives no other ids). A fourth axis is the MR sequence, named as ``dataset.json``
names it (Task05_Prostate: T2 and ADC; Task01_BrainTumour: FLAIR, T1w, t1gd, T2w). Images without a label, labels
without an image, and stray files anywhere below the folder are rejected with what is wrong with each.

Task05_Prostate carries the label ``split_chaitanya2020``: the 15 test volumes (of T2 alone) of global and local
contrast, NeurIPS 2020; ``train`` are the others. Its labelled subsets are 1 volume: 001 | 002 | 006 | 000 | 004; 2
volumes: 000 001 | 021 024 | 001 002 | 004 010 | 000 007; 8 volumes: 000 001 002 004 006 007 010 016 | 002 004 006 007
010 016 021 018 | 000 001 006 007 010 017 018 024. The published list of all labelled volumes lacks a comma (its
"000001" does not exist), and six of its validation volumes stand in its pre-training list too; draw validation anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medssl.adapters.recording import Ids, Read, Recording, Rejected, sha256_of
from medssl.cohort.finding import files_below, numbers, require_folder
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError, UnreadableRecording, unknown_name

__all__ = ["MSD"]

SUFFIXES = (".nii.gz", ".nii")
PROSTATE_TEST = numbers("29 31-32 34-35 37-44 46-47")
NAMES = {"mri": ("mri", "mr", "t1", "t2", "flair", "adc"), "ct": ("ct",)}


class MSD(Recipe):
    """A task of the Decathlon; its label map becomes the mask ``labels``.

    Args:
        modality: ``"mri"`` or ``"ct"`` (Hounsfield units); checked against ``dataset.json``.
        require_labels: reject images of ``imagesTr`` that have no label; otherwise they are taken unlabelled.
        test_images: take ``imagesTs`` too, unlabelled.
        sequences: of multi-sequence MR to keep, by their names in ``dataset.json``, e.g. ``T2``; all when empty.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"

    def __init__(
        self,
        *,
        modality: Literal["mri", "ct"] = "mri",
        require_labels: bool = True,
        test_images: bool = True,
        sequences: Sequence[str] = (),
        spacing_mm: float | tuple[float, float, float] | None = None,
    ) -> None:
        self.modality = modality
        self.require_labels = require_labels
        self.test_images = test_images
        self.sequences = tuple(sequences)
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """MR by robust percentiles, CT in Hounsfield units."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="ct" if self.modality == "ct" else "mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Pairs of ``imagesTr`` and ``labelsTr``, then everything else that lies there."""
        files = files_below(require_folder(source, "msd"), SUFFIXES)
        if not files:
            raise RecipeError(f"no .nii.gz below '{source}'; recipe 'msd' wants the folder that holds imagesTr")
        about = _about(source)
        self._check(about, source)
        self.mask_labels = {"labels": about["labels"]}
        by_role = {role: {_stem(f): f for f in files if f.parent == source / role} for role in ROLES}
        for name, image in by_role["imagesTr"].items():
            label = by_role["labelsTr"].get(name)
            if label is None and self.require_labels:
                yield Rejected(str(image), f"image without label: no labelsTr/{image.name}")
                continue
            masks = {"labels": label} if label else {}
            yield Item(image, Ids(patient=name, recording=name), masks=masks, labels=_split(name, about["name"]))
        if self.test_images:
            for name, image in by_role["imagesTs"].items():
                yield Item(image, Ids(patient=name, recording=name))
        for name, label in by_role["labelsTr"].items():
            if name not in by_role["imagesTr"]:
                yield _stray(label, by_role)
        yield from (_stray(f, by_role) for f in files if f.parent.name not in ROLES or f.parent.parent != source)
        for name in about["listed"]:
            if name not in by_role["imagesTr"]:
                yield Rejected(str(source / "imagesTr" / f"{name}.nii.gz"), "listed in dataset.json, but not there")

    def read(self, item: Item) -> Read:
        """As any volume, but a fourth axis is the sequence, not time."""
        read = read_item(self.kind, item, fourth_axis="channel")
        assert isinstance(item.path, Path)
        names = _about(item.path.parent.parent)["sequences"]
        return Read([_named(r, names, self.sequences) for r in read.recordings], read.rejected)

    def _check(self, about: Mapping[str, Any], source: Path) -> None:
        """Options against what ``dataset.json`` says."""
        stated = " ".join(about["sequences"]).lower()
        other = "ct" if self.modality == "mri" else "mri"
        if set(stated.split()) & set(NAMES[other]) and not set(stated.split()) & set(NAMES[self.modality]):
            raise RecipeError(f"'{source / 'dataset.json'}' says modality {stated}; add --options modality={other}")
        for name in self.sequences:
            if name not in about["sequences"]:
                raise RecipeError(unknown_name("sequence", name, about["sequences"]))


ROLES = ("imagesTr", "labelsTr", "imagesTs")


def _about(source: Path) -> dict[str, Any]:
    """What ``dataset.json`` says: name of the task, names of labels and sequences, images listed for training."""
    file = source / "dataset.json"
    if not file.is_file():
        return {"name": "", "labels": {}, "sequences": (), "listed": []}
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {
            "name": str(about.get("name", "")).lower(),
            "labels": {int(k): str(v) for k, v in about.get("labels", {}).items() if int(k)},
            "sequences": tuple(str(v) for v in about.get("modality", {}).values()),
            "listed": [_stem(Path(case["image"])) for case in about.get("training", [])],
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecipeError(f"'{file}' is not as the Decathlon writes it ({error}); mend or remove it") from error


def _split(name: str, task: str) -> dict[str, str]:
    if task != "prostate" or not name.rpartition("_")[2].isdigit():
        return {}
    return {"split_chaitanya2020": "test" if int(name.rpartition("_")[2]) in PROSTATE_TEST else "train"}


def _named(recording: Recording, names: Sequence[str], wanted: Sequence[str]) -> Recording:
    """Channels by the names of their sequences, and of these the wanted ones in their order."""
    there = recording.data.shape[0] if recording.axes[0] == "c" else 1
    if recording.axes[0] != "c" or len(set(names)) != there:
        if wanted:
            raise UnreadableRecording(f"{there} sequences, dataset.json names {len(names)}", recording.source)
        return recording
    recording = recording.with_(channels=tuple(names))
    if not wanted:
        return recording
    return recording.with_(data=recording.data[[names.index(n) for n in wanted]], channels=tuple(wanted))


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
