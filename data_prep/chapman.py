"""Chapman, Shaoxing and Ningbo: 45,152 twelve-lead ECGs of 10 s with rhythms and diagnoses.

Get the data: https://physionet.org/content/ecg-arrhythmia/1.0.0/ (all, WFDB), or https://doi.org/10.6084/m9.figshare.c.4560497
(the first 10,646, CSV). Licence: CC BY 4.0. Cite: Zheng J et al., A 12-lead electrocardiogram database for arrhythmia
research covering more than 10,000 patients, Scientific Data 7:48, 2020; Zheng J, Guo H, Chu H, doi 10.13026/wgex-er52.

Layout: ``WFDBRecords/NN/NNN/JSNNNNN.hea`` with ``.mat``, diagnoses as SNOMED-CT codes in the header; or
``ECGDataDenoised/NAME.csv`` (or ``ECGData``), one lead a column in uV, with ``Diagnostics.csv`` (the published
``Diagnostics.xlsx`` saved as CSV: FileName, Rhythm, Beat, PatientAge, Gender). Labels: ``rhythm``, one of the authors'
four groups (AFIB with flutter; GSVT, all fast supraventricular ones; SB; SR with sinus irregularity), unknown where
there is none or more than one; ``dx``, everything by name (multi-label); age, sex. A record is a patient. 500 Hz.

Splits: none is published; ``medssl cohort split COHORT --stratify rhythm``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from medssl.adapters.channels import ECG_12_LEADS
from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.adapters.signal_common import demographics
from medssl.cohort.finding import files_below, require_folder, rows_by
from medssl.cohort.reading import SignalItem, read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError

__all__ = ["Chapman"]

RHYTHMS = {
    "AFIB": ("AFIB", "164889003"),
    "AF": ("AFIB", "164890007"),
    "SVT": ("GSVT", "426761007"),
    "AT": ("GSVT", "713422000"),
    "AVNRT": ("GSVT", "233896004"),
    "AVRT": ("GSVT", "233897008"),
    "SAAWR": ("GSVT", "195101003"),
    "ST": ("GSVT", "427084000"),
    "SB": ("SB", "426177001"),
    "SR": ("SR", "426783006"),
    "SA": ("SR", "427393009"),
}
"""The authors' abbreviation → their group of four, SNOMED-CT code. SI, in the first release, is SA here."""

GROUP_OF = {name: group for name, (group, _) in RHYTHMS.items()}
NAME_OF = {code: name for name, (_, code) in RHYTHMS.items()}
FOLDERS = ("ECGDataDenoised", "ECGData")


class Chapman(Recipe):
    """Twelve-lead records with the labels rhythm, dx, age and sex.

    Args:
        leads: to store, by name.
        rate_hz: of the stored signals (recorded: 500 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "ecg"

    def __init__(
        self,
        *,
        leads: tuple[str, ...] = ECG_12_LEADS,
        rate_hz: float = 250.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        self.leads = tuple(leads)
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The leads in mV."""
        return SignalPreparation(rate_hz=self.rate_hz, channels=self.leads, units="mV", band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every WFDB header, or every row of the table."""
        headers = [f for f in files_below(require_folder(source, "chapman"), (".hea",)) if f.stem.startswith("JS")]
        rows = rows_by(source / "Diagnostics.csv", "FileName")
        if not headers and not rows:
            raise RecipeError(
                f"neither JSNNNNN.hea nor Diagnostics.csv below '{source}'; recipe 'chapman' wants one of the two "
                "layouts (save Diagnostics.xlsx as CSV)"
            )
        for header in headers:
            yield Item(header, Ids(patient=header.stem, recording=header.stem))
        for name, row in rows.items():
            yield _of_table(name, row, source)

    def read(self, item: Item) -> Read:
        """The record; codes of diagnoses become names, and their rhythm a group."""
        read = read_item(self.kind, item)
        return Read([_named(r) for r in read.recordings], read.rejected)


def _of_table(name: str, row: Mapping[str, str | None], source: Path) -> Item | Rejected:
    stem = name.removesuffix(".csv")
    file = next((f for folder in FOLDERS if (f := source / folder / f"{stem}.csv").is_file()), None)
    if file is None:
        return Rejected(str(source / FOLDERS[0] / f"{stem}.csv"), "stands in Diagnostics.csv, but is not there")
    beats = [b for b in re.split(r"[\s,;]+", row.get("Beat") or "") if b and b.upper() != "NONE"]
    return SignalItem(
        file,
        Ids(patient=stem, recording=stem),
        labels={
            "dx": [d for d in [(row.get("Rhythm") or "").upper(), *beats] if d],
            "age": None,
            "sex": None,
            **demographics(row.get("PatientAge"), row.get("Gender")),
        },
        rate_hz=500.0,
        units="uV",
        channels=ECG_12_LEADS,
    )


def _named(recording: Recording) -> Recording:
    dx = [NAME_OF.get(str(code), str(code)) for code in recording.labels.get("dx") or ()]
    dx = ["SA" if name == "SI" else name for name in dx]
    return recording.with_(labels={**recording.labels, "dx": dx, "rhythm": _group(dx)})


def _group(names: Iterable[str]) -> str | None:
    groups = {GROUP_OF[name] for name in names if name in GROUP_OF}
    return groups.pop() if len(groups) == 1 else None
