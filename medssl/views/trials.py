"""Trials of a recording and windows of a trial. Pure functions of a NumPy generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["grid_starts", "trial_spans", "trial_statistics", "window_starts"]

Integers = NDArray[np.int64]


def trial_spans(length: int, trial: int | None) -> Integers:
    """First and past-the-last sample of the trials of a recording, (K, 2).

    Trials lie side by side; what is left over is left out at both ends. A recording of less than two trials is one.

    Args:
        length: samples of the recording.
        trial: samples of a trial; None: the recording is one.

    >>> trial_spans(11, 5).tolist()
    [[0, 5], [5, 10]]
    """
    count = 0 if trial is None else length // trial
    if trial is None or count < 2:
        return np.array([[0, length]], np.int64)
    first = (length - count * trial) // 2 + trial * np.arange(count, dtype=np.int64)
    return np.stack([first, first + trial], 1)


def grid_starts(length: int, window: int, step: int) -> Integers:
    """All starts, a step apart, of windows that fit into a trial.

    >>> grid_starts(40, 16, 8).tolist()
    [0, 8, 16, 24]
    """
    return np.arange(0, length - window + 1, step, dtype=np.int64)


def window_starts(
    length: int, window: int, count: int, *, gap: int, rng: np.random.Generator, step: int = 1
) -> Integers:
    """Random starts of windows of one trial, any two of them at least ``gap`` apart, in order.

    Where there is no room for that, they are spread evenly; about a trial shorter than the window all lie alike.

    Args:
        length: samples of the trial.
        window: samples of a window.
        count: windows.
        gap: samples between the starts of two windows.
        rng: drawn from once a window.
        step: starts are multiples of it.

    >>> window_starts(20, 8, 2, gap=12, rng=np.random.default_rng(0)).tolist()
    [0, 12]
    """
    if length < window:
        return np.full(count, (length - window) // 2, np.int64)
    last = len(grid_starts(length, window, step)) - 1
    apart = -(-gap // step)
    free = last - (count - 1) * apart
    if free < 0:
        return step * np.linspace(0, last, count).round().astype(np.int64)
    places = np.sort(rng.integers(0, free + 1, count)) + apart * np.arange(count)
    return step * places.astype(np.int64)


def trial_statistics(x: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Mean and standard deviation (of the population) of each channel: (C, T) → (C,) and (C,); constant ones have 1."""
    varies = np.ptp(x, 1) > 0  # the deviation of equal numbers is not 0 but rounding
    return x.mean(1), np.where(varies, x.std(1), 1).astype(x.dtype)
