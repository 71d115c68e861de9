"""Exports an encoder while training goes on: a reader (or a kill) never meets half of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medssl.encoders.base import Encoder, InputSpec, save_encoder

__all__ = ["export_encoder", "joined_marks", "patient_marks"]


def export_encoder(encoder: Encoder, folder: Path, inputs: InputSpec, provenance: Mapping[str, Any]) -> None:
    """``save_encoder`` into a folder beside, then move each file into place."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".encoder-"))
    try:
        save_encoder(encoder, beside, inputs, provenance)
        for file in sorted(beside.iterdir(), reverse=True):  # weights first: a description always has its weights
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def patient_marks(fingerprint: str, patients: Iterable[str]) -> dict[str, str]:
    """Patient → a short keyed digest. It lets one see later whose data an encoder saw, without naming anybody.

    Args:
        fingerprint: of the cohort; part of the digest, so marks of different cohorts cannot be joined.
        patients: their ids in the cohort.
    """
    key = hashlib.sha256(fingerprint.encode()).digest()
    return {p: hashlib.blake2b(p.encode(), key=key, digest_size=8).hexdigest() for p in patients}


def joined_marks(marks: Mapping[str, Iterable[str]], runs: Iterable[Path]) -> dict[str, list[str]]:
    """Marks of the patients that an encoder saw, together with those that the runs it was built on saw.

    Args:
        marks: of this run, by the fingerprint of the cohort.
        runs: folders of finished runs.
    """
    joined = {fingerprint: set(own) for fingerprint, own in marks.items()}
    for run in runs:
        folder = run / "encoder" if (run / "encoder").is_dir() else run
        provenance = json.loads((folder / "encoder.json").read_text(encoding="utf-8")).get("provenance", {})
        for fingerprint, theirs in provenance.get("patients", {}).items():
            joined.setdefault(fingerprint, set()).update(theirs)
    return {fingerprint: sorted(both) for fingerprint, both in joined.items()}
