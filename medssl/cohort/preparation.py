"""What every preparation (of volumes, of signals, of video) takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Event, Recording
from medssl.cohort.frames import FrameGrid
from medssl.configurable import Configurable

__all__ = ["Preparation", "Prepared"]


@dataclass(frozen=True)
class Prepared:
    """One recording, ready to be stored.

    Attributes:
        image: stored integers, channel first: (C, Z, Y, X), (C, T, Y, X) or (C, T); int16 or uint8.
        scale, offset: (C,) float64; ``stored * scale + offset`` is in physical units.
        input_scale, input_offset: (C,) float64; ``stored * input_scale + input_offset`` is network input.
        input_range: (low, high) to which network input is clamped.
        fill: stored value outside the recording (air, zero volts), used to pad reads beyond its edge.
        channels: names, one a channel.
        masks: mask name → uint8 (Z, Y, X), of video (T, Y, X), on the image's grid.
        units: physical unit of each channel.
        spacing_mm: (z, y, x), of video (y, x), or None.
        rate_hz: or None.
        affine: (4, 4) of the prepared grid, columns in array order (z, y, x), or None.
        foreground: (K, n_axes) int16/int32 coordinates inside the body, K ≤ 4096; None for signals.
        mask_foreground: mask name → label value → (K, 3) coordinates, K ≤ 4096 a label.
        events: with times from the first stored sample.
        notes: the recording's notes and every further repair.
        quality: numbers that stand in the manifest (``nan_fraction``, ``flat_channels``, ``saturated``, ...).
        axes: of ``image``: ``"ctyx"`` for video; when not given ``"ct"`` or ``"czyx"`` by the number of axes.
        grid: of video: which part of which frames of the recording the image shows.
    """

    image: NDArray[Any]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    input_scale: NDArray[np.float64]
    input_offset: NDArray[np.float64]
    input_range: tuple[float, float]
    fill: int
    channels: tuple[str, ...]
    masks: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    units: tuple[str, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    rate_hz: float | None = None
    affine: NDArray[np.float64] | None = None
    foreground: NDArray[Any] | None = None
    mask_foreground: Mapping[str, Mapping[int, NDArray[Any]]] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    notes: tuple[str, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    axes: str = ""
    grid: FrameGrid | None = None

    def __post_init__(self) -> None:
        if not self.axes:
            object.__setattr__(self, "axes", "ct" if self.image.ndim == 2 else "czyx")


class Preparation(Configurable, ABC):
    """Raw recording → stored form. Pure: the same recording and settings give the same bytes on any machine."""

    @abstractmethod
    def __call__(self, recording: Recording) -> Prepared:
        """Prepare one recording.

        Raises:
            UnreadableRecording: it cannot be prepared (too short, empty, no common channel); the reason says why.
        """
