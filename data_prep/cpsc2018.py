"""CPSC 2018 / PhysioNet-CinC Challenge 2020: 12-lead ECG of 6 to 60 s with one or more of nine diagnoses.

Get the data: https://physionet.org/content/challenge-2020/ (``cpsc_2018``), or any part of it. Licence: CC BY 4.0.
Cite: Liu F et al., J Med Imaging Health Inform 8(7):1368-1373, 2018; Perez Alday EA et al., Physiol Meas 41:124003,
2020.

Layout: ``AXXXX.hea`` + ``AXXXX.mat`` anywhere below the folder; diagnoses, age and sex stand in the headers (names
in early releases, SNOMED-CT codes later: both are read) and in ``labels.csv`` where there is one. A record is a
patient: the source gives no other ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from medssl.adapters.channels import ECG_12_LEADS
from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.finding import cell, files_below, require_folder, rows_by
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError

__all__ = ["CPSC2018"]

SNOMED = {
    "426783006": "Normal",
    "164889003": "AF",
    "270492004": "I-AVB",
    "164909002": "LBBB",
    "59118001": "RBBB",
    "284470004": "PAC",
    "164884008": "PVC",
    "429622005": "STD",
    "164931005": "STE",
}


class CPSC2018(Recipe):
    """12-lead records with the multi-label ``dx`` and the labels age and sex.

    Args:
        rate_hz: of the stored signals (recorded: 500 Hz).
        band_hz: pass band; None stores it unfiltered.
        min_s: shorter records are rejected.
    """

    kind = "signal"
    modality = "ecg"

    def __init__(
        self,
        *,
        rate_hz: float = 250.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
        min_s: float = 5.0,
    ) -> None:
        self.rate_hz = rate_hz
        self.band_hz = band_hz
        self.min_s = min_s

    def preparation(self) -> SignalPreparation:
        """The twelve leads in their usual order, in mV."""
        return SignalPreparation(
            rate_hz=self.rate_hz, channels=ECG_12_LEADS, units="mV", band_hz=self.band_hz, min_s=self.min_s
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every header, with its row of ``labels.csv``."""
        headers = files_below(require_folder(source, "cpsc2018"), (".hea",))
        if not headers:
            raise RecipeError(f"no .hea below '{source}'; recipe 'cpsc2018' wants the folder of WFDB records")
        rows = rows_by(source / "labels.csv", "record")
        for header in headers:
            row: Mapping[str, str | None] = rows.get(header.stem, {})
            yield Item(
                header,
                Ids(patient=row.get("patient_id") or header.stem, recording=header.stem),
                labels={
                    "dx": cell(row.get("dx"), several=True),
                    "age": cell(row.get("age")),
                    "sex": (row.get("sex") or "")[:1].upper() or None,
                },
            )
        for record in sorted(rows.keys() - {header.stem for header in headers}, key=str):
            yield Rejected(str(source / f"{record}.hea"), "stands in labels.csv, but is not there")

    def read(self, item: Item) -> Read:
        """The record; codes of diagnoses become names."""
        read = read_item(self.kind, item)
        return Read([_named(r) for r in read.recordings], read.rejected)


def _named(recording: Recording) -> Recording:
    dx = recording.labels.get("dx")
    if dx is None:
        return recording
    return recording.with_(labels={**recording.labels, "dx": [SNOMED.get(str(code), str(code)) for code in dx]})
