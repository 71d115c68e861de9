"""``medssl cohort verify`` and ``info``: is everything still as it was written; what is in it, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.cohort.fingerprint import cohort_fingerprint, recording_digest
from medssl.cohort.manifest import LABEL, labels_of
from medssl.cohort.reader import Cohort, Reader
from medssl.cohort.store import array_sha256
from medssl.errors import CohortError
from medssl.progress import track

__all__ = ["Verification", "cohort_info", "cohort_verify", "damage"]

MOST_INVALID = 0.1  # share of the recordings from which on an invalid region should be left out of the analysis


@dataclass(frozen=True)
class Verification:
    """Result of a check without faults.

    Attributes:
        n_recordings, n_arrays: how much was read.
        fingerprint: of the cohort.
    """

    n_recordings: int
    n_arrays: int
    fingerprint: str


def damage(reader: Reader) -> str:
    """What is wrong with a recording's arrays; empty when every checksum holds."""
    record = reader.record
    wanted = {"image": record["sha256"]}
    wanted |= {f"mask:{n}": sha for n, sha in zip(record["masks"], record["mask_sha256"], strict=True)}
    for key, checksum in wanted.items():
        try:
            found = array_sha256(reader.read_all(key))
        except CohortError as error:
            return f"{key} cannot be read: {error}"
        if found != checksum:
            return f"{key} differs from what was written"
    try:
        points = reader.foreground()
    except CohortError as error:
        return f"foreground cannot be read: {error}"
    return "foreground lies outside the grid" if points.size and (points >= reader.shape).any() else ""


