"""PTB diagnostic ECG: 549 records of 290 people, 12 leads and the three of Frank, 1000 Hz.

Get the data: https://physionet.org/content/ptbdb/1.0.0/. Licence: Open Data Commons Attribution (ODC-By 1.0). Cite:
Bousseljot R, Kreiseler D, Schnabel A, Nutzung der EKG-Signaldatenbank CARDIODAT der PTB über das Internet,
Biomedizinische Technik 40(s1):317, 1995 (doi 10.13026/C28C71); Goldberger AL et al., PhysioNet, Circulation
101(23):e215-e220, 2000.

Layout: ``patientNNN/sNNNNxre.hea``, ``.dat`` and ``.xyz``. Labels, from the comments of the header: ``diagnosis``
(``Reason for admission``), ``infarct`` (``infarct`` for "Myocardial infarction", ``healthy`` for "Healthy control",
unknown for all others), age and sex. A folder is a patient.

Splits: ``split_wang2023`` is that of COMET (Wang Y. et al., Contrast everything, NeurIPS 2023): of the patients in
order of their number, the last 7 healthy and the last 21 with infarct are the test set, the 7 and the 21 before them
the validation set, the others are for training. COMET first leaves out records with beats longer than 1.2 s; where
that leaves out a patient of the last lists, its sets begin one patient earlier. ``--test-where split_wang2023=test``
takes it over. It needs all of the data: parts of them have other last patients.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.channels import ECG_12_LEADS
from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import files_below, last_held_out, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError

__all__ = ["PTB"]

REASON = re.compile(r"#\s*Reason for admission\s*:\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
FOLDER = re.compile(r"patient\d+", re.IGNORECASE)
INFARCT = {"myocardial infarction": "infarct", "healthy control": "healthy"}
FRANK_LEADS = ("VX", "VY", "VZ")
HELD_OUT = {"healthy": 7, "infarct": 21}
"""Patients of each class in the test set of COMET, and as many in its validation set."""


class PTB(Recipe):
    """Records with the labels diagnosis, infarct, age, sex and split_wang2023.

    Args:
        frank: also store the leads of Frank.
        only_infarct: take infarct and healthy records only, as papers on infarction do.
        rate_hz: of the stored signals (recorded: 1000 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "ecg"

    def __init__(
        self,
        *,
        frank: bool = True,
        only_infarct: bool = False,
        rate_hz: float = 250.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        self.frank = frank
        self.only_infarct = only_infarct
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """The leads in mV."""
        leads = (*ECG_12_LEADS, *(FRANK_LEADS if self.frank else ()))
        return SignalPreparation(rate_hz=self.rate_hz, channels=leads, units="mV", band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every record with what its header says."""
        headers = [f for f in files_below(require_folder(source, "ptb"), (".hea",)) if FOLDER.fullmatch(f.parent.name)]
        if not headers:
            raise RecipeError(f"no patientNNN/*.hea below '{source}'; recipe 'ptb' wants the folder of ptbdb")
        reasons = {header: _reason(header) for header in headers}
        classes = {header.parent.name: INFARCT.get((reason or "").lower()) for header, reason in reasons.items()}
        split = last_held_out(classes, HELD_OUT)
        for header, reason in reasons.items():
            infarct = INFARCT.get((reason or "").lower())
            if self.only_infarct and infarct is None:
                yield Rejected(str(header), f"neither infarct nor healthy: {reason or 'no reason for admission'}")
                continue
            patient = header.parent.name
            yield Item(
                header,
                Ids(patient=patient, recording=f"{patient}-{header.stem}"),
                labels={"diagnosis": reason, "infarct": infarct, "split_wang2023": split.get(patient)},
            )


def _reason(header: Path) -> str | None:
    match = REASON.search(header.read_text(encoding="latin-1"))
    return None if match is None or match[1].lower() in ("", "n/a") else match[1]
