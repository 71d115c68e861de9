"""Copies of recordings that were mirrored, rescaled, shifted, resampled or saved in another precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.audit.close_pairs import close_pairs
from medssl.audit.findings import Finding
from medssl.audit.identical import copies_finding
from medssl.audit.sides import Placement, Relation

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import Cohort

__all__ = ["Duplicates", "duplicate_findings", "find_duplicates"]

ALIKE = {"volume": 0.995, "video": 0.995, "signal": 0.99}  # cosine on 16³ points, twice; cross-correlation
SAME = 0.999  # at the second look: two people never agree so closely, a copy saved in another way does
_LIKELY = 0.9  # whitened magnitudes of spectra: unrelated signals stay below 0.8, a copy does not
_SECOND_LOOK = 2000  # pairs that are read again


@dataclass(frozen=True)
class Duplicates:
    """Pairs of recordings of different patients that are alike, and rows without any content.

    Attributes:
        pairs: (P, 2) manifest rows.
        similarity: (P,) cosine on 16³ points, or cross-correlation.
        detail: (P,) the same at the second look (48³ points for volumes and video).
        constant: rows that hold one value only.
        said: in words, what was compared.
    """

    pairs: NDArray[np.int64]
    similarity: NDArray[np.float64]
    detail: NDArray[np.float64]
    constant: NDArray[np.int64]
    said: str


def find_duplicates(cohort: Cohort, placement: Placement) -> Duplicates:
    """Compare every recording with those of all other patients; each is read once, likely copies a second time."""
    rows = np.arange(len(cohort))
    kind = cohort.info.kind
    if kind != "signal":
        from medssl.audit.volume_signatures import COARSE, mirrored_cosines, signatures

        features = signatures(cohort, rows, COARSE)
        # float16 rounds by up to 0.0005; the exact test comes below
        pairs, _, full = close_pairs(np.abs(features), ALIKE[kind] - 1e-3, placement, rows)
        similarity = mirrored_cosines(features[pairs[:, 0]], features[pairs[:, 1]], COARSE).astype(np.float64)
    else:
        from medssl.audit.signal_signatures import correlations, spectra

        features = spectra(cohort, rows)
        pairs, _, full = close_pairs(features, _LIKELY, placement, rows)
        full, pairs = full or len(pairs) > _SECOND_LOOK, pairs[:_SECOND_LOOK]
        similarity = correlations(cohort, pairs)
    constant = np.flatnonzero(~features.any(1))
    alike = similarity > ALIKE[kind]
    order = np.flatnonzero(alike)[np.argsort(-similarity[alike], kind="stable")]
    detail = _detail(cohort, pairs[order], similarity[order])
    how = "16³ points in eight mirrorings" if kind != "signal" else "lagged cross-correlation in either direction"
    said = f"{len(rows)} {kind}s by {how}, {len(order)} pairs of different patients above {ALIKE[kind]:g}"
    said += "; there were more candidates than could be looked at, so this list is not complete" if full else ""
    return Duplicates(pairs[order], similarity[order], detail, constant, said)


def _detail(cohort: Cohort, pairs: NDArray[np.int64], similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Similarity on a finer grid; of signals it is known. NaN beyond the pairs that are read again."""
    if cohort.info.kind == "signal":
        return similarity
    from medssl.audit.volume_signatures import FINE, mirrored_cosines, signatures

    detail = np.full(len(pairs), np.nan)
    for start in range(0, min(len(pairs), _SECOND_LOOK), 256):
        batch = pairs[start : start + 256]
        rows, places = np.unique(batch, return_inverse=True)
        fine, places = signatures(cohort, rows, FINE), places.reshape(batch.shape)
        detail[start : start + 256] = mirrored_cosines(fine[places[:, 0]], fine[places[:, 1]], FINE)
    return detail


def duplicate_findings(found: Duplicates, manifest: pd.DataFrame, placement: Placement) -> list[Finding]:
    """Copies across the split are errors, look-alikes warnings; what is the same to the last bit is told elsewhere."""
    checksums = manifest["sha256"].to_numpy(dtype=object)
    new = checksums[found.pairs[:, 0]] != checksums[found.pairs[:, 1]]
    groups: dict[tuple[Relation, bool], list[int]] = {}
    for i in np.flatnonzero(new):
        groups.setdefault((placement.relation(found.pairs[i]), bool(found.detail[i] >= SAME)), []).append(int(i))
    findings = []
    for (relation, same), numbers in sorted(groups.items(), key=lambda g: (not g[0][1], g[0][0])):
        what = "one recording saved in two ways" if same else "so alike that one may be a copy of the other"
        more: list[dict[str, Any]] = [
            {"similarity": float(found.similarity[i]), "detail": float(found.detail[i])} for i in numbers
        ]
        findings.append(copies_finding(
            "near duplicates", what, relation, [found.pairs[i] for i in numbers], manifest, placement, more,
            None if same else "warning",
        ))  # fmt: skip
    return findings
