"""Recipe of runs of functional MRI as ``PATIENT_GROUP.npy``, (volumes, regions)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.fmri import FmriPreparation
from medssl.cohort.reading import FmriItem
from medssl.cohort.recipe import Item, Recipe


class ToyLengths(Recipe):
    kind = "signal"
    modality = "fmri"

    def preparation(self) -> FmriPreparation:
        return FmriPreparation(atlas="toy", regions=12, tr_s=2.0, confounds="none", filter="none", min_minutes=1.0)

    def find(self, source: Path) -> Iterable[Item | Rejected]:
        for file in sorted(source.glob("*.npy")):
            patient, group = file.stem.split("_")
            yield FmriItem(file, Ids(patient=patient, recording=file.stem), labels={"group": group}, tr_s=2.0)
