"""Has an encoder seen the patients of the test, and which recordings does it hold to be the same?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.audit.findings import Finding
from medssl.audit.identical import copies_finding
from medssl.audit.sides import Placement, Relation, Sides
from medssl.cohort import Cohort
from medssl.errors import MedSSLError, SplitError

__all__ = ["neighbour_findings", "pretraining_findings"]

_CLOSE = 0.1  # a distance below a tenth of the usual one to the nearest stranger is worth a look
_WINDOWS = 4


def pretraining_findings(cohort: Cohort, sides: Sides, encoder: str) -> tuple[list[Finding], str]:
    """Test patients (and those of external sites) among the patients of the pre-training.

    Raises:
        CheckpointError: there is no such encoder.
    """
    from medssl.encoders.base import load_encoder, provenance_of
    from medssl.training.export import labels_note
    from medssl.training.finetune import check_leak

    load_encoder(encoder)  # says what is wrong with it
    provenance = provenance_of(encoder)
    note = labels_note(provenance)
    findings = [Finding("note", "pre-training", f"the encoder '{encoder}' {note}")] if note else []
    if sides.split is None:
        return findings, "left out: there is no valid split, so nobody is kept back"
    seen_here = provenance.get("patients", {}).get(cohort.info.fingerprint)
    if seen_here is None:
        findings.append(Finding(
            "note", "pre-training", f"the encoder '{encoder}' was not pre-trained on this preparation of the cohort; "
            "whether the same people are among its data cannot be told from marks, so ask where they come from",
        ))  # fmt: skip
        return findings, "the encoder carries no marks of this cohort"
    outside = tuple(p for patients in sides.split.external.values() for p in patients)
    held = replace(sides.split, test=(*sides.split.test, *outside), external={}, sha256="")
    try:
        check_leak(Path(encoder), cohort, held)
    except SplitError as error:
        findings.append(Finding("error", "pre-training", str(error)))
    return findings, f"marks of {len(seen_here)} patients against {len(held.test)} held back"


def neighbour_findings(cohort: Cohort, placement: Placement, encoder: str) -> tuple[list[Finding], str]:
    """Recordings of different patients that an encoder can hardly tell apart: a hint, since encoders forget much."""
    try:
        x = _embedded(cohort, encoder)
    except MedSSLError as error:
        return [], f"left out: {error}"
    pairs, distance, usual = close_in_embedding(x, placement)
    groups: dict[Relation, list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(placement.relation(pair), []).append(i)
    findings = []
    for relation, numbers in sorted(groups.items()):
        more: list[dict[str, Any]] = [{"distance": float(distance[i])} for i in numbers]
        findings.append(copies_finding(
            "embeddings", "ten times closer for the encoder than strangers usually are", relation,
            [pairs[i] for i in numbers], cohort.manifest, placement, more, "warning",
        ))  # fmt: skip
    return (
        findings,
        f"{len(x)} recordings, usual distance to the nearest stranger {usual:.2g}, {len(pairs)} pairs closer",
    )


def close_in_embedding(
    x: NDArray[np.floating], placement: Placement
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Nearest neighbours of other patients that are far closer than is usual.

    Args:
        x: (n, D) features of the manifest rows.

    Returns:
        (P, 2) rows, (P,) their cosine distances, and the median distance to the nearest neighbour.
    """
    from medssl.evaluation.neighbours import neighbours

    inside = np.flatnonzero(~placement.out)
    centred = x[inside].astype(np.float64) - x[inside].mean(0)
    spread = centred.std(0)
    centred = np.where(spread > 0, centred / np.where(spread > 0, spread, 1), 0)
    owner = placement.patient[inside]
    found = neighbours(centred, centred, k=1, bank_patients=owner, query_patients=owner)
    distance = np.clip(1 - found.similarity[:, 0], 0, None)
    if not np.isfinite(distance).any():
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0), float("nan")
    usual = float(np.median(distance))
    close = np.flatnonzero(distance < _CLOSE * usual)
    pairs = np.sort(np.stack([inside[close], inside[found.rows[close, 0]]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    order = np.argsort(distance[close][first], kind="stable")
    return pairs[order], distance[close][first][order], usual


def _embedded(cohort: Cohort, encoder: str) -> NDArray[np.float32]:
    """(n, D) frozen features of all recordings, the mean over a few windows of each."""
    from medssl.encoders.base import load_encoder
    from medssl.evaluation.probes import features
    from medssl.training.contract import match_input
    from medssl.training.heads import choose_size
    from medssl.training.settings import FinetuneSettings
    from medssl.training.targets import every_recording

    network, inputs = load_encoder(encoder)
    matched = match_input(inputs, cohort.info, any_channels=network.any_channels)
    whole = every_recording(cohort)
    size = choose_size(network, whole, FinetuneSettings())
    network.check_input(len(matched.names), size)
    return features(network, whole, np.arange(len(whole)), size=size, channels=matched.channels, windows=_WINDOWS)
