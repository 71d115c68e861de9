"""UCI EEG database: visual evoked potentials of alcoholic and control subjects, 64 channels, one second a trial.

Get the data: https://archive.ics.uci.edu/dataset/121/eeg+database (doi 10.24432/C5TS3D): ``eeg_full.tar``, or
``SMNI_CMI_TRAIN.tar.gz`` and ``SMNI_CMI_TEST.tar.gz``, unpacked. Licence: CC BY 4.0. Cite: Begleiter H, EEG Database,
UCI Machine Learning Repository, 1999, doi 10.24432/C5TS3D; Zhang XL, Begleiter H et al., Brain Res Bull 38(6):531-538,
1995.

Layout: a trial a file, ``co2a0000364.rd.000`` or ``.rd.000.gz`` (heading, then ``trial channel sample uV``); or a
subject a file, ``co2a0000364.csv`` (also ``.gz``, ``.xz``) with the columns ``trial`` (and ``block``), ``time`` and one
a channel. The fourth letter is the label ``group``: a is alcoholic, c control. Label ``condition``: what was shown
(``S1 obj``, ``S2 match``, ``S2 nomatch``), where the file says. X and Y are EOG, nd is the nose: they are left out.
A trial that repeats an earlier one of the subject, sample by sample, is rejected. 256 Hz.

Splits: label ``split`` is train or test where the published folders say so, but **both hold the same twenty subjects**:
no split between people follows from it. An honest one is ``medssl cohort split COHORT --stratify group``.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Read, Recording, Rejected, sha256_of
from medssl.adapters.signal_array import read_table
from medssl.adapters.signal_common import Decoded, finish
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["Alcoholism"]

TRIAL = re.compile(r"(co\d([ac])\d{7})\.rd\.(\d{3})(?:\.gz)?", re.IGNORECASE)
SUBJECT = re.compile(r"(co\d([ac])\d{7})\.csv(?:\.gz|\.xz)?", re.IGNORECASE)
GROUPS = {"a": "alcoholic", "c": "control"}
NO_SCALP = frozenset({"X", "Y", "nd"})
RATE_HZ, SAMPLES = 256.0, 256
HEADING = re.compile(r"#\s*(.+?)\s*,\s*trial\s+(\d+)", re.IGNORECASE)
CHANNEL = re.compile(r"#\s*(\S+)\s+chan\s+\d+", re.IGNORECASE)


class Alcoholism(Recipe):
    """Trials with the labels group and condition.

    Args:
        rate_hz: of the stored signals; None keeps 256 Hz.
        band_hz: pass band; None stores it unfiltered, since a second is short for a filter.
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
        """The scalp channels in uV."""
        return SignalPreparation(rate_hz=self.rate_hz, units="uV", band_hz=self.band_hz)

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every file of a trial or of a subject."""
        found = False
        for file in files_below(require_folder(source, "alcoholism")):
            trial, subject = TRIAL.fullmatch(file.name), SUBJECT.fullmatch(file.name)
            match = trial or subject
            if match is None:
                continue
            found = True
            labels = {"group": GROUPS[match[2].lower()], "split": _published(file, source)}
            name = match[1].lower()
            recording = f"{name}-{trial[3]}" if trial else name
            if labels["split"]:
                recording = f"{labels['split']}-{recording}"
            yield Item(file, Ids(name, "", recording, trial[3] if trial else ""), labels=labels)
        if not found:
            raise RecipeError(
                f"no co2a0000364.rd.000 (or .csv) below '{source}'; recipe 'alcoholism' wants UCI's files"
            )

    def read(self, item: Item) -> Read:
        """The trials of the file."""
        assert isinstance(item.path, Path)
        if TRIAL.fullmatch(item.path.name):
            return Read([_recording(item, *_one_trial(item.path))], [])
        return _trials(item)


def _published(file: Path, source: Path) -> str | None:
    parts = "/".join(file.relative_to(source).parts[:-1]).upper()
    return next((name for name in ("train", "test") if f"SMNI_CMI_{name.upper()}" in parts), None)


def _one_trial(file: Path) -> tuple[Decoded, str]:
    """A file of UCI: blocks of ``trial channel sample value`` under the name of their channel."""
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix.lower() == ".gz" else file.read_bytes()
        lines = raw.decode("ascii").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UnreadableRecording(f"not a readable trial: {error}", file) from error
    heading = next(filter(None, map(HEADING.match, lines)), None)
    if heading is None:
        raise UnreadableRecording("its heading names no condition and trial", file)
    rows: dict[str, list[float]] = {}
    for line in lines:
        if line.startswith("#"):
            match = CHANNEL.match(line)
            rows |= {match[1]: []} if match else {}
        elif line.strip():
            cells = line.split()
            if len(cells) != 4 or cells[1] not in rows:
                raise UnreadableRecording(f"'{line.strip()}' is not trial, channel, sample and value", file)
            rows[cells[1]].append(float(cells[3]))
    if not rows or any(len(values) != SAMPLES for values in rows.values()):
        raise UnreadableRecording(f"not every channel has {SAMPLES} samples", file)
    data = np.array(list(rows.values()), dtype=np.float32)
    return Decoded(data, list(rows), ["uV"] * len(rows), RATE_HZ), heading[1]


def _trials(item: Item) -> Read:
    assert isinstance(item.path, Path)
    table = read_table(item.path, rate_hz=RATE_HZ, units="uV")
    column = dict(zip(table.labels, table.data, strict=True))
    if "trial" not in column:
        raise UnreadableRecording("it has no column 'trial'", item.path)
    number = column.pop("trial").astype(int)
    block = column.pop("block", number).astype(int)
    edges = np.flatnonzero((np.diff(number) != 0) | (np.diff(block) != 0)) + 1
    data = np.stack(list(column.values()))
    read = Read([], [])
    seen: dict[bytes, int] = {}
    for place, part in enumerate(np.split(np.arange(data.shape[1]), edges)):
        trial = int(number[part[0]])
        what = (
            f"trial {trial} of block {int(block[part[0]])}" if not np.array_equal(block, number) else f"trial {trial}"
        )
        reason = _fault(data[:, part], seen, place)
        if reason:
            read.rejected.append(Rejected(item.source, f"{what}: {reason}"))
            continue
        ids = Ids(item.ids.patient, "", f"{item.ids.recording}-{place:03d}", f"{trial:03d}")
        decoded = Decoded(data[:, part].copy(), list(column), ["uV"] * len(column), RATE_HZ)
        read.recordings.append(_recording(item, decoded, None).with_(ids=ids))
    return read


def _fault(data: NDArray[np.float32], seen: dict[bytes, int], place: int) -> str:
    if data.shape[1] != SAMPLES:
        return f"{data.shape[1]} samples, not {SAMPLES}"
    digest = hashlib.sha256(np.ascontiguousarray(data).tobytes()).digest()
    earlier = seen.setdefault(digest, place)
    return "" if earlier == place else f"a copy of the subject's trial at place {earlier}, sample by sample"


def _recording(item: Item, decoded: Decoded, condition: str | None) -> Recording:
    assert isinstance(item.path, Path)
    scalp = [name for name in decoded.labels if name not in NO_SCALP]
    recording = finish(decoded, item.path, sha256=sha256_of(item.path), channels=scalp)
    return recording.with_(ids=item.ids, labels={**item.labels, "condition": condition}, source=item.source)
