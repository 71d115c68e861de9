"""Preparation of ultrasound video: the sector alone, without what is burnt in, at one rate and one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.echo_colour import grey_of
from medssl.adapters.recording import Event, Recording
from medssl.adapters.sector import find_sector, motion, still_text, temporal_moments
from medssl.cohort.foreground import bounding_box, frame_coordinates, label_coordinates
from medssl.cohort.frames import FrameGrid, fitted, nearest_frames, placed, resize_frames, resize_labels
from medssl.cohort.preparation import Preparation, Prepared
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["TRACE", "VideoPreparation"]

TRACE = "trace"
"""Kind of the events that mark annotated frames; a mask says nothing of the frames without one."""

BLACK = 10  # brightest grey level of a black frame: compression leaves some
LIT = 30  # a pixel that was not black; counted where it is removed
DOPPLER = 0.01
_BLOCK = 64


class _Found(NamedTuple):
    """What the pixels of a clip tell."""

    keep: NDArray[np.bool_]
    box: tuple[slice, ...]
    quality: dict[str, float]
    notes: list[str]


class VideoPreparation(Preparation):
    """Ultrasound clip → (C, T, Y, X) uint8; network input is 0 to 1.

    In this order: black frames at both ends dropped, the sector found from what moves, everything outside it and text
    over it made black, cut to the sector, frames chosen for the wanted rate, resized. Masks and events go along;
    annotated frames (events of kind ``"trace"``) are always among those chosen. What was removed stands in the notes
    and the quality columns.

    Args:
        rate_hz: frames a second of the prepared clips, by the nearest frame; None keeps the recording's own.
        size: rows and columns, or one number for both; None keeps the recording's own.
        aspect: ``"pad"`` keeps it and adds black; ``"stretch"`` does not keep it.
        sector: ``"blank"`` makes what lies outside the sector black; ``"keep"`` leaves it (only for clips that are
            known to carry no names).
        crop: cut to the rows and columns of the sector before resizing.
        text: ``"blank"`` makes boxes around white characters that stand still over the sector black; ``"keep"``.
        doppler: clips with colour flow: ``"reject"`` or ``"keep"``.
        min_frames: clips with fewer are refused.
        min_sector: smallest share of the picture that the sector covers; below it the clip is refused.
        min_motion: a clip whose frames differ by less (mean grey levels, from one frame to the next, by their median)
            is frozen, and refused.
    """

    def __init__(
        self,
        *,
        rate_hz: float | None = None,
        size: int | tuple[int, int] | None = 112,
        aspect: Literal["pad", "stretch"] = "pad",
        sector: Literal["blank", "keep"] = "blank",
        crop: bool = True,
        text: Literal["blank", "keep"] = "blank",
        doppler: Literal["reject", "keep"] = "reject",
        min_frames: int = 16,
        min_sector: float = 0.15,
        min_motion: float = 0.2,
    ) -> None:
        self.rate_hz = rate_hz
        self.size = (size, size) if isinstance(size, int) else None if size is None else (size[0], size[1])
        self.aspect, self.sector, self.crop, self.text, self.doppler = aspect, sector, crop, text, doppler
        self.min_frames, self.min_sector, self.min_motion = min_frames, min_sector, min_motion
        choices = {
            "aspect": (aspect, ("pad", "stretch")),
            "sector": (sector, ("blank", "keep")),
            "text": (text, ("blank", "keep")),
            "doppler": (doppler, ("reject", "keep")),
        }
        for option, (value, allowed) in choices.items():
            if value not in allowed:
                raise ConfigError(f"{option} '{value}' is unknown; use one of {', '.join(allowed)}")
        if rate_hz is not None and not rate_hz > 0:
            raise ConfigError(f"rate_hz {rate_hz} is not above 0")
        if self.size is not None and min(self.size) < 8:
            raise ConfigError(f"size {size} is too small; give at least 8 pixels")
        if min_frames < 1:
            raise ConfigError(f"min_frames {min_frames} is below 1")

    def __call__(self, recording: Recording) -> Prepared:
        """Prepare one clip. See the class.

        Raises:
            UnreadableRecording: not a video, too short, black, frozen, too little sector, colour flow, or a mask of
                another shape.
        """
        recording = self._checked(recording)
        notes = list(recording.notes)
        clip = recording.data if recording.axes == "tyxc" else recording.data[..., None]
        grey = grey_of(recording.data) if clip.shape[-1] == 3 else clip[..., 0]
        inside = self._without_black_ends(grey, recording, notes)
        masks = {n: m[inside] for n, m in _masks(recording).items()}
        times = _times(recording)[inside]
        events = _shifted(recording.events, times, notes)
        clip, grey, times = clip[inside], grey[inside], times - times[0]
        found = self._look(grey, recording)
        notes += found.notes
        taken, rate_hz = self._frames(times, recording, events, notes)
        channels = [self._channel(clip[..., c], taken, found) for c in range(clip.shape[-1])]
        masks = {name: self._mask(mask, taken, found) for name, mask in masks.items()}
        shown = self._mask(found.keep[None].astype(np.uint8), np.zeros(1, np.int64), found)[0] > 0
        count = len(channels)
        ones = np.ones(count)
        return Prepared(
            image=np.stack(channels),
            axes="ctyx",
            scale=ones,
            offset=np.zeros(count),
            input_scale=ones / 255,
            input_offset=np.zeros(count),
            input_range=(0.0, 1.0),
            fill=0,
            channels=recording.channels if len(recording.channels) == count else ("image",),
            masks=masks,
            units=("",) * count,
            spacing_mm=self._spacing(recording, found),
            rate_hz=rate_hz,
            foreground=frame_coordinates(shown, len(taken)),
            mask_foreground={name: label_coordinates(mask) for name, mask in masks.items()},
            events=_moved(events, times, taken, rate_hz),
            notes=tuple(notes),
            quality={**recording.quality, **found.quality, "source_frames": float(len(recording.data))},
            grid=self._grid(recording, inside, taken, found),
        )

    def _checked(self, recording: Recording) -> Recording:
        """Refuse what is no clip of ultrasound in grey (or, if wanted, with flow)."""
        if recording.axes not in ("tyx", "tyxc") or recording.data.dtype != np.uint8:
            raise UnreadableRecording(
                f"axes '{recording.axes}' of {recording.data.dtype} are not those of a video ('tyx', 'tyxc', uint8)",
                recording.source,
            )
        if recording.axes == "tyxc" and recording.data.shape[-1] != 3:
            raise UnreadableRecording(f"it has {recording.data.shape[-1]} colour channels, not 3", recording.source)
        if len(recording.data) < self.min_frames:
            raise UnreadableRecording(
                f"{_frames_are(len(recording.data))} too few (at least {self.min_frames})", recording.source
            )
        flow = recording.quality.get("coloured_fraction", 0.0)
        if self.doppler == "reject" and (flow > DOPPLER or recording.quality.get("flow_region")):
            raise UnreadableRecording(
                f"it shows colour Doppler ({flow:.1%} of the picture is coloured); set doppler to keep to take it",
                recording.source,
            )
        return recording

    def _without_black_ends(self, grey: NDArray[np.uint8], recording: Recording, notes: list[str]) -> slice:
        """The frames from the first to the last that is not black."""
        lit = np.flatnonzero(grey.reshape(len(grey), -1).max(axis=1) > BLACK)
        if not lit.size:
            raise UnreadableRecording("all frames are black", recording.source)
        inside = slice(int(lit[0]), int(lit[-1]) + 1)
        count = inside.stop - inside.start
        if count < len(grey):
            notes.append(f"{len(grey) - count} black frames at the ends left out")
        if count < self.min_frames:
            raise UnreadableRecording(
                f"{count} frames that are not black are too few (at least {self.min_frames})", recording.source
            )
        return inside

    def _look(self, grey: NDArray[np.uint8], recording: Recording) -> _Found:
        """Where the sector is and what is burnt into it; whether it is large enough and moves."""
        moments = temporal_moments(grey)
        everything = np.ones(grey.shape[1:], dtype=bool)
        sector = find_sector(moments) if len(grey) > 1 else everything
        differences = motion(grey, sector if sector.any() else everything)
        typical, quick = np.percentile(differences, (50, 75)) if differences.size else (np.inf, np.inf)
        notes: list[str] = []
        if max(typical, quick) <= self.min_motion:
            raise UnreadableRecording(
                f"it is frozen: frames differ by {typical:.2g} grey levels (more than {self.min_motion:g} wanted)",
                recording.source,
            )
        if typical <= self.min_motion:
            notes.append("every second frame or more repeats the one before")
        share = float(sector.mean())
        if share < self.min_sector:
            raise UnreadableRecording(
                f"the sector covers {share:.1%} of the picture (at least {self.min_sector:.0%} wanted)",
                recording.source,
            )
        keep = sector if self.sector == "blank" else everything
        quality = {"sector_fraction": share, "motion": float(typical) if differences.size else 0.0}
        removed = float((~keep & (moments.most > LIT)).mean())
        quality["removed_outside"] = removed
        if removed >= 0.0005:
            notes.append(f"outside the sector made black; {removed:.2%} of the picture was not black there")
        text, marks = still_text(moments, sector) if self.text == "blank" and len(grey) > 1 else (~everything, 0)
        quality["removed_text"] = float(text.mean())
        if marks:
            notes.append(f"{marks} burnt-in marks over the sector made black ({text.mean():.2%} of the picture)")
        box = bounding_box(keep) if self.crop else None
        return _Found(keep & ~text, box or (slice(0, grey.shape[1]), slice(0, grey.shape[2])), quality, notes)

    def _frames(
        self, times: NDArray[np.float64], recording: Recording, events: tuple[Event, ...], notes: list[str]
    ) -> tuple[NDArray[np.int64], float | None]:
        """Which frames, and the rate they then have."""
        own = recording.rate_hz
        rate = self.rate_hz or own
        if len(times) < 2 or rate is None:
            return np.arange(len(times)), own
        if recording.frame_times is None and own and abs(rate / own - 1) < 1e-3:
            return np.arange(len(times)), own
        wanted = [int(np.abs(times - e.onset_s).argmin()) for e in events if e.kind == TRACE]
        taken, lost = nearest_frames(times, rate, wanted=wanted)
        if lost:
            notes.append(f"{len(lost)} annotated frames lost at {rate:g} frames a second: others fall on the same one")
        if own and rate > own * 1.05:
            notes.append(f"frames repeated to come from {own:.4g} to {rate:g} a second")
        return taken, rate

    def _channel(self, clip: NDArray[np.uint8], taken: NDArray[np.int64], found: _Found) -> NDArray[np.uint8]:
        keep = found.keep[found.box]
        fit = fitted(keep.shape, self.size or keep.shape, keep_aspect=self.aspect == "pad")
        result = np.empty((len(taken), *fit.canvas), dtype=np.uint8)
        for start in range(0, len(taken), _BLOCK):  # never a second copy of the clip in its own size
            clean = clip[taken[start : start + _BLOCK]][(slice(None), *found.box)] * keep
            result[start : start + _BLOCK] = placed(resize_frames(clean, fit.size), fit)
        return result

    def _mask(self, mask: NDArray[np.uint8], taken: NDArray[np.int64], found: _Found) -> NDArray[np.uint8]:
        cut = np.ascontiguousarray(mask[(slice(None), *found.box)][taken])
        if self.size is None:
            return cut
        fit = fitted(cut.shape[1:], self.size, keep_aspect=self.aspect == "pad")
        return placed(resize_labels(cut, fit.size), fit)

    def _grid(self, recording: Recording, inside: slice, taken: NDArray[np.int64], found: _Found) -> FrameGrid:
        y, x = found.box
        shape = (y.stop - y.start, x.stop - x.start)
        fit = fitted(shape, self.size or shape, keep_aspect=self.aspect == "pad")
        count, height, width = recording.data.shape[:3]
        return FrameGrid((count, height, width), (inside.start, inside.stop), inside.start + taken, (y, x), fit)

    def _spacing(self, recording: Recording, found: _Found) -> tuple[float, ...] | None:
        if recording.spacing_mm is None or len(recording.spacing_mm) != 2:
            return None
        shape = [s.stop - s.start for s in found.box]
        if self.size is None:
            return tuple(round(s, 6) for s in recording.spacing_mm)
        fit = fitted(shape, self.size, keep_aspect=self.aspect == "pad")
        return tuple(round(s * n / m, 6) for s, n, m in zip(recording.spacing_mm, shape, fit.size, strict=True))


def _frames_are(count: int) -> str:
    return f"{count} frame{' is' if count == 1 else 's are'}"


def _times(recording: Recording) -> NDArray[np.float64]:
    """(T,) seconds of every frame, from the first."""
    if recording.frame_times is not None:
        return np.asarray(recording.frame_times, dtype=np.float64)
    return np.arange(len(recording.data)) / (recording.rate_hz or 1.0)


def _masks(recording: Recording) -> Mapping[str, NDArray[np.uint8]]:
    """The recording's label maps; scalars among its labels are not masks."""
    masks: dict[str, NDArray[np.uint8]] = {}
    for name, value in recording.labels.items():
        if not isinstance(value, np.ndarray) or value.ndim < 2:
            continue
        if value.shape != recording.data.shape[:3]:
            raise UnreadableRecording(
                f"mask '{name}' has shape {value.shape}, the clip {recording.data.shape[:3]}", recording.source
            )
        masks[name] = value.astype(np.uint8)
    return masks


