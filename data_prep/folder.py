"""Any folder of files whose names say whose they are.

Get the data: your own. Licence, citation: of your data.

Layout: given by a regular expression over the path below the folder (with ``/``), whose named groups fill in
``patient``, ``session``, ``recording``, ``trial``, ``site`` and ``label_NAME``; and by a template a mask, in which
the same groups may stand::

    medssl prepare folder SOURCE COHORT --options pattern='images/(?P<patient>sub-\\d+)_(?P<session>\\w+)\\.nii\\.gz' \\
        masks.liver='masks/{patient}_{session}_liver.nii.gz'

Without a pattern every file is a patient of its own, named after the file. Files that do not fit are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from medssl.adapters.echo import VIDEO_SUFFIXES
from medssl.adapters.fmri import FMRI_SUFFIXES, is_bold, run_name
from medssl.adapters.recording import Ids, Rejected
from medssl.adapters.signal import SIGNAL_SUFFIXES
from medssl.adapters.volume import VOLUME_SUFFIXES
from medssl.cohort.finding import cell, files_below, is_companion, require_folder, text
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.fmri_runs import common_settings
from medssl.cohort.preparation import Preparation
from medssl.cohort.reading import FmriItem, SignalItem, VideoItem
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.cohort.videos import VideoPreparation
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["Folder"]

FIELDS = ("patient", "session", "recording", "trial", "site")


class Folder(Recipe):
    """Files of a folder tree.

    Args:
        kind: ``"volume"``, ``"signal"``, ``"video"`` (ultrasound clips) or ``"fmri"`` (4-D images, or series of
            regions; the mask ``brain`` is then the brain of an image).
        modality: a word for people (``"mri"``, ``"ct"``, ``"ecg"``, ``"eeg"``, ``"us"``); ``"ct"`` also keeps
            Hounsfield units.
        glob: which files; by default all that end like files of that kind.
        pattern: regular expression that must match the whole path below the folder.
        masks: mask name → template of its path below the folder; a mask that is not there is simply not there.
        require_masks: reject a file that lacks one of its masks.
        rate_hz, units, channels: of signal files that do not say so themselves (.csv, .npy, .mat); ``rate_hz`` also of
            clips, in place of what the file says.
        tr_s: repetition time of fMRI runs that do not say so themselves.
        atlas: of 4-D fMRI images: a file, or the name of a set of coordinates; of ready series a word for people.
        confounds: of fMRI: template of the path of a run's table of confounds.
        motion: who wrote such tables where they have no header: fsl, spm, afni or hcp.
    """

    kind: Literal["volume", "signal", "video"]  # type: ignore[misc]  # chosen by an option here

    def __init__(
        self,
        *,
        kind: Literal["volume", "signal", "video", "fmri"] = "volume",
        modality: str = "",
        glob: str = "",
        pattern: str = "",
        masks: Mapping[str, str] | None = None,
        require_masks: bool = False,
        rate_hz: float | None = None,
        units: str | None = None,
        channels: tuple[str, ...] | None = None,
        tr_s: float | None = None,
        atlas: str = "",
        confounds: str = "",
        motion: str = "",
    ) -> None:
        if kind not in ("volume", "signal", "video", "fmri"):
            raise RecipeError(f"kind '{kind}' is unknown; use volume, signal, video or fmri")
        self.files = kind
        self.kind = "signal" if kind == "fmri" else kind
        self.modality = modality or ("fmri" if kind == "fmri" else "")
        self.tr_s, self.atlas, self.confounds, self.motion = tr_s, atlas, confounds, motion
        self.glob = glob
        self.masks = dict(masks or {})
        self.require_masks = require_masks
        self.rate_hz, self.units = rate_hz, units
        self.channels = tuple(channels) if channels else None
        try:
            self.pattern = re.compile(pattern) if pattern else None
        except re.error as error:
            raise RecipeError(f"pattern '{pattern}' is no regular expression: {error}") from error
        if kind == "fmri" and set(self.masks) - {"brain"}:
            raise RecipeError("the only mask of kind fmri is 'brain'; regions come from the atlas")
        if kind == "video" and masks:
            raise RecipeError("masks of clips are read by recipes of their own, not by recipe 'folder'")
        if self.pattern and "patient" not in self.pattern.groupindex:
            raise RecipeError(f"pattern '{pattern}' has no group (?P<patient>...); a cohort must know whose data it is")

    def preparation(self) -> Preparation:
        """Volumes keep their voxel size, signals their rate; override what should be common to all."""
        if self.files == "fmri":
            return FmriPreparation(confounds="motion" if self.confounds else "none")
        if self.kind == "signal":
            return SignalPreparation()
        if self.kind == "video":
            return VideoPreparation()
        return VolumePreparation(intensity="ct" if self.modality == "ct" else "auto")

    def preparation_of(self, source: Path) -> Preparation:
        """The same; of fMRI at the repetition time and with the regions that the runs have."""
        if self.files != "fmri":
            return self.preparation()
        common = common_settings(self.find(source), atlas=self.atlas)
        return FmriPreparation(confounds="motion" if self.confounds else "none", **common)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every file that fits, in order of path."""
        require_folder(source, "folder")
        files = self._files(source)
        if not files:
            raise RecipeError(f"no {self.files} file below '{source}'; give glob=... if they have another suffix")
        found = [(file, self._groups(file, source)) for file in files]
        masks = {file: self._masks(groups, source) for file, groups in found if groups is not None}
        taken = {mask for of_file in masks.values() for mask in of_file.values()}
        used: set[str] = set()
        for file, groups in found:
            if file in taken:
                continue
            yield (
                Rejected(str(file), f"its path does not fit the pattern '{self.pattern.pattern}'")
                if (groups is None and self.pattern)
                else self._item(file, groups or {}, masks.get(file, {}), source, used)
            )

    def _files(self, source: Path) -> list[Path]:
        if self.glob:
            wanted = {p for p in source.glob(self.glob) if p.is_file()}
            return [f for f in files_below(source) if f in wanted]
        suffixes = {
            "volume": VOLUME_SUFFIXES,
            "signal": tuple(SIGNAL_SUFFIXES),
            "video": VIDEO_SUFFIXES,
            "fmri": tuple(suffix + packed for suffix in FMRI_SUFFIXES for packed in ("", ".gz", ".xz")),
        }
        return [f for f in files_below(source, suffixes[self.files]) if not is_companion(f)]

    def _groups(self, file: Path, source: Path) -> dict[str, str] | None:
        if self.pattern is None:
            if self.files == "fmri":
                return {"patient": run_name(file)}
            name = file.name
            return {"patient": name[: -len("".join(file.suffixes[-2:]))] if name.endswith(".gz") else file.stem}
        match = self.pattern.fullmatch(file.relative_to(source).as_posix())
        return {k: v for k, v in match.groupdict().items() if v is not None} if match else None

    def _masks(self, groups: Mapping[str, str], source: Path) -> dict[str, Path]:
        try:
            return {name: source / template.format(**groups) for name, template in self.masks.items()}
        except (KeyError, IndexError, ValueError) as error:
            raise RecipeError(f"a mask template uses {error}, which is no group of the pattern") from error

    def _item(
        self, file: Path, groups: Mapping[str, str], masks: Mapping[str, Path], source: Path, used: set[str]
    ) -> Item | Rejected:
        missing = [name for name, path in masks.items() if not path.is_file()]
        if missing and self.require_masks:
            return Rejected(str(file), f"mask '{missing[0]}' is missing: no {masks[missing[0]].relative_to(source)}")
        ids = {name: groups.get(name, "") for name in FIELDS}
        recording = ids["recording"] or "_".join(v for v in (ids["patient"], ids["session"], ids["trial"]) if v)
        if recording in used:  # the path is unique where the groups are not
            recording = file.relative_to(source).as_posix()
        used.add(recording)
        labels = {k.removeprefix("label_"): cell(text(v)) for k, v in groups.items() if k.startswith("label_")}
        own = Ids(ids["patient"], ids["session"], recording, ids["trial"])
        if self.files == "fmri":
            return self._run(file, own, groups, masks, source, labels)
        if self.kind == "video":
            return VideoItem(file, own, labels=labels, site=ids["site"], rate_hz=self.rate_hz)
        return SignalItem(
            file,
            own,
            masks={name: path for name, path in masks.items() if name not in missing},
            labels=labels,
            site=ids["site"],
            rate_hz=self.rate_hz,
            units=self.units,
            channels=self.channels,
        )

    def _run(
        self,
        file: Path,
        ids: Ids,
        groups: Mapping[str, str],
        masks: Mapping[str, Path],
        source: Path,
        labels: Mapping[str, object],
    ) -> Item | Rejected:
        """A run of fMRI with its confounds."""
        try:
            table = source / self.confounds.format(**groups) if self.confounds else None
        except (KeyError, IndexError, ValueError) as error:
            raise RecipeError(f"the template of confounds uses {error}, which is no group of the pattern") from error
        if table is not None and not table.is_file():
            return Rejected(str(file), f"its confounds are missing: no {table.relative_to(source)}")
        brain = masks.get("brain")
        return FmriItem(
            file,
            ids,
            labels=labels,
            site=groups.get("site", ""),
            tr_s=self.tr_s,
            atlas=self.atlas if is_bold(file) else "",
            brain=brain if brain is not None and brain.is_file() else None,
            confounds=table,
            motion=self.motion,
        )
