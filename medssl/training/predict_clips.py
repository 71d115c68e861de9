"""A segmentation model on raw clips: a mask of every frame in the frame size of the source, and areas over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.clip_masks import write_clip_mask
from medssl.adapters.recording import Recording
from medssl.cohort.preparation import Prepared
from medssl.training.clips import segment_frames
from medssl.training.inference import Testing

__all__ = ["ClipMask", "segment_clip"]

Row = dict[str, Any]
ToInput = Callable[[NDArray[Any]], NDArray[np.float32]]


class ClipMask:
    """What was found in a clip.

    Attributes:
        frames: one row a frame of the source: ``frame``, ``time_s``, ``area_px/NAME``, ``area_cm2/NAME`` where the
            size of a pixel is known, ``mean_confidence``; without areas for frames that the preparation left out.
        mean_confidence: over all frames answered.
    """

    def __init__(self, frames: list[Row], mean_confidence: float) -> None:
        self.frames, self.mean_confidence = frames, mean_confidence


def segment_clip(
    head: Any,
    recording: Recording,
    prepared: Prepared,
    to_input: ToInput,
    testing: Testing,
    *,
    values: Mapping[int, str],
    file: Path,
) -> ClipMask:
    """Segment a clip and write its mask; call inside ``applied``.

    Only a few frames are ever held as network input and probabilities; the mask takes what the grey clip takes. A frame
    of the source that the prepared clip does not show, because of its rate, gets the mask of the nearest one that it
    does show; black frames at the ends get none.

    Args:
        head: the model.
        recording: as read; its size of a pixel and its rate count.
        prepared: of it, with ``grid``.
        to_input: stored integers (C, n, Y, X) of prepared frames → network input.
        testing: how the model is applied.
        values: stored label value → name of every class, in the order of the classes.
        file: ``.nii.gz`` to write.
    """
    grid = prepared.grid
    assert grid is not None  # of video
    count = prepared.image.shape[1]
    shown_by, stored = grid.prepared_frames(), np.array(list(values), dtype=np.uint8)
    labels = np.zeros(grid.source, dtype=np.uint8)
    confidence = np.full(count, np.nan)
    for frame, scores in segment_frames(head, lambda frames: to_input(prepared.image[:, frames]), count, testing):
        labels[shown_by == frame] = stored[grid.labels(scores)]
        confidence[frame] = scores.max(0).mean()
    names = {value: name for value, name in values.items() if value}
    spacing = recording.spacing_mm if recording.spacing_mm and len(recording.spacing_mm) == 2 else None
    write_clip_mask(file, labels, spacing_mm=spacing, rate_hz=recording.rate_hz, names=names)
    pixel_cm2 = None if spacing is None else spacing[0] * spacing[1] / 100
    times = _times(recording)
    rows: list[Row] = []
    for i, at in enumerate(shown_by):
        row: Row = {"frame": i, "time_s": "" if times is None else round(float(times[i]), 6)}
        if at >= 0:
            areas = {name: int(np.count_nonzero(labels[i] == value)) for value, name in names.items()}
            row |= {f"area_px/{name}": area for name, area in areas.items()}
            if pixel_cm2 is not None:
                row |= {f"area_cm2/{name}": area * pixel_cm2 for name, area in areas.items()}
            row["mean_confidence"] = float(confidence[at])
        rows.append(row)
    return ClipMask(rows, float(confidence.mean()))


def _times(recording: Recording) -> NDArray[np.float64] | None:
    """Seconds of every frame; None where nothing says them."""
    if recording.frame_times is not None:
        return np.asarray(recording.frame_times, dtype=np.float64)
    return np.arange(len(recording.data)) / recording.rate_hz if recording.rate_hz else None