def _shifted(events: tuple[Event, ...], times: NDArray[np.float64], notes: list[str]) -> tuple[Event, ...]:
    """Events from the first frame kept; those outside the frames kept are left out."""
    step = (times[-1] - times[0]) / max(len(times) - 1, 1)
    kept = [_at(e, e.onset_s - times[0]) for e in events if times[0] <= e.onset_s + 1e-9 < times[-1] + step]
    if len(kept) < len(events):
        notes.append(f"{len(events) - len(kept)} events lie outside the frames kept")
    return tuple(kept)


def _moved(
    events: tuple[Event, ...], times: NDArray[np.float64], taken: NDArray[np.int64], rate_hz: float | None
) -> tuple[Event, ...]:
    """Annotated frames at the time of the tick that shows them; one that no tick shows is left out."""
    moved: list[Event] = []
    for event in events:
        if event.kind != TRACE:
            moved.append(event)
            continue
        ticks = np.flatnonzero(taken == int(np.abs(times - event.onset_s).argmin()))
        if ticks.size and rate_hz:
            nearest = int(ticks[np.abs(ticks / rate_hz - event.onset_s).argmin()])
            moved.append(_at(event, nearest / rate_hz))
    return tuple(moved)


def _at(event: Event, onset_s: float) -> Event:
    return Event(float(onset_s), event.duration_s, event.kind, event.value, event.channel)
