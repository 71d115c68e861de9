"""Events that follow each other without a gap (the epochs of a night), cut into sequences for training and testing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.errors import ConfigError
from medssl.heads.sequence import OUTSIDE
from medssl.heads.windows import WindowsHead
from medssl.training.labelled import LabelledWindows
from medssl.training.targets import Target
from medssl.training.windows import Recordings, Starts

__all__ = ["Embedded", "LabelledSequences", "epoch_spacing", "in_sequences", "runs_of", "sequence_starts", "unbroken"]

TOLERANCE = 0.01  # of the spacing: how exact the times of epochs must be
REGULAR = 0.5  # share of neighbours that must follow each other without a gap


def epoch_spacing(target: Target) -> float:
    """Seconds from one event to the next where they follow each other: their duration, or else the usual distance.

    Raises:
        ConfigError: the events are no epochs: most of them do not follow each other at equal distances.
    """
    steps = np.concatenate([np.diff(np.sort(_onsets(target, items))) for items in _by_recording(target)])
    spacing = target.epoch_s or (float(np.median(steps)) if len(steps) else 0.0)
    regular = float(np.mean(np.abs(steps - spacing) <= TOLERANCE * spacing)) if len(steps) else 0.0
    if spacing <= 0 or regular < REGULAR:
        raise ConfigError(
            f"sequence needs events of equal length that follow each other, such as sleep stages; of the "
            f"'{target.name}' events {regular:.0%} do; cut them into epochs in the recipe, or leave sequence at 0"
        )
    return spacing


def runs_of(target: Target, spacing_s: float) -> list[NDArray[np.int64]]:
    """Items that follow each other without a gap, in the order of time: each item is in exactly one run.

    A run ends with its recording and at every gap (an epoch that nobody scored, or whose class was left out), so
    that what is far apart in time never becomes neighbours.
    """
    runs: list[NDArray[np.int64]] = []
    for items in _by_recording(target):
        onsets = _onsets(target, items)
        order = np.argsort(onsets, kind="stable")
        runs += [items[order[part]] for part in unbroken(onsets[order], spacing_s)]
    return runs


def unbroken(onsets_s: NDArray[np.floating], spacing_s: float) -> list[NDArray[np.intp]]:
    """Indices of sorted times, cut wherever the next one does not follow at the spacing.

    >>> [part.tolist() for part in unbroken(np.array([0.0, 5.0, 10.0, 20.0, 25.0]), 5.0)]
    [[0, 1, 2], [3, 4]]
    """
    gaps = np.flatnonzero(np.abs(np.diff(onsets_s) - spacing_s) > TOLERANCE * spacing_s) + 1
    return np.split(np.arange(len(onsets_s)), gaps) if len(onsets_s) else []


def sequence_starts(length: int, most: int) -> list[int]:
    """Where sequences of at most ``most`` begin so that every place of a run is covered: half overlapping, last at
    the end.

    >>> sequence_starts(7, 4), sequence_starts(3, 4), sequence_starts(4, 1)
    ([0, 2, 3], [0], [0, 1, 2, 3])
    """
    if length <= most:
        return [0]
    return [*range(0, length - most, max(1, most // 2)), length - most]


def in_sequences(
    head: WindowsHead, features: Tensor, runs: Sequence[NDArray[np.integer]], *, most: int, batch: int
) -> Tensor:
    """Logits of epochs; those of overlapping sequences are averaged, so that every epoch is answered once.

    Args:
        head: in evaluation mode.
        features: (n, D) of single epochs.
        runs: indices into them, see ``runs_of``; every epoch is in one run.
        most: longest sequence.
        batch: sequences at once.

    Returns:
        (n, K), in the order of ``features``, on the CPU.
    """
    total = torch.zeros(len(features), len(head.classes))
    count = torch.zeros(len(features), 1)
    pieces = [run[s : s + most] for run in runs for s in sequence_starts(len(run), most)]
    for length in sorted({len(p) for p in pieces}):  # no padding: nearly all are of the full length
        index = torch.from_numpy(np.stack([p for p in pieces if len(p) == length]).astype(np.int64))
        known = torch.ones(index.shape, dtype=torch.bool, device=head.device)
        for part, there in zip(index.split(batch), known.split(batch), strict=True):
            answers = head.decide(features[part].to(head.device), there).float().cpu()
            total.index_add_(0, part.flatten(), answers.flatten(0, 1))
            count.index_add_(0, part.flatten(), torch.ones(part.numel(), 1))
    return total / count


class Embedded:
    """Features of single epochs that a frozen encoder would give again and again.

    Args:
        items: (n,) indices of items of a target.
        features: (n, D), one row an item.
    """

    def __init__(self, items: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        order = np.argsort(items)
        self._items, self._features = items[order], features[order]

    def of(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """(m, D) of some of these items."""
        found: NDArray[np.float32] = self._features[np.searchsorted(self._items, items)]
        return found


class LabelledSequences(LabelledWindows):
    """Training sequences: a labelled epoch (drawn as by ``LabelledWindows``) with epochs before and after it.

    The epoch's place in the sequence is random. A run that is shorter than the sequence comes whole, with ``known``
    false at the places that are left over.

    Args:
        target: events.
        items: indices of the items used; whole recordings.
        recordings: how they are read.
        size: of the window of an epoch.
        balance: draw classes equally often, of the epoch that a sequence is drawn for; its neighbours come as they are.
        sequence: epochs of a sequence.
        spacing_s: see ``epoch_spacing``.
        embedded: features of these items by a frozen encoder, taken in place of the signals.
    """

    def __init__(
        self,
        target: Target,
        items: NDArray[np.int64],
        recordings: Recordings,
        *,
        size: Starts,
        balance: bool,
        sequence: int,
        spacing_s: float,
        embedded: Embedded | None = None,
    ) -> None:
        super().__init__(target, items, recordings, size=size, balance=balance)
        self.sequence = sequence
        self.embedded = embedded
        self.runs = runs_of(target, spacing_s)
        self.run_of = np.empty(len(target), dtype=np.int64)
        self.place_of = np.empty(len(target), dtype=np.int64)
        for number, run in enumerate(self.runs):
            self.run_of[run], self.place_of[run] = number, np.arange(len(run))

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (S, C, size) stored integers or ``features`` (S, D), ``y`` (S,) classes, ``known`` (S,)."""
        chosen = self._around(item, rng)
        n = len(chosen)
        y = np.full(self.sequence, OUTSIDE, dtype=np.int64)
        y[:n] = self.target.y[chosen]
        row = int(self.target.rows[item])
        sample: dict[str, Any] = {**self.recordings.fields(row), "y": y, "known": np.arange(self.sequence) < n}
        if self.embedded is not None:
            return {**sample, "features": _filled(self.embedded.of(chosen), self.sequence)}
        starts = self.target.starts(chosen, self.size[0])
        stretch = self.recordings.read(row, (starts[0],), (starts[-1] - starts[0] + self.size[0],))
        windows = np.stack([stretch[:, s - starts[0] : s - starts[0] + self.size[0]] for s in starts])
        return {**sample, "x": _filled(windows, self.sequence)}

    def _around(self, item: int, rng: np.random.Generator) -> NDArray[np.int64]:
        run, place = self.runs[int(self.run_of[item])], int(self.place_of[item])
        first = max(0, place - self.sequence + 1)
        last = min(place, max(0, len(run) - self.sequence))
        start = int(rng.integers(first, last + 1)) if last > first else last
        return run[start : start + self.sequence]


def _filled(rows: NDArray[Any], length: int) -> NDArray[Any]:
    """Zeros after the last row, up to ``length`` rows."""
    out = np.zeros((length, *rows.shape[1:]), dtype=rows.dtype)
    out[: len(rows)] = rows
    return out


def _by_recording(target: Target) -> list[NDArray[np.int64]]:
    """The items of every recording, in the order of the manifest."""
    order = np.argsort(target.rows, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(target.rows[order])) + 1)


def _onsets(target: Target, items: NDArray[np.int64]) -> NDArray[np.float64]:
    assert target.onset_s is not None  # checked by level_of: sequences are of events
    return target.onset_s[items]