def cohort_verify(cohort: str | Path, *, workers: int = 2) -> Verification:
    """Read every array again and compare its checksum with the manifest.

    Args:
        cohort: folder.
        workers: threads.

    Raises:
        CohortError: naming the damaged recordings.
    """
    opened = Cohort(cohort)
    if len(opened.table) != len(opened):
        raise CohortError(
            f"'{cohort}' should hold {len(opened)} recordings, its manifest has {len(opened.table)}; prepare it again"
        )
    if _fingerprint(opened) != opened.info.fingerprint:
        raise CohortError(f"the manifest of '{cohort}' does not give its fingerprint: it was changed; prepare it again")
    bad: list[tuple[str, str]] = []
    n_arrays = 0
    with track(len(opened), "verifying", unit="recordings") as progress:
        for reader, fault in _checked(opened, workers):
            n_arrays += 1 + len(reader.masks)
            bad += [(reader.recording, fault)] if fault else []
            progress.advance(note=f"{len(bad)} damaged")
    if bad:
        some = "; ".join(f"{recording} ({fault})" for recording, fault in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise CohortError(
            f"{len(bad)} of {len(opened)} recordings of '{cohort}' are damaged: {some}{more}; prepare them again from "
            "their sources (with --overwrite)"
        )
    found = Verification(len(opened), n_arrays, opened.info.fingerprint)
    print(
        f"{cohort}: {len(opened)} recordings, {n_arrays} arrays, all as written; fingerprint {found.fingerprint[:16]}"
    )
    return found


def _fingerprint(cohort: Cohort) -> str:
    """The fingerprint that manifest and events give now."""
    starts = range(0, len(cohort), 1000)
    records = (record for start in starts for record in cohort.table.slice(start, 1000).to_pylist())

    def digests() -> Iterator[tuple[str, str]]:
        for record in records:
            events = cohort.events_of(record["recording"])
            yield (
                record["patient"],
                recording_digest({**record, "labels": labels_of(record)}, events.to_numpy().tolist()),
            )

    return cohort_fingerprint(cohort.info.preparation, digests())


def _checked(cohort: Cohort, workers: int) -> Iterator[tuple[Reader, str]]:
    window = 64  # few at a time, so that memory does not grow with the cohort
    with ThreadPoolExecutor(max(workers, 1)) as threads:
        for start in range(0, len(cohort), window):
            readers = [cohort.reader(row) for row in range(start, min(start + window, len(cohort)))]
            yield from zip(readers, threads.map(damage, readers), strict=True)


def cohort_info(cohort: str | Path) -> str:
    """What is in a cohort, in a few lines for people: sizes, sites, labels, masks, events, rejects."""
    opened = Cohort(cohort)
    info, frame = opened.info, opened.manifest
    lines = [
        f"{cohort}: {info.n_recordings} recordings of {info.n_patients} patients ({info.modality or info.kind})",
        f"recipe: {info.recipe}    fingerprint: {info.fingerprint[:16]}    rejected inputs: {info.n_rejected}",
        f"channels: {_channels(info.channels)}",
    ]
    if info.kind == "volume":
        spacing = "mixed" if info.spacing_mm is None else "x".join(f"{s:g}" for s in info.spacing_mm) + " mm"
        lines.append(f"grid (z, y, x): {_shapes(frame['shape'])}, spacing {spacing}")
    else:
        unit = "Hz" if info.kind == "signal" else "frames a second"
        if info.kind == "video":
            lines.append(f"frames (t, y, x): {_shapes(frame['shape'])}")
        rate = "mixed" if info.rate_hz is None else f"{info.rate_hz:g} {unit}"
        seconds = frame["n_samples"] / frame["rate_hz"]
        total = f"{seconds.sum() / 3600:.3g} h in all" if seconds.notna().any() else "no rate known"
        lines.append(f"rate: {rate}, {seconds.min():.4g} to {seconds.max():.4g} s each, {total}")
    for column in ("site", "scanner"):
        counts = Counter(v for v in frame[column] if v)
        lines += [f"{column}: {_counts(counts)}"] if counts else []
    lines += [f"label {name} ({kind}): {_label(frame[LABEL + name], kind)}" for name, kind in info.labels.items()]
    for name, labels in info.masks.items():
        holders = sum(name in masks for masks in frame["masks"])
        lines.append(
            f"mask {name}: in {holders} recordings; {', '.join(f'{v} {labels[v]}' for v in sorted(labels, key=int))}"
        )
    lines += [f"events {kind}: {_counts(Counter(values))}" for kind, values in info.events.items()]
    lines += _invalid_regions(frame) if info.modality == "fmri" else []
    dropped = info.preparation.get("init_args", {}).get("drop_regions")
    lines += [f"regions left out of all recordings (drop_regions): {', '.join(dropped)}"] if dropped else []
    noted = sum(bool(notes) for notes in frame["notes"])
    lines += [f"read with repairs (see column notes): {noted}"] if noted else []
    return "\n".join(lines)


def _channels(names: tuple[str, ...]) -> str:
    """All names, or the first and the last of many."""
    return ", ".join(names) if len(names) <= 40 else f"{len(names)}: {', '.join(names[:8])}, … {names[-1]}"


def _invalid_regions(frame: Any) -> list[str]:
    """fMRI regions that are invalid (``input_scale`` 0) in more than a tenth of the recordings of their atlas."""
    counts: Counter[str] = Counter()
    invalid: Counter[str] = Counter()
    for names, scales in zip(frame["channels"], frame["input_scale"], strict=True):
        counts.update(names)
        invalid.update(name for name, scale in zip(names, scales, strict=True) if scale == 0)
    often = {name: n / counts[name] for name, n in invalid.items() if n > MOST_INVALID * counts[name]}
    if not often:
        return [f"regions invalid in more than {MOST_INVALID:.0%} of the recordings: none"]
    named = sorted(often.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{name} ({share:.0%})" for name, share in named[:20]) + (", …" if len(named) > 20 else "")
    found = f"regions invalid in more than {MOST_INVALID:.0%} of the recordings: {len(named)}: {shown}"
    return [f"{found}; to leave them out, prepare the cohort anew with the setting drop_regions"]


def _shapes(shapes: Any) -> str:
    stacked = np.array(shapes.tolist())
    low, high = stacked.min(axis=0), stacked.max(axis=0)
    ranges = (f"{a}" if a == b else f"{a} to {b}" for a, b in zip(low, high, strict=True))
    return " x ".join(ranges)


def _counts(counts: Counter[str], most: int = 12) -> str:
    said = [f"{value} {count}" for value, count in counts.most_common(most)]
    return ", ".join([*said, *(["…"] if len(counts) > most else [])])


def _label(column: Any, kind: str) -> str:
    known = column[column.notna()]
    unknown = len(column) - len(known)
    if kind == "number":
        text = f"{known.min():g} to {known.max():g}, mean {known.mean():.4g}" if len(known) else "none known"
    elif kind == "multilabel":
        text = _counts(Counter(value for values in known for value in values))
    else:
        text = _counts(Counter(known))
    return text + (f"; unknown {unknown}" if unknown else "")
