"""POCUS lung ultrasound (COVID-19 lung ultrasound data set): 68 clips of 35 groups with a diagnosis.

Get the data: https://github.com/jannisborn/covid19_ultrasound (``data/pocus_videos`` and ``dataset_metadata.csv``).
Licence: of every video its own, mostly CC BY-NC 4.0 and CC BY 4.0, see the table's column ``licence``. Cite: Born J. et
al., Accelerating Detection of Lung Pathologies with Explainable Ultrasound Image Analysis, Applied Sciences 11(2):672,
2021.

Layout: ``labels.tsv`` with the columns file, label and group, and where known probe, sex, age, lung_severity_score and
label_note; ``videos/{convex,linear}/*`` in many formats. The label ``diagnosis`` is covid, bacterial_pneumonia,
viral_pneumonia or regular, and unknown where ``label_note`` calls it uncertain. ``severity`` is 0 to 3. The patient is
the column ``group``: a patient, or clips of one acquisition that look alike. Class and source are confounded (codec,
frame size and rate alone tell more than chance), so a high accuracy on these data is no clinical result.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.echo import is_video
from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import cell, files_below, read_rows, require_folder
from medssl.cohort.reading import VideoItem
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.videos import VideoPreparation
from medssl.errors import RecipeError

__all__ = ["Pocus"]

TABLE = "labels.tsv"


class Pocus(Recipe):
    """Clips with the labels diagnosis, severity, probe, age and sex.

    Args:
        probe: ``"convex"`` or ``"linear"`` for clips of that probe alone; ``"all"`` for both.
        rate_hz: frames a second of the prepared clips, by the nearest frame.
        size: rows and columns of the prepared clips.
    """

    kind = "video"
    modality = "us"

    def __init__(self, *, probe: str = "all", rate_hz: float | None = 20.0, size: int = 112) -> None:
        if probe not in ("all", "convex", "linear"):
            raise RecipeError(f"probe '{probe}' is unknown; use all, convex or linear")
        self.probe, self.rate_hz, self.size = probe, rate_hz, size

    def preparation(self) -> VideoPreparation:
        """20 frames a second (sources have 10 to 51), 112 x 112, everything outside the sector black."""
        return VideoPreparation(rate_hz=self.rate_hz, size=self.size)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every clip of the table; clips without a row are named."""
        table = require_folder(source, "pocus") / TABLE
        if not table.is_file():
            raise RecipeError(f"no {TABLE} in '{source}'; recipe 'pocus' wants the folder of the data set")
        rows = read_rows(table)
        missing = {"file", "label", "group"} - set(rows[0] if rows else ())
        if missing:
            raise RecipeError(f"table '{table}' has no column {', '.join(sorted(missing))}")
        listed: set[Path] = set()
        for row in rows:
            path = source / str(row["file"])
            listed.add(path)
            if not path.is_file():
                yield Rejected(str(path), f"listed in {TABLE} but missing")
            elif row["group"] is None:
                yield Rejected(str(path), "its row names no group, so its patient is unknown")
            elif self.probe in ("all", row.get("probe")):
                yield _item(path, row)
        for path in files_below(source):
            if is_video(path) and path not in listed:
                yield Rejected(str(path), f"not listed in {TABLE}")


def _item(path: Path, row: dict[str, str | None]) -> Item:
    uncertain = "uncertain" in str(row.get("label_note") or "").lower()
    labels = {
        "diagnosis": None if uncertain else row["label"],
        "severity": cell(row.get("lung_severity_score")),
        "probe": row.get("probe"),
        "age": cell(row.get("age")),
        "sex": row.get("sex"),
    }
    return VideoItem(path, Ids(str(row["group"]), recording=path.stem), labels=labels)
