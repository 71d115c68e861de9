"""What ``cohort.json`` says about a cohort."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from medssl.cohort.ceiling import Ceiling
from medssl.errors import CohortError

__all__ = ["FORMAT_VERSION", "CohortInfo"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class CohortInfo:
    """The cohort as a whole; written once all recordings are in.

    Attributes:
        kind: ``"volume"``, ``"signal"`` or ``"video"``.
        modality: finer word for people and for defaults: ``"mri"``, ``"ct"``, ``"ecg"``, ``"eeg"``, ``"us"``, ...
        recipe: name of the recipe that made it.
        channels: names, in array order; ``("image",)`` for one-channel volumes and grey video.
        spacing_mm: voxel size (z, y, x), of video pixel size (y, x), shared by all; None where each keeps its own.
        rate_hz: samples or frames a second shared by all signals or clips; None for volumes.
        masks: per mask name: label value (as string) → label name, background left out.
        events: kinds of events with their values and counts, e.g. ``{"beat": {"N": 22434, "V": 1713}}``.
        labels: scalar label columns (without the ``label_`` prefix) → ``"number"``, ``"class"`` or ``"multilabel"``.
        ceilings: label → accuracy that honest studies of the dataset stay below, where the recipe knows one.
        statistics: per channel mean, std, min, max of network input over all recordings (for people; never used to
            normalise, since that would leak test patients).
        preparation: settings class and values, as ``medssl.configurable.spec`` writes them.
        n_recordings, n_patients, n_rejected: counts.
        fingerprint: SHA-256 over settings, code format version and every array; same input and settings, same value.
        software: versions that wrote it.
        format_version: of the store.
    """

    kind: Literal["volume", "signal", "video"]
    modality: str
    recipe: str
    channels: tuple[str, ...]
    spacing_mm: tuple[float, ...] | None = None
    rate_hz: float | None = None
    masks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    events: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)
    statistics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    preparation: Mapping[str, Any] = field(default_factory=dict)
    n_recordings: int = 0
    n_patients: int = 0
    n_rejected: int = 0
    fingerprint: str = ""
    software: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Text of ``cohort.json``."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, file: Path) -> CohortInfo:
        """Parse ``cohort.json``.

        Raises:
            CohortError: missing, not JSON, or written by a newer format version.
        """
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CohortError(f"no cohort at '{file.parent}' (no {file.name}); run `medssl prepare` first") from error
        except json.JSONDecodeError as error:
            raise CohortError(f"'{file}' is damaged ({error}); prepare the cohort again") from error
        if fields.get("format_version", 0) > FORMAT_VERSION:
            raise CohortError(f"'{file}' has format version {fields['format_version']}; update medssl to read it")
        for key in ("channels", "spacing_mm"):
            fields[key] = tuple(fields[key]) if fields.get(key) is not None else None
        fields["ceilings"] = {label: Ceiling(**known) for label, known in fields.get("ceilings", {}).items()}
        return cls(**fields)
