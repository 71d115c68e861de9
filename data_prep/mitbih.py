"""MIT-BIH Arrhythmia Database: two-lead ambulatory ECG with the class of every beat.

Get the data: https://physionet.org/content/mitdb/1.0.0/ (``NNN.dat``, ``.hea``, ``.atr``). Licence: Open Data
Commons Attribution (ODC-By 1.0). Cite: Moody GB, Mark RG, IEEE Eng Med Biol 20(3):45-50, 2001 (doi
10.13026/C2F305); Goldberger AL et al., PhysioNet, Circulation 101(23):e215-e220, 2000.

Layout: WFDB triples in one folder; ``records.csv`` with record, patient_id, age, sex, paced where there is one.
Records 201 and 202 are the same patient. Leads differ in order and name between records (114 has them swapped), so
they are chosen by name: ``MLII``, and ``V`` for the chest lead (V1 where there is one, else V2 ... V6). Records 102
and 104 have no MLII: it is stored as zeros, with a note. Every beat is an event ``beat`` with its annotated symbol
and an event ``aami`` with its class of ANSI/AAMI EC57: N, S, V, F, Q.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.finding import cell, files_below, require_folder, rows_by
from medssl.cohort.reading import read_item
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError

__all__ = ["MITBIH"]

AAMI = {
    symbol: name
    for name, symbols in {"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"}.items()
    for symbol in symbols
}
ONE_PATIENT = {"202": "201"}
PACED = ("102", "104", "107", "217")
CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")


class MITBIH(Recipe):
    """Records with beat events; made for beat classification over patients.

    Args:
        leads: channels to store, by name; ``"V"`` is the record's chest lead.
        drop_paced: leave out records of patients with a pacemaker, as much of the literature does.
        rate_hz: of the stored signals (recorded: 360 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "ecg"

    def __init__(
        self,
        *,
        leads: tuple[str, ...] = ("MLII", "V"),
        drop_paced: bool = False,
        rate_hz: float = 250.0,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        self.leads = tuple(leads)
        self.drop_paced = drop_paced
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """Named leads in mV at one rate, baseline wander removed."""
        return SignalPreparation(
            rate_hz=self.rate_hz, channels=self.leads, missing="zero", units="mV", band_hz=self.band_hz
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every WFDB header, with its patient."""
        headers = files_below(require_folder(source, "mitbih"), (".hea",))
        if not headers:
            raise RecipeError(f"no .hea below '{source}'; recipe 'mitbih' wants the folder of WFDB records")
        rows = rows_by(source / "records.csv", "record")
        for header in headers:
            record = header.stem
            row: Mapping[str, str | None] = rows.get(record, {})
            paced = row["paced"] == "1" if row.get("paced") else record in PACED
            if paced and self.drop_paced:
                yield Rejected(str(header), "paced record, left out by drop_paced")
                continue
            yield Item(
                header,
                Ids(patient=row.get("patient_id") or ONE_PATIENT.get(record, record), recording=record),
                labels={"age": cell(row.get("age")), "sex": row.get("sex"), "paced": "yes" if paced else "no"},
            )

    def read(self, item: Item) -> Read:
        """The record with AAMI classes beside its beats, and its chest lead under the name ``V``."""
        read = read_item(self.kind, item)
        return Read([_with_chest_lead(_with_aami(r)) for r in read.recordings], read.rejected)


def _with_aami(recording: Recording) -> Recording:
    beats = [e for e in recording.events if e.kind == "beat" and e.value in AAMI]
    classes = [replace(e, kind="aami", value=AAMI[e.value]) for e in beats]
    return recording.with_(events=tuple(sorted((*recording.events, *classes), key=lambda e: e.onset_s)))


def _with_chest_lead(recording: Recording) -> Recording:
    chest = next((lead for lead in CHEST if lead in recording.channels), None)
    if chest is None or "V" in recording.channels:
        return recording
    names = tuple("V" if name == chest else name for name in recording.channels)
    events = tuple(replace(e, channel="V") if e.channel == chest else e for e in recording.events)
    return recording.with_(channels=names, events=events).noted(f"chest lead V is {chest}")
