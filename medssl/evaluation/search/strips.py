"""What a strip shows: the query and its hits, each a small picture with what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.thumbnails import thumbnail

if TYPE_CHECKING:
    from medssl.cohort import Cohort

__all__ = ["Pictures", "item", "labels_text"]


class Pictures:
    """Pictures of recordings, each made once; kept in ``pictures.npz`` as ``picture_N``."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self._known: dict[tuple[str, int], dict[str, Any]] = {}

    def of(self, cohort: Cohort, row: int) -> dict[str, Any]:
        """``picture`` (its number), ``aspect`` and ``what``."""
        key = (str(cohort.path), row)
        if key not in self._known:
            made = thumbnail(cohort, row)
            number = len(self._known)
            self.arrays[f"picture_{number}"] = made["values"]
            self._known[key] = {"picture": number, "aspect": made["aspect"], "what": made["what"]}
        return self._known[key]

    def save(self, folder: Path) -> None:
        """Write ``pictures.npz``, whole or not at all."""
        beside = folder / ".pictures.part.npz"
        np.savez_compressed(beside, **self.arrays)  # type: ignore[arg-type]
        beside.replace(folder / "pictures.npz")


def item(pictures: Pictures, name: str, cohort: Cohort, *, row: int, **more: Any) -> dict[str, Any]:
    """One place of a strip."""
    record = cohort.manifest.iloc[row]
    return {
        "recording": str(record["recording"]), "patient": str(record["patient"]), "cohort": name,
        "kind": cohort.info.kind, "modality": cohort.info.modality, "labels": labels_text(cohort, row),
        **pictures.of(cohort, row), **more,
    }  # fmt: skip


def labels_text(cohort: Cohort, row: int) -> dict[str, str]:
    """Known labels of a recording as people read them."""
    record = cohort.manifest.iloc[row].to_dict()
    return {n: _text(record[f"label_{n}"]) for n in cohort.info.labels if _text(record[f"label_{n}"])}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
