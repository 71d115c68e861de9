"""CAMUS: apical two- and four-chamber half sequences (end diastole to end systole) of 500 patients, every frame traced.

Get the data: https://www.creatis.insa-lyon.fr/Challenge/camus/ (registration). Licence: CC BY-NC-SA 4.0. Cite: Leclerc
S. et al., Deep Learning for Segmentation Using an Open Large-Scale Dataset in 2D Echocardiography, IEEE Transactions on
Medical Imaging 38(9):2198-2210, 2019.

Layout: ``patientNNNN/patientNNNN_{2CH,4CH}_half_sequence.nii.gz`` (columns, rows, frames), the same with ``_gt`` for
the masks, ``patientNNNN_{2CH,4CH}_{ED,ES}[_gt].nii.gz`` (frames of the sequences, passed over) and
``Info_{2CH,4CH}.cfg`` with ED and ES (frame numbers from 1), Sex, Age, ImageQuality, EF (%) and FrameRate. Mask
``heart``: 1 left ventricle, 2 myocardium, 3 left atrium, in all frames. Labels: ``ef``, ``view``, ``quality``, ``sex``,
``age``. ED and ES are events of kind ``trace``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Event, Ids, Read, Recording, Rejected
from medssl.adapters.volume import read_volume
from medssl.cohort.finding import cell, files_below, require_folder
from medssl.cohort.reading import VideoItem
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import TRACE, VideoPreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Camus"]

SEQUENCE = re.compile(r"(?P<case>(?P<patient>patient\d+)_(?P<view>[24]CH))_half_sequence\.nii(\.gz)?")


class Camus(Recipe):
    """Half sequences with the mask ``heart`` and the labels ef, view, quality, sex and age.

    Args:
        view: ``"2CH"``, ``"4CH"`` or ``"all"``.
        require_masks: reject sequences without a mask; otherwise they are taken without.
        rate_hz: frames a second of the prepared clips, by the nearest frame; None keeps each clip's own.
        size: rows and columns of the prepared clips.
    """

    kind = "video"
    modality = "us"
    mask_labels = {"heart": {1: "left ventricle", 2: "myocardium", 3: "left atrium"}}  # noqa: RUF012

    def __init__(
        self, *, view: str = "all", require_masks: bool = True, rate_hz: float | None = None, size: int = 256
    ) -> None:
        if view not in ("all", "2CH", "4CH"):
            raise RecipeError(f"view '{view}' is unknown; use all, 2CH or 4CH")
        self.view, self.require_masks, self.rate_hz, self.size = view, require_masks, rate_hz, size

    def preparation(self) -> VideoPreparation:
        """256 x 256, the whole picture; half sequences are short, so 8 frames are enough."""
        return VideoPreparation(
            rate_hz=self.rate_hz, size=self.size, sector="keep", crop=False, text="keep", min_frames=8
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every half sequence with what its ``Info_*.cfg`` says."""
        files = files_below(require_folder(source, "camus"), (".nii.gz", ".nii"))
        found = {f: m for f in files if (m := SEQUENCE.fullmatch(f.name))}
        if not found:
            raise RecipeError(f"no patientNNNN_4CH_half_sequence.nii.gz below '{source}' (recipe 'camus')")
        for path, match in found.items():
            if self.view not in ("all", match["view"]):
                continue
            mask = path.with_name(path.name.replace("_half_sequence", "_half_sequence_gt"))
            if not mask.is_file() and self.require_masks:
                yield Rejected(str(path), f"its mask {mask.name} is missing")
                continue
            yield _item(path, match, mask if mask.is_file() else None)

    def read(self, item: Item) -> Read:
        """The sequence as a clip, its mask, and which frames are end-diastolic and end-systolic."""
        try:
            assert isinstance(item, VideoItem) and isinstance(item.path, Path)
            return Read([_clip(item, item.path)], [])
        except UnreadableRecording as error:
            return Read([], [Rejected(item.source, error.reason)])


def _item(path: Path, match: re.Match[str], mask: Path | None) -> VideoItem:
    info = _info(path.with_name(f"Info_{match['view']}.cfg"))
    rate = cell(info.get("FrameRate"))
    labels = {"ef": cell(info.get("EF")), "view": match["view"], "quality": info.get("ImageQuality")}
    labels |= {"sex": info.get("Sex"), "age": cell(info.get("Age"))}
    frames = [int(number) - 1 for phase in ("ED", "ES") if (number := info.get(phase, "")).isdigit()]
    return VideoItem(
        path,
        Ids(match["patient"], recording=match["case"]),
        masks={"heart": mask} if mask else {},
        labels=labels,
        rate_hz=rate if isinstance(rate, float) and rate > 0 else None,
        tracings=tuple((frame, ()) for frame in frames) if len(frames) == 2 else (),
    )


def _info(file: Path) -> dict[str, str]:
    """``Key: value`` lines; nothing where the file is missing."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value.strip()}


def _clip(item: VideoItem, path: Path) -> Recording:
    sequence = _frames(path)
    labels, notes = dict(item.labels), []
    if "heart" in item.masks:
        mask = _frames(item.masks["heart"]).data
        if mask.shape != sequence.data.shape:
            raise UnreadableRecording(f"its mask has shape {mask.shape}, the clip {sequence.data.shape}", path)
        labels["heart"] = mask
    rate = item.rate_hz
    if rate is None:
        rate = 50.0
        notes.append("no FrameRate in its Info file: 50 frames a second taken")
    events = [
        Event(frame / rate, 0.0, TRACE, phase)
        for (frame, _), phase in zip(item.tracings, ("ED", "ES"), strict=False)
        if 0 <= frame < len(sequence.data)
    ]
    return sequence.with_(rate_hz=rate, ids=item.ids, labels=labels, events=tuple(events), source=item.source).noted(
        *notes
    )


def _frames(path: Path) -> Recording:
    """(T, Y, X) uint8 of a NIfTI file whose third axis is time."""
    (volume,) = read_volume(path).recordings
    if volume.axes != "zyx":
        raise UnreadableRecording(f"its axes are '{volume.axes}', not columns, rows, frames", path)
    low, high = float(volume.data.min()), float(volume.data.max())
    if low < 0 or high > 255:
        raise UnreadableRecording(f"its values go from {low:g} to {high:g}, not 0 to 255", path)
    spacing = volume.spacing_mm
    return Recording(
        data=np.ascontiguousarray(np.rint(volume.data), dtype=np.uint8),
        axes="tyx",
        spacing_mm=None if spacing is None else spacing[1:],
        source=str(path),
        source_sha256=volume.source_sha256,
        notes=volume.notes,
    )
