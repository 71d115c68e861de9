"""What a model says about whole recordings, items and events; used for validation, for testing and by ``predict``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.heads.base import Head
from medssl.training.targets import Target
from medssl.training.windows import Recordings, event_start, fixed_starts

__all__ = ["Testing", "applied", "predict_items", "predict_windows", "segment"]


@dataclass(frozen=True)
class Testing:
    """How a model is applied; stored with it.

    Attributes:
        size: window (z, y, x) or (samples,).
        overlap: of neighbouring windows in segmentation.
        windows: most windows of a recording that are averaged.
        batch: windows predicted at once.
        precision: ``"32-true"`` or ``"bf16-mixed"``.
    """

    size: tuple[int, ...]
    overlap: float
    windows: int
    batch: int
    precision: str


@contextmanager
def applied(head: Head, precision: str) -> Iterator[None]:
    """Evaluation mode, no gradients, and the precision of training; puts the mode back."""
    was_training = head.training
    head.eval()
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    try:
        with torch.inference_mode(), torch.autocast(head.device.type, dtype=half, enabled=half is not None):
            yield
    finally:
        head.train(was_training)


def segment(head: Any, image: NDArray[np.float32], testing: Testing) -> Tensor:
    """Class probabilities (K, Z, Y, X) of network input (C, Z, Y, X); call inside ``applied``."""
    x = torch.from_numpy(image).to(head.device)
    # windows hold whole volumes here: as many at once as a batch of small ones would
    probabilities: Tensor = head.predict_volume(
        x, size=testing.size, overlap=testing.overlap, batch=max(1, testing.batch // 4)
    )
    return probabilities


def predict_windows(head: Head, windows: Sequence[NDArray[np.float32]], batch: int) -> Tensor:
    """Logits (n, K), or values (n,) for regression, of network input windows (C, *size); call inside ``applied``."""
    parts = []
    for start in range(0, len(windows), batch):
        x = torch.from_numpy(np.stack(windows[start : start + batch])).to(head.device)
        parts.append(head(x).float().cpu())
    return torch.cat(parts)


def predict_items(
    head: Head, target: Target, items: NDArray[np.int64], recordings: Recordings, testing: Testing
) -> NDArray[np.float64]:
    """Probabilities (n, K), or values (n,) for regression, of labelled items.

    A recording is seen through evenly spread windows whose logits (or values) are averaged; an event through the one
    window around it.
    """
    out: list[Tensor] = []
    with applied(head, testing.precision):
        for row, of_row in _by_row(target, items):
            windows, counts = _windows(target, row, of_row, recordings, testing)
            answers = predict_windows(head, windows, testing.batch)
            out.append(torch.stack([part.mean(0) for part in torch.split(answers, counts)]))
        answers = torch.cat(out)
        order = np.concatenate([of_row for _, of_row in _by_row(target, items)])
        probabilities = head.probabilities(answers).double().numpy()
    back = np.empty(len(items), dtype=np.int64)
    back[np.argsort(items, kind="stable")] = np.argsort(order, kind="stable")
    values = np.asarray(probabilities[back], dtype=np.float64)
    if values.ndim == 2 and not target.multilabel:
        values /= values.sum(1, keepdims=True)  # float32 rows sum to 1 only roughly
    return values


def _by_row(target: Target, items: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    rows = target.rows[items]
    for row in np.unique(rows):
        yield int(row), items[rows == row]


def _windows(
    target: Target, row: int, items: NDArray[np.int64], recordings: Recordings, testing: Testing
) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Windows of the items of one recording, and how many belong to each item."""
    if target.onset_s is None:
        starts = fixed_starts(recordings.shape(row), testing.size, testing.windows)
        counts = [len(starts)] * len(items)
        windows = [recordings.network_input(row, recordings.read(row, s, testing.size)) for s in starts]
        return windows * len(items), counts
    rate = target.cohort.info.rate_hz
    assert rate is not None  # events belong to signals
    size = testing.size[0]
    at = [event_start(float(target.onset_s[item]), rate, size) for item in items]
    whole = recordings.network_input(row, recordings.read(row, (min(at),), (max(at) - min(at) + size,)))
    return [whole[:, a - min(at) : a - min(at) + size] for a in at], [1] * len(items)
