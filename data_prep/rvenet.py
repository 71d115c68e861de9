"""RVENet: 3,583 apical four-chamber clips of 831 patients with the right ventricle's ejection fraction from 3-D echo.

Get the data: https://rvenet.github.io/dataset/ (registration). Licence: by the agreement that is signed for it; no
redistribution. Cite: Magyar B. et al., RVENet: A Large Echocardiographic Dataset for the Deep Learning-Based Assessment
of Right Ventricular Function, ECCV 2022 Workshops, LNCS 13803:569-583, 2023 (doi 10.1007/978-3-031-25066-8_33).

Layout: DICOM clips ``*.dcm`` in any folders and ``codebook.csv``, a row a clip. Columns that the authors' published
code reads, and so does this recipe: FileName (``A_B_N``, without suffix: A_B is the patient, N counts the clips), RVEF
(%), HR (beats a minute), FPS and Split (train or validation). Labels: ``rvef``, ``heart_rate``, ``split``. Not
confirmed on the released files (they were not at hand): the name of the table, which is why any one .csv with FileName
and RVEF is taken, and the names of further columns (age, sex, group, volumes, quality), for which there is the option
``labels``. Several clips of a patient share one RVEF, so splits must divide patients, as those of medssl do. Clips
show their original screen: what lies outside the sector is made black.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.reading import VideoItem
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import VideoPreparation
from medssl.errors import RecipeError

__all__ = ["RVENet"]

TABLE = "codebook.csv"
WANTED = {"FileName", "RVEF"}


class RVENet(Recipe):
    """Clips with the labels rvef, heart_rate and split.

    Args:
        labels: further labels → the columns of the table that hold them, e.g. ``labels.age=Age``.
        rate_hz: frames a second of the prepared clips, by the nearest frame; None keeps each clip's own.
        size: rows and columns of the prepared clips.
    """

    kind = "video"
    modality = "us"

    def __init__(
        self, *, labels: Mapping[str, str] | None = None, rate_hz: float | None = 30.0, size: int = 112
    ) -> None:
        self.labels, self.rate_hz, self.size = dict(labels or {}), rate_hz, size

    def preparation(self) -> VideoPreparation:
        """30 frames a second, everything outside the sector black."""
        return VideoPreparation(rate_hz=self.rate_hz, size=self.size)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every clip of the table; clips without a row are named."""
        table, rows = _table(require_folder(source, "rvenet"))
        unknown = [column for column in self.labels.values() if column not in rows[0]]
        if unknown:
            raise RecipeError(f"table '{table}' has no column {unknown[0]}; there are {', '.join(rows[0])}")
        files = {_stem(f.name).casefold(): f for f in files_below(source) if f.suffix.lower() in (".dcm", "")}
        for row in rows:
            name = _stem(row["FileName"])
            path = files.pop(name.casefold(), None)
            patient, _, number = name.rpartition("_")
            if path is None:
                yield Rejected(str(source / f"{name}.dcm"), f"listed in {table.name} but missing")
            elif not patient or not number:
                yield Rejected(str(path), f"'{name}' does not end in _NUMBER, so its patient is unknown")
            else:
                yield self._item(path, name, patient, row)
        for path in files.values():
            yield Rejected(str(path), f"not listed in {table.name}")

    def _item(self, path: Path, name: str, patient: str, row: Mapping[str, str | None]) -> VideoItem:
        split = (row.get("Split") or "").strip().lower()
        labels = {"rvef": cell(row["RVEF"]), "heart_rate": cell(row.get("HR")), "split": split or None}
        labels |= {label: cell(row[column]) for label, column in self.labels.items()}
        return VideoItem(path, Ids(patient, recording=name), labels=labels)


def _table(source: Path) -> tuple[Path, list[dict[str, str | None]]]:
    """The table of the data set and its rows, at least one."""
    tables = files_below(source, (".csv",))
    named = [file for file in tables if file.name.lower() == TABLE]
    found = [(file, rows) for file in named or tables if (rows := read_rows(file)) and set(rows[0]) >= WANTED]
    if len(found) != 1:
        what = "no table" if not found else f"{len(found)} tables"
        raise RecipeError(f"{what} with the columns FileName and RVEF below '{source}' (recipe 'rvenet' wants one)")
    return found[0]


def _stem(name: str | None) -> str:
    text = name or ""
    return text[:-4] if text.lower().endswith(".dcm") else text
