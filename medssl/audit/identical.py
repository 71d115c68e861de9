"""Recordings that are the same to the last bit, found by the checksums of the manifest; nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.audit.findings import Finding, Severity
from medssl.audit.sides import Placement, Relation

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["copies_finding", "identical_findings"]

_MANY = 0.5  # share of recordings from shared raw files above which such files are containers by design

_SAID: dict[Relation, tuple[Severity, str, str]] = {
    "across": ("error", "on both sides of the split", "keep one of each, or give both one id; then split again"),
    "folds": ("error", "in different folds", "keep one of each, or give both one id; then deal the folds again"),
    "held": ("warning", "in two test sets", "keep one of each: their results are not independent"),
    "same": ("warning", "of two patients on the same side", "find out whose they are: two people do not share one"),
    "within": ("warning", "of one patient", "keep one of each: a copy counts twice in training and in every mean"),
}  # fmt: skip


def identical_findings(
    manifest: pd.DataFrame, placement: Placement, constant: Sequence[int]
) -> tuple[list[Finding], str]:
    """Copies of whole recordings, and raw files that gave recordings of several patients.

    Args:
        manifest: of the cohort; ``sha256`` is of the decoded, oriented array with its shape and type.
        placement: where its rows stand.
        constant: rows without any signal, which are equal without being copies.

    Returns:
        The findings, and in words what was compared.
    """
    groups = [rows for rows in _groups(manifest["sha256"]) if not set(rows.tolist()) & set(constant)]
    by_relation: dict[Relation, list[NDArray[np.int64]]] = {}
    for rows in groups:
        by_relation.setdefault(placement.relation(rows), []).append(rows)
    findings = [
        copies_finding("identical", "the same to the last bit", relation, by_relation[relation], manifest, placement)
        for relation in _SAID if relation in by_relation
    ]  # fmt: skip
    findings += _shared_files(manifest, placement)
    if len(constant):
        findings.append(Finding(
            "note", "identical", f"{len(constant)} recordings hold nothing but one value (first: "
            f"{manifest['recording'].iloc[constant[0]]}) and were not compared: leave them out of the cohort",
            [{"recording": manifest["recording"].iloc[r]} for r in constant],
        ))  # fmt: skip
    return findings, f"checksums of {len(manifest)} arrays and of their raw files, {len(groups)} found twice or more"


def copies_finding(
    check: str,
    what: str,
    relation: Relation,
    groups: Sequence[NDArray[np.int64]],
    manifest: pd.DataFrame,
    placement: Placement,
    more: Sequence[dict[str, Any]] | None = None,
    severity: Severity | None = None,
) -> Finding:
    """One finding about groups of recordings that are ``what`` and stand in one relation to each other.

    ``severity`` replaces that of the relation where it is milder; ``more`` is added to each item.
    """
    usual, where, advice = _SAID[relation]
    items = [_item(rows, manifest, placement) | (more[i] if more else {}) for i, rows in enumerate(groups)]
    a, b = items[0]["recordings"][:2]
    sides = " and ".join(dict.fromkeys(s for s in items[0]["sides"] if s))
    first = f"{a} of {items[0]['patients'][0]} and {b} of {items[0]['patients'][1]}" + (
        f", in {sides}" if sides else ""
    )
    word = "pair" if all(len(rows) == 2 for rows in groups) else "group"
    count = f"{len(groups)} {word}{'s' if len(groups) > 1 else ''} of recordings {where} "
    count += f"{'are' if len(groups) > 1 else 'is'} {what}"
    return Finding(severity or usual, check, f"{count} (first: {first}): {advice}", items)


def _item(rows: NDArray[np.int64], manifest: pd.DataFrame, placement: Placement) -> dict[str, Any]:
    chosen = manifest.iloc[rows]
    return {
        "recordings": chosen["recording"].astype(str).tolist(), "patients": chosen["patient"].astype(str).tolist(),
        "sides": [placement.where(int(r)) for r in rows],
    }  # fmt: skip


def _groups(values: pd.Series[Any]) -> list[NDArray[np.int64]]:
    """Rows that share a value, of values that occur at least twice and are not empty."""
    again = np.flatnonzero((values.duplicated(keep=False) & values.notna() & (values != "")).to_numpy())
    held: dict[str, list[int]] = {}
    for row in again:
        held.setdefault(values.iloc[row], []).append(int(row))
    return [np.array(rows) for rows in held.values()]


def _shared_files(manifest: pd.DataFrame, placement: Placement) -> list[Finding]:
    """One raw file under the names of two patients whose arrays differ: containers of many patients are left alone."""
    shared = [rows for rows in _groups(manifest["source_sha256"]) if len(np.unique(placement.patient[rows])) > 1]
    different = [rows for rows in shared if manifest["sha256"].iloc[rows].nunique() == len(rows)]
    if not different or sum(map(len, different)) > _MANY * len(manifest):
        return []
    torn = sum(placement.relation(rows) in ("across", "folds") for rows in different)
    first = _item(different[0], manifest, placement)
    return [Finding(
        "warning", "identical",
        f"{len(different)} raw files gave recordings of several patients, {torn} of them across the split (first: "
        f"{', '.join(first['recordings'][:3])}): right for a file of many patients, else one person has two ids",
        [_item(rows, manifest, placement) for rows in different],
    )]  # fmt: skip
