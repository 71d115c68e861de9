"""Random crops, windows and bags of labelled items, for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.training.targets import Target
from medssl.training.windows import PLAIN, ClipRule, Recordings, Starts, fixed_starts, random_start, start_around

__all__ = ["LabelledBags", "LabelledCrops", "LabelledWindows"]


class LabelledCrops:
    """Training crops of a segmentation target: a share of them centred on a labelled voxel, classes equally often.

    Args:
        target: the masks.
        items: indices of the items used.
        recordings: how they are read.
        size: (z, y, x) of a crop.
        foreground: share of crops centred on a voxel of a class.
    """

    def __init__(
        self, target: Target, items: NDArray[np.int64], recordings: Recordings, *, size: Starts, foreground: float
    ) -> None:
        self.target = target
        self.items = items
        self.recordings = recordings
        self.size = size
        self.foreground = foreground
        self.class_of = np.zeros(256, dtype=np.uint8)
        self.class_of[list(target.values)] = np.arange(len(target.values), dtype=np.uint8)

    def order(self, rng: np.random.Generator) -> NDArray[Any]:
        """Every item once."""
        return rng.permutation(self.items)

    def name(self, item: int) -> str:
        """The recording's id."""
        return str(self.target.cohort.manifest["recording"].iloc[int(self.target.rows[item])])

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (1, C, *size) stored integers, ``y`` (1, *size) class indices."""
        row = int(self.target.rows[item])
        start = self._start(row, rng)
        mask = self.recordings.read(row, start, self.size, f"mask:{self.target.name}")
        image = self.recordings.read(row, start, self.size)
        return {**self.recordings.fields(row), "x": image[None], "y": self.class_of[mask]}

    def _start(self, row: int, rng: np.random.Generator) -> Starts:
        shape = self.recordings.shape(row)
        if rng.random() < self.foreground:
            reader = self.target.cohort.reader(row)
            for label in rng.permutation(self.target.values[1:]):  # the next class where this one is absent
                points = reader.foreground(self.target.name, int(label))
                if len(points):
                    return start_around(points[int(rng.integers(len(points)))], shape, self.size)
        return random_start(shape, self.size, rng)


class LabelledWindows:
    """Training windows of a classification or regression target.

    A window lies anywhere in a labelled recording, or around the middle of an event; a share of the crops of volumes is
    centred on a voxel of the body. With ``balance``, a class is drawn first (of several labels at once, none is one
    more), then a patient who has it, then an item, so that neither a frequent class nor a long recording dominates.

    Args:
        target: labels or events.
        items: indices of the items used.
        recordings: how they are read.
        size: of a window or crop.
        balance: draw classes equally often.
        foreground: share of the crops of volumes and video that are centred on a voxel of the body or sector.
        rule: which clips of video there are.
    """

    def __init__(
        self,
        target: Target,
        items: NDArray[np.int64],
        recordings: Recordings,
        *,
        size: Starts,
        balance: bool,
        foreground: float = 0.0,
        rule: ClipRule = PLAIN,
    ) -> None:
        self.target = target
        self.items = items
        self.recordings = recordings
        self.size = size
        self.rule = rule
        self.foreground = foreground if target.cohort.info.kind != "signal" else 0.0
        self.groups = _by_class_and_patient(target, items) if balance and target.task == "classification" else []

    def order(self, rng: np.random.Generator) -> NDArray[Any]:
        """Every item once, or as many balanced draws."""
        if not self.groups:
            return rng.permutation(self.items)
        picks = []
        for u, v, w in rng.random((len(self.items), 3)):
            patients = self.groups[int(u * len(self.groups))]
            items = patients[int(v * len(patients))]
            picks.append(items[int(w * len(items))])
        return np.array(picks)

    def name(self, item: int) -> str:
        """The recording's id."""
        return str(self.target.cohort.manifest["recording"].iloc[int(self.target.rows[item])])

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (1, C, *size) stored integers, ``y`` the item's true value."""
        row = int(self.target.rows[item])
        if self.target.onset_s is None:
            start = self._start(row, rng)
        else:
            start = (self.target.starts(np.array([item]), self.size[0])[0],)
        y = self.target.y[item]
        value = y if isinstance(y, np.ndarray) else y.item()
        x = self.rule.read(self.recordings, row, start, self.size)
        return {**self.recordings.fields(row), "x": x[None], "y": value}

    def _start(self, row: int, rng: np.random.Generator) -> Starts:
        shape, span = self.recordings.shape(row), self.rule.span(self.size)
        if self.foreground and rng.random() < self.foreground:
            points = self.target.cohort.reader(row).foreground()
            if len(points):
                return start_around(points[int(rng.integers(len(points)))], shape, span)
        return random_start(shape, span, rng)


class LabelledBags(LabelledWindows):
    """Training bags: several windows of a labelled recording, spread over it with random starts.

    Args:
        target, items, recordings, size, balance, rule: see ``LabelledWindows``.
        windows: of a bag, at most; a recording that holds fewer gives fewer, and ``known`` is false for the rest.
    """

    def __init__(
        self,
        target: Target,
        items: NDArray[np.int64],
        recordings: Recordings,
        *,
        size: Starts,
        balance: bool,
        windows: int,
        rule: ClipRule = PLAIN,
    ) -> None:
        super().__init__(target, items, recordings, size=size, balance=balance, rule=rule)
        self.windows = windows

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (N, C, *size) stored integers, ``known`` (N,), ``y`` the item's true value."""
        row = int(self.target.rows[item])
        starts = self._starts(self.recordings.shape(row), rng)
        windows = [self.rule.read(self.recordings, row, start, self.size) for start in starts]
        x = np.zeros((self.windows, *windows[0].shape), dtype=windows[0].dtype)
        x[: len(windows)] = windows
        y = self.target.y[item]
        value = y if isinstance(y, np.ndarray) else y.item()
        return {**self.recordings.fields(row), "x": x, "known": np.arange(self.windows) < len(windows), "y": value}

    def _starts(self, shape: Sequence[int], rng: np.random.Generator) -> list[Starts]:
        """As many windows as testing sees; each moves at random as far as half way to its neighbours."""
        span = self.rule.span(self.size)
        fixed = fixed_starts(shape, span, self.windows)
        if len(fixed) == 1:
            return [random_start(shape, span, rng)]
        last = np.array(shape) - np.array(span)
        reach = np.maximum(last // (len(fixed) - 1) // 2, 0)
        moved = np.array(fixed) + rng.integers(-reach, reach + 1, (len(fixed), len(reach)))
        inside = np.where(last > 0, np.clip(moved, 0, np.maximum(last, 0)), np.array(fixed))
        return [tuple(int(s) for s in start) for start in inside]


def _by_class_and_patient(target: Target, items: NDArray[np.int64]) -> list[list[NDArray[np.int64]]]:
    """Items of every patient of every class that occurs; of several labels at once, having none is one more class."""
    y = target.y[items]
    having = [*(y.T > 0), ~(y > 0).any(1)] if target.multilabel else [y == c for c in range(len(target.classes))]
    groups = []
    for own in having:
        chosen = items[own]
        patients = target.patients[chosen]
        groups.append([chosen[patients == p] for p in sorted(set(patients))])
    return [g for g in groups if g]
