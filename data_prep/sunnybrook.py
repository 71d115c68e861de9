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

With ``kind=video`` all phases of one slice are a clip: a slice is a recording, the beat lasts a second (its length is
not in the files either), the mask ``lv`` counts in the labelled frames, which events ``trace`` name (ED the one with
the largest area, ES that with the smallest). The PNG files of SegNetCMR are the labelled phases alone, so their clips
have one frame or two, ED and ES; clips of 20 need all phases under the same names. One frame is no clip: rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from medssl.adapters.echo_clip import regular_rate
from medssl.adapters.image_stack import read_image_stack
from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.cohort.finding import files_below, require_folder, rows_by
from medssl.cohort.geometry import default_affine
from medssl.cohort.preparation import Preparation
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import TRACE, VideoPreparation
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
    """Stacks of slices at one phase with the mask ``lv`` and the labels phase and group; or slices over time.

    Args:
        kind: ``"volume"``: all slices of a phase; ``"video"``: all phases of a slice, with the labels slice and group.
        require_labels: reject stacks, and clips, without labels; otherwise they are taken unlabelled.
        voxel_mm: size (z, y, x) that the files do not tell.
        spacing_mm: voxel size to resample to, of volumes; None keeps that of ``voxel_mm``.
        size: rows and columns of the prepared clips.
    """

    kind: Literal["volume", "video"]  # type: ignore[misc]  # chosen by an option here
    modality = "mri"
    mask_labels = {"lv": {1: "left ventricle"}}  # noqa: RUF012

    def __init__(
        self,
        *,
        kind: Literal["volume", "video"] = "volume",
        require_labels: bool = True,
        voxel_mm: tuple[float, float, float] = (8.0, 1.25, 1.25),
        spacing_mm: float | tuple[float, float, float] | None = None,
        size: int = 112,
    ) -> None:
        if kind not in ("volume", "video"):
            raise RecipeError(f"kind '{kind}' is unknown; use volume or video")
        self.kind = kind
        self.require_labels = require_labels
        self.voxel_mm = tuple(voxel_mm)
        self.spacing_mm = spacing_mm
        self.size = size

    def preparation(self) -> Preparation:
        """MR by robust percentiles; of clips the whole picture, in which much may stand still."""
        if self.kind == "volume":
            return VolumePreparation(spacing_mm=self.spacing_mm, intensity="mr")
        return VideoPreparation(
            size=self.size, sector="keep", crop=False, text="keep", min_frames=2, min_sector=0.0, min_motion=0.0
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """The stack of every patient and phase, or the clip of every patient and slice."""
        files = files_below(require_folder(source, "sunnybrook"), (".png",))
        images = {f.name: f for f in files if _below(f, source, "images") and NAME.fullmatch(f.name)}
        labels = {f.name: f for f in files if _below(f, source, "labels")}
        if not images:
            raise RecipeError(f"no images/.../SC-HF-I-01-IM-0001-0048.dcm.png below '{source}' (recipe 'sunnybrook')")
        table = rows_by(source / "slices.tsv", "image")
        phases = {Path(image).name: row.get("frame") for image, row in table.items()}
        yield from self._clips(images, labels) if self.kind == "video" else self._stacks(images, labels, phases)
        for file in files:
            if file.name not in images:
                what = "label without image" if labels.get(file.name) == file else "its name is not that of a slice"
                yield Rejected(str(file), what)

    def _stacks(
        self, images: Mapping[str, Path], labels: Mapping[str, Path], phases: Mapping[str, str | None]
    ) -> Iterator[Item | Rejected]:
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

    def _clips(self, images: Mapping[str, Path], labels: Mapping[str, Path]) -> Iterator[Item | Rejected]:
        clips: dict[tuple[str, int], dict[int, Path]] = {}
        for name, file in images.items():
            patient, place, phase = _place(name)
            clips.setdefault((patient, place), {})[phase] = file
        for (patient, place), frames in sorted(clips.items()):
            ordered = [frames[phase] for phase in sorted(frames)]
            found = [labels[f.name] for f in ordered if f.name in labels]
            if len(ordered) < 2 or (self.require_labels and not found):
                what = "has no label in any phase" if len(ordered) > 1 else "has a file of one phase alone: no clip"
                yield Rejected(str(ordered[0]), f"slice {place} of {patient} {what}")
                continue
            yield Item(
                tuple(ordered),
                Ids(patient, recording=f"{patient}_slice{place:02d}"),
                masks={"lv": found[0].parent} if found else {},
                labels={"slice": float(place), "group": _group(ordered[0].name)},
            )

    def read(self, item: Item) -> Read:
        """The slices of one phase as a volume, or the phases of one slice as a clip, and their labels as the mask."""
        assert isinstance(item.path, tuple)
        try:
            stack = read_image_stack(item.path)
            if self.kind == "video":
                return Read([self._clip(stack, item)], [])
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

    def _clip(self, stack: Recording, item: Item) -> Recording:
        """The phases of one slice, with the mask of those that have a label."""
        assert isinstance(item.path, tuple)
        phases = [_place(file.name)[2] for file in item.path]
        times = (np.array(phases) - phases[0]) / PHASES
        rate, even = regular_rate(times)
        labels: dict[str, object] = dict(item.labels)
        events: list[Event] = []
        if "lv" in item.masks:
            drawn = [i for i, file in enumerate(item.path) if (item.masks["lv"] / file.name).is_file()]
            some = stack.with_(data=stack.data[drawn])
            mask = np.zeros(stack.data.shape, dtype=np.uint8)
            mask[drawn] = _mask(item.masks["lv"], [item.path[i] for i in drawn], some)
            labels["lv"] = mask
            areas = {i: int(np.count_nonzero(mask[i])) for i in drawn}
            events = [Event(float(times[i]), 0.0, TRACE, _named(i, areas)) for i in drawn]
        pixel = " x ".join(f"{v:g}" for v in self.voxel_mm[1:])
        notes = [f"pixel size and duration are not in the files: {pixel} mm and a second a beat taken"]
        if len(phases) < PHASES:
            notes.append(f"{len(phases)} of {PHASES} phases have a file")
        return stack.with_(
            axes="tyx",
            units=(),
            spacing_mm=self.voxel_mm[1:],
            rate_hz=rate,
            frame_times=None if even or rate is None else times,
            ids=item.ids,
            labels=labels,
            events=tuple(events),
            source=item.source,
        ).noted(*notes)


def _named(frame: int, areas: Mapping[int, int]) -> str:
    """ED or ES by the area; of a single labelled frame nothing can be said."""
    if len(areas) < 2 or len(set(areas.values())) < 2:
        return "other"
    if frame == max(areas, key=lambda i: areas[i]):
        return "ED"
    return "ES" if frame == min(areas, key=lambda i: areas[i]) else "other"


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
