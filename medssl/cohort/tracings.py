"""What somebody drew in a few frames of a clip → its mask and the events that say which frames those are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Event, Recording
from medssl.cohort.reading import VideoItem
from medssl.cohort.videos import TRACE

__all__ = ["with_tracings"]

Rows = Sequence[Sequence[float]]
Draw = Callable[[Rows, tuple[int, int]], NDArray[np.bool_]]


def with_tracings(recording: Recording, item: VideoItem, *, name: str, draw: Draw, least: int) -> Recording:
    """A clip with the mask ``name`` and events of kind ``"trace"``.

    The frame with the largest outline is ED, that with the smallest ES; what lies between, and a single one, is
    ``"other"``. A frame number outside the clip is taken as its nearest frame, with a note; so is a table that states
    another number of frames than could be decoded.

    Args:
        recording: (T, Y, X), or with colour.
        item: holds the tracings.
        name: of the mask.
        draw: rows of numbers and (Y, X) → the outline's mask.
        least: rows of numbers that an outline needs.

    Returns:
        The recording as it was where there is no usable tracing, but for the notes.
    """
    count, shape = recording.data.shape[0], (recording.data.shape[1], recording.data.shape[2])
    notes = []
    if item.stated_frames and item.stated_frames != count:
        notes.append(f"the table states {item.stated_frames} frames, {count} could be decoded")
    mask = np.zeros((count, *shape), dtype=np.uint8)
    areas: dict[int, int] = {}
    for frame, rows in item.tracings:
        place = min(max(frame, 0), count - 1)
        if place != frame:
            notes.append(f"traced frame {frame} lies outside the {count} frames: taken as frame {place}")
        outline = draw(rows, shape) if len(rows) >= least else np.zeros(shape, dtype=bool)
        if not outline.any():
            notes.append(f"the tracing of frame {frame} makes no outline inside the picture: left out")
            continue
        mask[place] = outline
        areas[place] = int(np.count_nonzero(outline))
    if not areas:
        return recording.noted(*notes)
    rate = recording.rate_hz or 1.0
    times = recording.frame_times
    events = [
        Event(float(times[place]) if times is not None else place / rate, 0.0, TRACE, _phase(place, areas))
        for place in sorted(areas)
    ]
    labels = {**recording.labels, name: mask}
    return recording.with_(labels=labels, events=(*recording.events, *events)).noted(*notes)


def _phase(place: int, areas: dict[int, int]) -> str:
    if len(areas) < 2:
        return "other"
    if place == max(areas, key=lambda p: areas[p]):
        return "ED"
    return "ES" if place == min(areas, key=lambda p: areas[p]) else "other"
