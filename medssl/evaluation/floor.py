"""The simple baseline that every study carries: what one gets without deep learning, on the same patients.

Events that are moments (beats): the waveform around the event averaged to 32 points a channel, four numbers about the
intervals to its neighbours, and a random forest. Epochs (sleep stages) and windows: their log band powers. Labels of
recordings: log band powers (signals) or the histogram of intensities (volumes). All these with logistic regression.
Regression: the median of the training patients. Segmentation has none. fMRI: connectivity with logistic or ridge
regression, see ``medssl.evaluation.connectivity_floor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.connectivity_floor import ConnectivityFloor, connectivity_rows, plain_edges
from medssl.evaluation.probes import linear_predict, thinned

if TYPE_CHECKING:
    from medssl.training.targets import Target

__all__ = [
    "describe_floor",
    "floor_features",
    "floor_predict",
    "interval_features",
    "unfitted",
]

POINTS = 32
BEFORE_S, AFTER_S = 0.3, 0.5
BANDS = 16
BINS = 32
LONGEST_S = 60.0
LARGEST = 128


def describe_floor(target: Target, level: str, *, fitted: bool = True) -> str | None:
    """In a few words, for the report; None where there is no simple baseline.

    Args:
        target: what is predicted.
        level: of the decisions.
        fitted: a model is fitted on its features; else they are used as they are.
    """
    if target.task == "segmentation":
        return None
    of = " of the epoch" if target.source == "event" else " of the window" if level == "window" else ""
    if target.has_connectivity:
        model = "ridge" if target.task == "regression" else "logistic"
        kind = f"Fisher z of the functional connectivity{of}"
        return f"{kind}, its tangent vectors and {model} regression" if fitted else kind
    if target.task == "regression":
        return "always the median of the training patients"
    if target.are_moments:
        features = "averaged waveform, intervals to the neighbouring events"
        return f"{features} and a random forest" if fitted else features
    kind = "log band powers" if target.cohort.info.kind == "signal" else "intensity histogram"
    return f"{kind}{of} and logistic regression" if fitted else f"{kind}{of}"


def floor_features(target: Target) -> NDArray[np.float32]:
    """Simple features of every item of a target, (n, D); of fMRI, ``connectivity_rows``."""
    if target.task == "regression" and not target.has_connectivity:
        return np.zeros((len(target), 1), dtype=np.float32)
    parts: list[NDArray[np.float32]] = []
    order: list[NDArray[np.intp]] = []
    for row in np.unique(target.rows):
        items = np.flatnonzero(target.rows == row)
        features = _whole if target.onset_s is None else _event_features if target.are_moments else _stretches
        parts.append(features(target, int(row), items))
        order.append(items)
    out = np.empty((len(target), parts[0].shape[1]), dtype=np.float32)
    out[np.concatenate(order)] = np.concatenate(parts)
    return out


def unfitted(target: Target, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """``floor_features`` as they can be compared without fitting anything: (n, D)."""
    return plain_edges(features) if target.has_connectivity else features


def floor_predict(
    train: NDArray[np.floating],
    y: NDArray[Any],
    patients: NDArray[Any],
    test: NDArray[np.floating],
    *,
    task: str,
    moments: bool,
    classes: int,
    seed: int,
    connectivity: bool = False,
) -> NDArray[np.float64]:
    """Probabilities (m, K) or values (m,) of the simple baseline; ``moments`` and ``connectivity`` are the target's
    ``are_moments`` and ``has_connectivity``, other arguments as in ``linear_predict``."""
    if connectivity:
        fitted = ConnectivityFloor.fit(train, patients, seed=seed)
        kind: Literal["classification", "regression"] = "regression" if task == "regression" else "classification"
        given = fitted(train), y, patients, fitted(test)
        return linear_predict(*given, task=kind, classes=classes, seed=seed, scaled=True)
    if task == "regression":
        return np.full(len(test), float(np.median(y)))
    if not moments:
        return linear_predict(train, y, patients, test, task="classification", classes=classes, seed=seed)
    from sklearn.ensemble import RandomForestClassifier

    chosen = thinned(patients, seed)
    forest = RandomForestClassifier(200, min_samples_leaf=2, class_weight="balanced_subsample", random_state=seed)
    forest.fit(train[chosen], y[chosen])
    out = np.zeros((len(test), classes))
    out[:, forest.classes_] = forest.predict_proba(test)
    return out


def interval_features(onsets_s: NDArray[np.floating], at_s: NDArray[np.floating]) -> NDArray[np.float32]:
    """Four numbers about the rhythm around each event.

    Args:
        onsets_s: (m,) onsets of all events of the recording, sorted.
        at_s: (n,) onsets of the events asked about; they are among ``onsets_s``.

    Returns:
        (n, 4): interval before, interval after, interval before over the recording's mean, and over the mean of the ten
        intervals around. Recordings with fewer than two events give zeros.
    """
    if len(onsets_s) < 2:
        return np.zeros((len(at_s), 4), dtype=np.float32)
    intervals = np.diff(onsets_s)
    mean = float(intervals.mean()) or 1.0
    place = np.clip(np.searchsorted(onsets_s, at_s), 0, len(onsets_s) - 1)
    before = intervals[np.clip(place - 1, 0, len(intervals) - 1)]
    after = intervals[np.clip(place, 0, len(intervals) - 1)]
    total = np.r_[0.0, np.cumsum(intervals)]
    low, high = np.clip(place - 5, 0, None), np.clip(place + 5, None, len(intervals))
    local = (total[high] - total[low]) / np.maximum(high - low, 1)
    return np.stack([before, after, before / mean, before / np.maximum(local, 1e-6)], axis=1).astype(np.float32)


def _event_features(target: Target, row: int, items: NDArray[np.intp]) -> NDArray[np.float32]:
    assert target.onset_s is not None
    reader = target.cohort.reader(row)
    rate = float(target.cohort.info.rate_hz or 1.0)
    signal = _network_input(target, row, (0,), reader.shape)
    length = max(POINTS, round((BEFORE_S + AFTER_S) * rate))
    starts = np.round(target.onset_s[items] * rate).astype(np.int64) - round(BEFORE_S * rate)
    index = np.clip(starts[:, None] + np.arange(length), 0, signal.shape[1] - 1)
    windows = signal[:, index]  # (C, n, length)
    edges = np.linspace(0, length, POINTS + 1).astype(np.int64)
    averaged = np.add.reduceat(windows, edges[:-1], axis=2) / np.diff(edges)
    beats = averaged.transpose(1, 0, 2).reshape(len(items), -1).astype(np.float32)
    onsets = np.sort(reader.events(target.name)["onset_s"].to_numpy(dtype=np.float64))
    return np.concatenate([beats, interval_features(onsets, target.onset_s[items])], axis=1)


def _whole(target: Target, row: int, items: NDArray[np.intp]) -> NDArray[np.float32]:
    reader = target.cohort.reader(row)
    shape = reader.shape
    if target.has_connectivity:
        rows = connectivity_rows(_network_input(target, row, (0,), shape)[None])
        return np.repeat(rows, len(items), axis=0)
    if target.cohort.info.kind == "signal":
        rate = float(target.cohort.info.rate_hz or 1.0)
        size: tuple[int, ...] = (min(shape[0], round(LONGEST_S * rate)),)
    else:
        size = tuple(min(n, LARGEST) for n in shape)
    x = _network_input(target, row, [(n - s) // 2 for n, s in zip(shape, size, strict=True)], size)
    found = _band_powers(x, rate) if len(size) == 1 else _histogram(x, reader.input_fields()["input_range"])
    return np.repeat(found[None], len(items), axis=0)


def _stretches(target: Target, row: int, items: NDArray[np.intp]) -> NDArray[np.float32]:
    """Band powers, or connectivity, of every epoch or window of a recording, each from its begin to its end."""
    assert target.onset_s is not None and target.duration_s is not None
    rate = float(target.cohort.info.rate_hz or 1.0)
    length = max(2, round(float(target.duration_s[items[0]]) * rate))
    starts = target.starts(items, length)
    signal = _network_input(target, row, (min(starts),), (max(starts) - min(starts) + length,))
    if target.has_connectivity:
        return connectivity_rows(np.stack([signal[:, s - min(starts) :][:, :length] for s in starts]))
    return np.stack([_band_powers(signal[:, s - min(starts) :][:, :length], rate) for s in starts])


def _band_powers(signal: NDArray[np.float32], rate_hz: float) -> NDArray[np.float32]:
    """Log mean power in bands that widen with frequency, and the standard deviation, of each channel (C, T)."""
    spectrum = np.abs(np.fft.rfft(signal - signal.mean(1, keepdims=True), axis=1)) ** 2 / signal.shape[1]
    band = np.digitize(np.fft.rfftfreq(signal.shape[1], 1 / rate_hz), np.geomspace(rate_hz / 500, rate_hz / 2, BANDS))
    members = np.equal.outer(band, np.arange(BANDS)).astype(np.float64)
    power = spectrum @ members / np.maximum(members.sum(0), 1)
    return np.concatenate([np.log(power + 1e-6).ravel(), signal.std(1)]).astype(np.float32)


def _histogram(image: NDArray[np.float32], limits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Shares of voxels in equal bins over the range of network input, mean and deviation, of each channel."""
    low, high = np.clip(limits.astype(np.float64), -1e6, 1e6)
    parts = []
    for channel in image:
        counts, _ = np.histogram(channel, bins=BINS, range=(low, max(high, low + 1e-6)))
        parts.append(np.r_[counts / channel.size, channel.mean(), channel.std()])
    return np.concatenate(parts).astype(np.float32)


def _network_input(target: Target, row: int, start: Sequence[int], size: Sequence[int]) -> NDArray[np.float32]:
    from medssl.training.windows import Recordings

    recordings = Recordings(target.cohort, channels=None, rows=np.array([row]), cache_gb=0)
    return recordings.network_input(row, recordings.read(row, start, size))
