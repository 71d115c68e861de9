"""Derivatives of fMRIPrep (BIDS): preprocessed 4-D runs with confounds and brain masks, through an atlas.

Get the data: your own. Licence, citation: of your data. Cite fMRIPrep: Esteban O et al., Nat Methods 16:111-116,
2019.

Layout: ``sub-*/[ses-*/]func/*_space-SPACE[_res-*]_desc-preproc_bold.nii.gz`` with ``*_desc-confounds_timeseries.tsv``
(or ``_regressors.tsv``) of the same run, ``*_space-SPACE*_desc-brain_mask.nii.gz``, ``.json`` beside the image;
``participants.tsv`` in the folder or one or two above it (derivatives/fmriprep).

The atlas is an image of labels in the same space as the runs (names in a table beside it), a table of coordinates, or
a set that nilearn carries with it: power_2011, dosenbach_2010, seitzman_2018. Runs without a table of confounds or a
mask are rejected, unless the options say that they are not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.fmri_runs import common_settings
from medssl.cohort.reading import FmriItem
from medssl.cohort.recipe import Item, Recipe
from medssl.errors import RecipeError

__all__ = ["FMRIPrep"]

RUN = re.compile(
    r"(?P<run>sub-[^_]+(?:_[a-z]+-[^_]+)*?)_space-(?P<space>[^_]+)(?P<more>(?:_[a-z]+-[^_]+)*?)_desc-preproc_bold"
)
TABLES = ("_desc-confounds_timeseries.tsv", "_desc-confounds_regressors.tsv")


class FMRIPrep(Recipe):
    """Runs of one space, cut into the regions of an atlas.

    Args:
        atlas: file, or name of a set of coordinates.
        atlas_labels: table of the names of an image's labels.
        radius_mm: of the spheres around coordinates.
        space: of the runs.
        task: only this one; all when empty.
        labels: columns of ``participants.tsv`` to keep as labels; all when empty.
        confounds: what is regressed out, as ``confounds`` of the preparation; ``none`` needs no tables.
        require_mask: reject a run without a brain mask.
        tr_s: repetition time, where headers have none or a wrong one.
    """

    kind = "signal"
    modality = "fmri"

    def __init__(
        self,
        *,
        atlas: str = "power_2011",
        atlas_labels: str = "",
        radius_mm: float | None = None,
        space: str = "MNI152NLin2009cAsym",
        task: str = "",
        labels: Sequence[str] = (),
        confounds: str = "simple",
        require_mask: bool = True,
        tr_s: float | None = None,
    ) -> None:
        self.atlas, self.atlas_labels, self.radius_mm = atlas, atlas_labels, radius_mm
        self.space, self.task, self.labels = space, task, tuple(labels)
        self.confounds, self.require_mask, self.tr_s = confounds, require_mask, tr_s

    def preparation(self) -> FmriPreparation:
        """Confounds of the set, volumes with more than 0.5 mm censored, 0.01 to 0.1 Hz."""
        return FmriPreparation(confounds=self.confounds)

    def preparation_of(self, source: Path) -> FmriPreparation:
        """The same with the regions of the atlas and the longest repetition time of the runs."""
        common = common_settings(self.find(source))
        return FmriPreparation(confounds=self.confounds, **common)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every preprocessed run of the space and task."""
        images = files_below(
            require_folder(source, "fmriprep"), ("_desc-preproc_bold.nii.gz", "_desc-preproc_bold.nii")
        )
        runs = [(file, match) for file in images if (match := RUN.match(file.name))]
        wanted = [
            (f, m) for f, m in runs if m["space"] == self.space and (not self.task or f"_task-{self.task}_" in f.name)
        ]
        if not wanted:
            there = ", ".join(sorted({m["space"] for _, m in runs})) or "none"
            task = f" of task {self.task}" if self.task else ""
            raise RecipeError(
                f"no *_space-{self.space}*_desc-preproc_bold.nii.gz{task} below '{source}' (spaces there: {there})"
            )
        people = _people(source)
        for file, match in wanted:
            yield self._item(file, match, people)

    def _item(
        self, file: Path, match: re.Match[str], people: Mapping[str, Mapping[str, str | None]]
    ) -> Item | Rejected:
        run, entities = match["run"], dict(re.findall(r"([a-z]+)-([^_]+)", match["run"]))
        tables = [t for ending in TABLES if (t := file.with_name(run + ending)).is_file()]
        if not tables and self.confounds != "none":
            return Rejected(str(file), f"no table of confounds {run}{TABLES[0]}")
        ending = file.name[match.end() :]  # .nii.gz
        mask = file.with_name(f"{run}_space-{match['space']}{match['more']}_desc-brain_mask{ending}")
        if not mask.is_file() and self.require_mask:
            return Rejected(str(file), f"no brain mask {mask.name}; set require_mask to false to do without")
        person = people.get(entities["sub"], {})
        return FmriItem(
            file,
            Ids(f"sub-{entities['sub']}", entities.get("ses", ""), run),
            labels={k: cell(v) for k, v in person.items() if k != "site" and (not self.labels or k in self.labels)},
            site=person.get("site") or "",
            tr_s=self.tr_s,
            atlas=self.atlas,
            atlas_labels=self.atlas_labels,
            radius_mm=self.radius_mm,
            brain=mask if mask.is_file() else None,
            confounds=tables[0] if tables else None,
        )


def _people(source: Path) -> dict[str, dict[str, str | None]]:
    """Rows of participants.tsv by subject, without the column that names them."""
    folders = (source, source.parent, source.parent.parent)
    table = next((t for folder in folders if (t := folder / "participants.tsv").is_file()), None)
    rows = read_rows(table) if table else []
    if rows and "participant_id" not in rows[0]:
        raise RecipeError(f"'{table}' has no column participant_id")
    return {
        str(row["participant_id"]).removeprefix("sub-"): {k: v for k, v in row.items() if k != "participant_id"}
        for row in rows
        if row["participant_id"]
    }
