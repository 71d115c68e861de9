"""What the recipes of sleep and of other timed annotations share: epochs of stages, and cutting a recording in time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from medssl.adapters.recording import Event, Recording
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["AASM_OF", "SLEEP", "cut_out", "epochs_of", "joined_epochs", "named", "scored_night", "stage_events"]

AASM_OF = {
    **dict.fromkeys(("W", "WAKE", "0"), "W"),
    **dict.fromkeys(("N1", "S1", "1"), "N1"),
    **dict.fromkeys(("N2", "S2", "2"), "N2"),
    **dict.fromkeys(("N3", "S3", "S4", "3", "4"), "N3"),
    **dict.fromkeys(("REM", "R"), "REM"),
}
"""Stages of Rechtschaffen and Kales, and of the AASM, as the five of the AASM."""

SLEEP = frozenset({"N1", "N2", "N3", "REM"})


def stage_events(stages: Sequence[str | None], epoch_s: float, *, start_s: float = 0.0) -> tuple[Event, ...]:
    """An event ``stage`` for each epoch that has one.

    Args:
        stages: of the epochs in order; None where there is none.
        epoch_s: length of an epoch.
        start_s: of the first, from the first sample.
    """
    return tuple(
        Event(start_s + i * epoch_s, epoch_s, "stage", stage) for i, stage in enumerate(stages) if stage is not None
    )


def joined_epochs(stages: Sequence[str | None], epoch_s: float, wanted_s: float) -> list[str | None]:
    """Epochs put together to longer ones, whose stage more than half of each must have; the remainder is left out.

    Raises:
        RecipeError: an epoch that is no whole number of those scored.

    >>> joined_epochs(["W", "W", "N1", "N1", "N2", None, "N2"], 10, 30)
    ['W', None]
    """
    count = round(wanted_s / epoch_s)
    if count < 1 or not math.isclose(count * epoch_s, wanted_s):
        raise RecipeError(f"epoch_s {wanted_s:g} is no multiple of the {epoch_s:g} s that were scored")
    joined: list[str | None] = []
    for start in range(0, len(stages) - count + 1, count):
        stage, votes = Counter(stages[start : start + count]).most_common(1)[0]
        joined.append(stage if votes > count / 2 else None)
    return joined


def epochs_of(intervals: Iterable[tuple[float, float, str | None]], epoch_s: float) -> list[str | None]:
    """Stages of successive epochs from intervals; an epoch that no interval covers as a whole has none.

    Args:
        intervals: (onset, duration, stage) in seconds; None is no stage.
        epoch_s: length of an epoch, the first of which begins at 0.

    >>> epochs_of([(0, 60, "W"), (60, 45, "N1")], 30)
    ['W', 'W', 'N1']
    """
    stages: list[str | None] = []
    tolerance = 1e-6 * epoch_s
    for onset, duration, stage in sorted(intervals, key=lambda i: i[0]):
        first = math.ceil((onset - tolerance) / epoch_s)
        last = math.floor((onset + duration + tolerance) / epoch_s)
        stages += [None] * (last - len(stages))
        stages[max(first, 0) : last] = [stage] * max(0, last - max(first, 0))
    return stages


def cut_out(recording: Recording, start_s: float, stop_s: float) -> Recording:
    """A recording between two times, its events with it: those that lie in it as a whole.

    Raises:
        UnreadableRecording: nothing is left of it.
    """
    rate = recording.rate_hz or 0.0
    first = max(0, round(start_s * rate))
    last = min(recording.data.shape[1], round(stop_s * rate))
    if last <= first:
        raise UnreadableRecording(f"nothing of it lies between {start_s:g} and {stop_s:g} s", recording.source)
    shift, length = first / rate, (last - first) / rate
    slack = 0.5 / rate
    kept = [
        replace(event, onset_s=max(0.0, event.onset_s - shift))
        for event in recording.events
        if event.onset_s - shift >= -slack and event.onset_s - shift + event.duration_s <= length + slack
    ]
    whole = first == 0 and last == recording.data.shape[1]
    cut = recording.with_(data=recording.data[:, first:last], events=tuple(kept))
    return (
        cut if whole else cut.noted(f"cut to {shift:g} to {shift + length:g} s of {recording.data.shape[1] / rate:g} s")
    )


def scored_night(
    recording: Recording, stages: Sequence[str | None], epoch_s: float, *, wake_min: float | None
) -> Recording:
    """A recording with its stages, those of epochs that lie in it as a whole.

    Args:
        recording: of a night.
        stages: of the epochs from its first sample on; None where there is none.
        epoch_s: length of an epoch.
        wake_min: minutes kept before the first and after the last epoch of sleep; None keeps all.

    Raises:
        UnreadableRecording: no epoch of it is scored as sleep, and wake is to be left out.
    """
    whole = int(recording.data.shape[1] / (recording.rate_hz or 1.0) / epoch_s + 1e-6)
    scored = recording.with_(events=stage_events(stages[:whole], epoch_s))
    return scored if wake_min is None else _trimmed_wake(scored, 60 * wake_min)


def named(recording: Recording, channels: Sequence[str]) -> Recording:
    """A recording whose channels are called otherwise; a note says which."""
    pairs = zip(channels, recording.channels, strict=True)
    notes = [f"channel {ours} is {theirs}" for ours, theirs in pairs if ours != theirs]
    return recording.with_(channels=tuple(channels)).noted(*notes)


def _trimmed_wake(recording: Recording, margin_s: float) -> Recording:
    asleep = [e for e in recording.events if e.kind == "stage" and e.value in SLEEP]
    if not asleep:
        raise UnreadableRecording("no epoch of it is scored as sleep", recording.source)
    first, last = asleep[0].onset_s, asleep[-1].onset_s + asleep[-1].duration_s
    return cut_out(recording, first - margin_s, last + margin_s)
