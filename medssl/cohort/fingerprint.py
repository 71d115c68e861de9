"""One number for a whole cohort: the same input and settings give the same fingerprint, on any machine.

It covers every stored value, how values turn into network input, geometry, labels, events and which recordings are
of one patient. It does not cover ids (pseudonyms depend on a secret key), paths, the order of work, or times.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medssl.cohort.info import FORMAT_VERSION

__all__ = ["cohort_fingerprint", "recording_digest"]

_FIELDS = (
    *("axes", "shape", "spacing_mm", "rate_hz", "channels", "units", "site", "scanner", "affine", "fill", "sha256"),
    *("scale", "offset", "input_scale", "input_offset", "input_range", "masks", "mask_sha256", "labels"),
)


def recording_digest(row: Mapping[str, Any], events: Sequence[Sequence[Any]]) -> str:
    """SHA-256 of what is stored of one recording.

    Args:
        row: its manifest row, with ``labels`` as a mapping.
        events: its rows of ``event_rows``; their first column (the recording's id) is left out.
    """
    content = {name: row[name] for name in _FIELDS}
    content["events"] = [list(event[1:]) for event in events]
    return _sha256(content)


def cohort_fingerprint(preparation: Mapping[str, Any], digests: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the settings and all recordings, grouped by patient, whatever their order.

    Args:
        preparation: the settings, as ``medssl.configurable.spec`` writes them.
        digests: (patient, ``recording_digest``) of every recording.
    """
    patients: dict[str, list[str]] = {}
    for patient, digest in digests:
        patients.setdefault(patient, []).append(digest)
    groups = sorted(_sha256(sorted(members)) for members in patients.values())
    return _sha256({"format_version": FORMAT_VERSION, "preparation": preparation, "patients": groups})


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
