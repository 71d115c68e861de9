"""Bonn EEG segments: 500 single-channel pieces of 23.6 s, of healthy volunteers and of patients with epilepsy.

Get the data: https://www.ukbonn.de/epileptologie/arbeitsgruppen/ag-lehnertz-neurophysik/downloads/ (``Z.zip``,
``O.zip``, ``N.zip``, ``F.zip``, ``S.zip``). Licence: none is stated; published for research, to be cited. Cite:
Andrzejak RG, Lehnertz K, Mormann F, Rieke C, David P, Elger CE, Phys Rev E 64:061907, 2001.

Layout: the archives as they are, or their contents (``Z/Z001.txt``, ..., ``N/N001.TXT``): 4097 whole numbers a file,
counts of the converter, at 173.61 Hz. Label ``set``, by the letters of the paper: A (files Z: healthy, eyes open,
scalp), B (O: healthy, eyes closed, scalp), C (N: patients, seizure-free, opposite hippocampus), D (F: patients,
seizure-free, epileptogenic zone), E (S: seizure). Label ``state``: ``healthy`` (A, B), ``interictal`` (C, D),
``seizure`` (E); label ``seizure``: yes or no.

Splits: none is published. **Which segments are of one person is not known** (five volunteers, five patients): each is
its own patient here, with a note, so any split may leak, and results are about segments, not about people.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Bonn"]

NAME = re.compile(r"([ZONFS])(\d{3})\.txt", re.IGNORECASE)
SETS = {"Z": ("A", "healthy"), "O": ("B", "healthy"), "N": ("C", "interictal"), "F": ("D", "interictal")}
SETS["S"] = ("E", "seizure")
RATE_HZ = 173.61


class Bonn(Recipe):
    """Segments with the labels set, state and seizure.

    Args:
        rate_hz: of the stored signals; None keeps 173.61 Hz.
        band_hz: pass band; None stores it unfiltered (the publishers filtered 0.53 to 40 Hz).
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        rate_hz: float | None = None,
        band_hz: tuple[float | None, float | None] | None = None,
    ) -> None:
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """One channel in counts."""
        return SignalPreparation(rate_hz=self.rate_hz, band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every segment, of archives and of folders."""
        files = files_below(require_folder(source, "bonn"), (".txt", ".zip"))
        found: dict[str, Path] = {}
        for file in files:
            if file.suffix.lower() == ".zip":
                try:
                    with zipfile.ZipFile(file) as archive:
                        members = archive.namelist()
                except (OSError, zipfile.BadZipFile) as error:
                    yield Rejected(str(file), f"not a readable archive: {error}")
                    continue
            else:
                members = [file.name]
            for match in filter(None, (NAME.fullmatch(Path(member).name) for member in members)):
                found.setdefault(f"{match[1].upper()}{match[2]}", file)
        if not found:
            raise RecipeError(f"no Z001.txt to S100.txt below '{source}', nor archives of them; is it of Bonn's data?")
        for name in sorted(found):
            letter, state = SETS[name[0]]
            labels = {"set": letter, "state": state, "seizure": "yes" if state == "seizure" else "no"}
            yield Item(found[name], Ids(patient=name, recording=name), labels=labels)

    def read(self, item: Item) -> Read:
        """One segment."""
        assert isinstance(item.path, Path)
        content = _content(item.path, item.ids.recording)
        try:
            values = np.array(content.split(), dtype=np.int32)
        except ValueError as error:
            raise UnreadableRecording(
                f"segment {item.ids.recording} is not whole numbers: {error}", item.path
            ) from error
        recording = Recording(
            data=values[None],
            axes="ct",
            rate_hz=RATE_HZ,
            channels=("EEG",),
            units=("",),
            ids=item.ids,
            labels=dict(item.labels),
            source=item.source,
            source_sha256=hashlib.sha256(content).hexdigest(),
            notes=("whose segment it is was not published; it counts as a patient",),
        )
        return Read([recording], [])


def _content(file: Path, name: str) -> bytes:
    if file.suffix.lower() != ".zip":
        return file.read_bytes()
    try:
        with zipfile.ZipFile(file) as archive:
            member = next(
                m for m in archive.namelist() if Path(m).stem.upper() == name and NAME.fullmatch(Path(m).name)
            )
            return archive.read(member)
    except (OSError, StopIteration, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableRecording(f"segment {name} cannot be read: {error}", file) from error
