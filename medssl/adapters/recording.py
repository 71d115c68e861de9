"""What an adapter hands over: one acquired thing of one patient, with everything physical about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Event", "Ids", "Read", "Recording", "Rejected", "sha256_of"]

SPATIAL = "zyx"


@dataclass(frozen=True, slots=True)
class Ids:
    """Where a recording stands in patient → session → recording → trial. Empty means unknown."""

    patient: str = ""
    session: str = ""
    recording: str = ""
    trial: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened during a recording: a beat, a sleep stage, a stimulus.

    Attributes:
        onset_s: seconds from the first sample.
        duration_s: seconds; 0 for an instant.
        kind: what sort of event, e.g. ``"beat"``, ``"rhythm"``, ``"stage"``, ``"annotation"``.
        value: its label, e.g. ``"V"``.
        channel: the channel it belongs to; empty for all.
    """

    onset_s: float
    duration_s: float
    kind: str
    value: str
    channel: str = ""


class Rejected(NamedTuple):
    """An input that was not taken, and why. Ends up in ``rejected.csv``."""

    source: str
    reason: str


@dataclass(frozen=True)
class Recording:
    """One recording in memory, exactly as acquired.

    Attributes:
        data: the array, axes as in ``axes``.
        axes: one letter an axis of ``data``: ``c`` channel, ``t`` time, ``z``/``y``/``x`` space. Volumes are
            ``"zyx"``, ``"czyx"`` or ``"tzyx"``; signals are ``"ct"``; video is ``"tyx"`` or, in colour, ``"tyxc"``.
        affine: (4, 4) float64; columns 0..2 belong to the spatial axes *in the order they have in* ``axes``
            (so column 0 is z for ``"zyx"``), rows are RAS+ millimetres. None for signals.
        spacing_mm: voxel size in the order of the spatial axes of ``axes``. None for signals.
        rate_hz: samples a second along ``t``. None for still volumes.
        channels: a name a channel; empty for volumes without ``c``.
        units: a unit a channel for signals (``"mV"``, ``"uV"``, ...), or one for a volume (``"HU"``, ``""``).
        frame_times: seconds of each ``t`` index where not regular.
        ids: patient, session, recording, trial.
        labels: scalars (or lists of strings for multi-label) by name, and masks (arrays on the same spatial grid).
        events: timed annotations.
        site, scanner: where and on what it was acquired; empty when unknown.
        source: the path as given.
        source_sha256: digest of the raw bytes (for a series: of its files in reading order).
        notes: one entry for every repair made while reading; empty when it was read as it stood.
        quality: what the adapter measured while reading and the array no longer shows (share of coloured pixels of a
            clip kept in grey); it joins the preparation's numbers in the manifest.
        confounds: what was measured beside the signal, sample by sample: name → (T,) (head motion of fMRI).
    """

    data: NDArray[Any]
    axes: str
    affine: NDArray[np.float64] | None = None
    spacing_mm: tuple[float, ...] | None = None
    rate_hz: float | None = None
    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    frame_times: NDArray[np.float64] | None = None
    ids: Ids = field(default_factory=Ids)
    labels: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    site: str = ""
    scanner: str = ""
    source: str = ""
    source_sha256: str = ""
    notes: tuple[str, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    confounds: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.axes) != self.data.ndim or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"axes '{self.axes}' do not describe an array of shape {self.data.shape}")
        unknown = set(self.axes) - set("ctzyx")
        if unknown:
            raise ValueError(f"unknown axis letters {sorted(unknown)} in '{self.axes}'; allowed: c t z y x")

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """Positions of the spatial axes in ``data``, in the order they stand."""
        return tuple(i for i, a in enumerate(self.axes) if a in SPATIAL)

    def with_(self, **changes: Any) -> Recording:
        """A copy with some attributes replaced."""
        return replace(self, **changes)

    def noted(self, *notes: str) -> Recording:
        """A copy with further notes."""
        return replace(self, notes=(*self.notes, *notes))


class Read(NamedTuple):
    """What reading one source gave: its recordings, and what of it was refused."""

    recordings: list[Recording]
    rejected: list[Rejected]


def sha256_of(*paths: Path | str) -> str:
    """SHA-256 over the bytes of the files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
