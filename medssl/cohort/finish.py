"""The last step of a preparation: from the journal to manifest, events, rejects and ``cohort.json``."""

from __future__ import annotations

import csv
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import medssl
from medssl.adapters.recording import Rejected
from medssl.cohort.fingerprint import cohort_fingerprint, recording_digest
from medssl.cohort.info import CohortInfo
from medssl.cohort.journal import Journal, write_text
from medssl.cohort.manifest import EVENTS, RECORDINGS, LabelKinds, stored_labels, write_events, write_manifest
from medssl.cohort.packing import Packer
from medssl.cohort.recipe import Recipe
from medssl.cohort.store import Profile, write_group
from medssl.cohort.worker import WORK

__all__ = ["Entry", "Found", "finish", "write_rejected"]


class Found(NamedTuple):
    """An item: its key in the journal, and where it came from."""

    key: str
    source: str


Entry = Found | Rejected
"""An input in the order of the recipe: an item, or what was refused before it was one."""

_SOFTWARE = ("numpy", "scipy", "tensorstore", "nibabel", "pydicom", "SimpleITK", "av", "mne", "wfdb")
_MOST_EVENT_VALUES = 100


class _Summary:
    """Everything about the cohort as a whole, gathered row by row."""

    def __init__(self) -> None:
        self.labels = LabelKinds()
        self.patients: set[str] = set()
        self.quality: set[str] = set()
        self.channels: Counter[tuple[str, ...]] = Counter()
        self.spacings: set[tuple[float, ...] | None] = set()
        self.rates: set[float | None] = set()
        self.mask_values: dict[str, set[int]] = {}
        self.events: dict[str, Counter[str]] = {}
        self.moments: dict[str, list[float]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        self.labels.add(row["labels"])
        self.patients.add(row["patient"])
        self.quality.update(row["quality"])
        self.channels[tuple(row["channels"])] += 1
        self.spacings.add(None if row["spacing_mm"] is None else tuple(round(s, 6) for s in row["spacing_mm"]))
        self.rates.add(row["rate_hz"])
        for name, counts in row["mask_voxels"].items():
            self.mask_values.setdefault(name, set()).update(map(int, counts))
        for _, _, _, kind, value, _ in row["events"]:
            self.events.setdefault(kind, Counter())[value] += 1
        for channel, moments in zip(row["channels"], row["statistics"], strict=True):
            self._add_moments(channel, moments)

    def _add_moments(self, channel: str, moments: Sequence[float]) -> None:
        m = self.moments.setdefault(channel, [0.0, 0.0, 0.0, math.inf, -math.inf])
        n, total, squares, low, high = moments
        m[:] = [m[0] + n, m[1] + total, m[2] + squares, min(m[3], low), max(m[4], high)]

    def statistics(self) -> dict[str, dict[str, float]]:
        out = {}
        for channel, (n, total, squares, low, high) in self.moments.items():
            mean = total / n
            out[channel] = {"mean": mean, "std": math.sqrt(max(squares / n - mean**2, 0.0)), "min": low, "max": high}
        return out

    def masks(self, names: Mapping[str, Mapping[int, str]]) -> dict[str, dict[str, str]]:
        found = {mask: sorted(values) for mask, values in self.mask_values.items()}
        known = {
            mask: {str(v): n for v, n in labels.items() if int(v)} for mask, labels in names.items() if mask in found
        }
        return {mask: {str(v): str(v) for v in found[mask]} | known.get(mask, {}) for mask in sorted(found)}


def finish(
    cohort: Path,
    entries: Sequence[Entry],
    journal: Journal,
    *,
    recipe: Recipe,
    name: str,
    preparation: Mapping[str, Any],
    profile: Profile,
) -> tuple[CohortInfo, list[Rejected]]:
    """Write ``recordings.parquet``, ``events.parquet``, ``rejected.csv`` and, last, ``cohort.json``.

    Args:
        cohort: folder.
        entries: every input, in the order of the recipe; so the order of work leaves no trace.
        journal: what was done.
        recipe, name: what it was made with. preparation: its settings.
        profile: compression of packed arrays.

    Returns:
        What stands in ``cohort.json``, and all rejections. Without a single recording only ``rejected.csv`` is written.
    """
    summary, packer = _Summary(), Packer(cohort, profile)
    rejected: list[Rejected] = []
    taken: set[str] = set()
    for row in _rows(entries, journal, taken, rejected):
        summary.add(row)
        if "staged" in row:
            packer.add(row)
    write_rejected(cohort / "rejected.csv", rejected)
    if not taken:
        return CohortInfo(kind=recipe.kind, modality=recipe.modality, recipe=name, channels=()), rejected
    places = packer.write()
    digests = _write_tables(cohort, entries, journal, summary, places)
    info = replace(
        _info(summary, recipe, name),
        preparation=preparation,
        n_recordings=len(taken),
        n_rejected=len(rejected),
        fingerprint=cohort_fingerprint(preparation, digests),
    )
    write_group(cohort / "arrays")
    write_text(cohort / "cohort.json", info.to_json())
    _clean(cohort, entries, journal, {array for array, _ in places.values()})
    return info, rejected


def _rows(
    entries: Sequence[Entry], journal: Journal, taken: set[str], rejected: list[Rejected]
) -> Iterator[dict[str, Any]]:
    """Rows in the order of the recipe. A second recording of the same id is refused: which is right, nobody knows."""
    for entry in entries:
        if isinstance(entry, Rejected):
            rejected.append(entry)
            continue
        outcome = journal.outcome(entry.key)
        rejected += [Rejected(*pair) for pair in outcome["rejected"]]
        for row in outcome["rows"]:
            if row["recording"] in taken:
                reason = f"recording id {row['recording']} stands for an earlier input too; ids must be unique"
                rejected.append(Rejected(entry.source, reason))
                continue
            taken.add(row["recording"])
            yield row


def _write_tables(
    cohort: Path, entries: Sequence[Entry], journal: Journal, summary: _Summary, places: Mapping[str, tuple[str, int]]
) -> list[tuple[str, str]]:
    """Write both tables in one go each. Returns (patient, digest) of every recording."""
    kinds = summary.labels.kinds()
    digests: list[tuple[str, str]] = []

    def placed() -> Iterator[dict[str, Any]]:
        for row in _rows(entries, journal, set(), []):
            if "staged" in row:
                row["array"], row["position"] = places[row["recording"]]
            content = {**row, "labels": stored_labels(row["labels"], kinds)}
            digests.append((row["patient"], recording_digest(content, row["events"])))
            yield row

    write_manifest(cohort / RECORDINGS, placed(), labels=kinds, quality=summary.quality)
    write_events(cohort / EVENTS, (event for row in _rows(entries, journal, set(), []) for event in row["events"]))
    return digests


def _info(summary: _Summary, recipe: Recipe, name: str) -> CohortInfo:
    spacings, rates = summary.spacings, summary.rates
    return CohortInfo(
        kind=recipe.kind,
        modality=recipe.modality,
        recipe=name,
        channels=summary.channels.most_common(1)[0][0],
        spacing_mm=next(iter(spacings)) if len(spacings) == 1 else None,
        rate_hz=next(iter(rates)) if len(rates) == 1 else None,
        masks=summary.masks(recipe.mask_labels),
        events={kind: dict(counts.most_common(_MOST_EVENT_VALUES)) for kind, counts in sorted(summary.events.items())},
        labels=summary.labels.kinds(),
        ceilings=dict(recipe.ceilings),
        statistics=summary.statistics(),
        n_patients=len(summary.patients),
        software=_software(),
    )


def _software() -> dict[str, str]:
    found = {"medssl": medssl.__version__}
    for package in _SOFTWARE:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_rejected(file: Path, rejected: Sequence[Rejected]) -> None:
    """Write ``rejected.csv``: source and reason of everything that was not taken."""
    temporary = file.with_name(f".{file.name}.writing")
    with temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(Rejected._fields)
        writer.writerows(rejected)
    temporary.replace(file)


def _clean(cohort: Path, entries: Sequence[Entry], journal: Journal, packed: set[str]) -> None:
    """Remove unfinished work, and arrays that no row of the manifest names any more."""
    for folder in ("tmp", "staged"):
        shutil.rmtree(cohort / WORK / folder, ignore_errors=True)
    used = packed | {row["array"].split("/")[0] for row in _rows(entries, journal, set(), [])}
    for group in (cohort / "arrays").iterdir():
        if group.is_dir() and group.name not in used:
            shutil.rmtree(group)
