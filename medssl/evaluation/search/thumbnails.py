"""A recording as a small picture: the middle slice, the middle frame, or a short trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medssl.cohort import Cohort

__all__ = ["thumbnail"]

SIDE = 128
TRACES, SAMPLES, TRACE_S = 3, 400, 10.0


def thumbnail(cohort: Cohort, row: int) -> dict[str, Any]:
    """What a strip shows of one recording.

    Returns:
        ``values``: (H, W) or (H, W, 3) uint8 of at most 128 pixels a side, seen as radiologists do (anterior up, the
        patient's right on the left); or (C, T) float16 of at most 3 channels and the 10 s in the middle. ``aspect``:
        width over height of the picture, 0 of traces. ``what``: a word for people.
    """
    from medssl.training.windows import Recordings

    recordings = Recordings(cohort, channels=None, rows=np.array([row]), cache_gb=0)
    shape = recordings.shape(row)
    if cohort.info.kind == "signal":
        return _trace(recordings, row, shape[0], cohort.reader(row).rate_hz)
    middle = shape[0] // 2
    stored = recordings.read(row, (middle, 0, 0), (1, *shape[1:]))
    plane = recordings.network_input(row, stored)[:, 0]
    video = cohort.info.kind == "video"
    if not video:
        plane = plane[:, ::-1, ::-1]
    spacing = (cohort.reader(row).spacing_mm or (1.0, 1.0, 1.0))[-2:]
    aspect = shape[2] * spacing[1] / (shape[1] * spacing[0])
    values = _grey(plane, colour=video and len(plane) == 3)
    return {"values": values, "aspect": float(aspect), "what": "middle frame" if video else "middle slice"}


def _grey(plane: NDArray[np.float32], *, colour: bool) -> NDArray[np.uint8]:
    """(C, H, W) network input as a picture: red, green and blue, or the first channel."""
    plane = plane if colour else plane[:1]
    step = -(-max(plane.shape[1:]) // SIDE)
    low, high = np.percentile(plane, (0.5, 99.5))
    small = plane[:, ::step, ::step]
    levels = (255 * np.clip((small - low) / max(float(high - low), 1e-9), 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0)) if colour else np.ascontiguousarray(levels[0])


def _trace(recordings: Any, row: int, length: int, rate_hz: float | None) -> dict[str, Any]:
    n = min(length, round(TRACE_S * rate_hz)) if rate_hz else min(length, SAMPLES)
    stored = recordings.read(row, ((length - n) // 2,), (n,))
    values = recordings.network_input(row, stored)[:TRACES]
    step = -(-n // SAMPLES)
    seconds = f"{n / rate_hz:.3g} s" if rate_hz else f"{n} samples"
    return {"values": values[:, ::step].astype(np.float16), "aspect": 0.0, "what": f"the {seconds} in the middle"}
