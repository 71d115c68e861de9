"""OpenMind: 114,000 head MRI volumes of 800 OpenNeuro data sets, for pre-training; mostly unlabelled.

Get the data: https://huggingface.co/datasets/AnonRes/OpenMind (about 1 TB; any part of it will do). Licence: CC BY
4.0, and those of the single data sets. Cite: Wald T. et al., An OpenMind for 3D medical vision self-supervised
learning, ICCV 2025 (arXiv 2412.17041).

Layout: ``openneuro_metadata.csv``, and below ``OpenMind/`` the BIDS tree of every data set,
``dsNNNNNN/sub-*/[ses-*/]anat/*_T1w.nii.gz``. The table has a row an image: its path, contrast, quality score (1 best, 5
worst), what is known of the person and scanner, and the paths of two masks: ``anatomy`` (where there is anatomy, not
cut away), ``anonymised`` (where a face was removed: no method should learn from it). Contrasts other than the
acquired ones (FA, MD, ADC, TRACE) were derived from diffusion by the authors. A patient is a subject of a data set;
the data set is the ``site``. For one BIDS data set with labels of its own there is the recipe ``bids``.

Data sets that are not there are left alone; of the others every row whose file is missing is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medssl.adapters.recording import Ids, Rejected
from medssl.adapters.volume import stem_of
from medssl.cohort.finding import cell, read_rows, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.volumes import VolumePreparation
from medssl.errors import RecipeError

__all__ = ["OpenMind"]

TABLE = "openneuro_metadata.csv"
MASKS = {"anatomy": "anat_mask_path", "anonymised": "anon_mask_path"}


class OpenMind(Recipe):
    """Volumes with the masks ``anatomy`` and ``anonymised``, their contrast, quality and what is known of the person.

    Args:
        sequences: contrasts to take, as the table calls them (``T1w``, ``T2w``, ``FLAIR``, ...); all when empty.
        max_quality_score: leave out images with a worse (higher) score, and those without; None takes all.
        labels: columns of the table to keep as labels.
        masks: keep the two masks.
        spacing_mm: voxel size (z, y, x), or one number; None keeps each volume's own.
    """

    kind = "volume"
    modality = "mri"
    mask_labels = {name: {1: name} for name in MASKS}  # noqa: RUF012

    def __init__(
        self,
        *,
        sequences: Sequence[str] = ("T1w",),
        max_quality_score: float | None = None,
        labels: Sequence[str] = ("age", "sex", "handedness", "health_status"),
        masks: bool = True,
        spacing_mm: float | tuple[float, float, float] | None = 1.0,
    ) -> None:
        self.sequences = tuple(sequences)
        self.max_quality_score = max_quality_score
        self.labels = tuple(labels)
        self.masks = masks
        self.spacing_mm = spacing_mm

    def preparation(self) -> VolumePreparation:
        """1 mm isotropic, MR by robust percentiles."""
        return VolumePreparation(spacing_mm=self.spacing_mm, intensity="mr")

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every row of a data set that is there and has a wanted contrast and quality, in the table's order."""
        table, root = require_folder(source, "openmind") / TABLE, source / "OpenMind"
        if not table.is_file() or not root.is_dir():
            raise RecipeError(f"'{source}' has no {TABLE} beside a folder OpenMind; recipe 'openmind' wants both")
        rows = read_rows(table)
        for column in ("image_path", "modality", *self.labels):
            if not rows or column not in rows[0]:
                raise RecipeError(f"'{table}' has no column '{column}'; there are {', '.join(rows[0] if rows else ())}")
        there = {folder.name for folder in root.iterdir() if folder.is_dir()}
        wanted = [row for row in rows if PurePosixPath(row["image_path"] or "").parts[:1] and self._wants(row, there)]
        if not wanted:
            raise RecipeError(f"no row of '{table}' is of a data set in '{root}' and of {', '.join(self.sequences)}")
        yield from (self._item(row, root) for row in wanted)

    def _wants(self, row: Mapping[str, str | None], there: set[str]) -> bool:
        data_set = PurePosixPath(row["image_path"] or "").parts[0]
        return data_set in there and (not self.sequences or row["modality"] in self.sequences)

    def _item(self, row: Mapping[str, str | None], root: Path) -> Item | Rejected:
        place = PurePosixPath(row["image_path"] or "")
        image, score = root / place, cell(row.get("image_quality_score"))
        if not image.is_file():
            return Rejected(str(image), f"stands in {TABLE}, but is not there")
        if self.max_quality_score is not None and not (isinstance(score, float) and score <= self.max_quality_score):
            return Rejected(str(image), f"its quality score is {score}, max_quality_score {self.max_quality_score:g}")
        subject = next((part for part in place.parts if part.startswith("sub-")), "")
        if not subject:
            return Rejected(str(image), "its path does not say whose it is (no sub-...)")
        labels: dict[str, Any] = {name: cell(row[name]) for name in self.labels}
        masks = {name: root / path for name, column in MASKS.items() if (path := row.get(column)) is not None}
        return Item(
            image,
            Ids(
                patient=f"{place.parts[0]}_{subject}",
                session=next((part for part in place.parts if part.startswith("ses-")), ""),
                recording=(place.parent / stem_of(place.name)).as_posix(),
            ),
            masks={name: path for name, path in masks.items() if self.masks and path.is_file()},
            labels={**labels, "sequence": row["modality"], "quality_score": score},
            site=place.parts[0],
            scanner=" ".join(filter(None, (row.get("manufacturer"), row.get("model_name")))),
        )
