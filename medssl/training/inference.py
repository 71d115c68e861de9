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
from medssl.heads.sequence import SequenceHead
from medssl.training.levels import Decisions
from medssl.training.sequences import Embedded, in_sequences, unbroken
from medssl.training.targets import Target, Unit
from medssl.training.windows import ClipRule, LazyWindows, Recordings

__all__ = [
    "Testing",
    "answers_of",
    "applied",
    "embed_items",
    "predict_items",
    "predict_windows",
    "segment",
    "windows_of",
]


@dataclass(frozen=True)
class Testing:
    """How a model is applied; stored with it.

    Attributes:
        size: window (z, y, x) or (samples,).
        overlap: of neighbouring windows in segmentation.
        windows: most windows of a recording that are averaged.
        batch: windows predicted at once.
        precision: ``"32-true"`` or ``"bf16-mixed"``.
        level: what one answer is about; None where the target alone says it (models of earlier releases).
        sequence: longest sequence of epochs that are seen together; 0 where each is answered by itself.
        spacing_s: time from one epoch to the next.
        decided: samples of the windows that are decided on level ``window``; ``size`` is what the encoder takes.
        period: frames of a video from one frame of a clip to the next.
        every: the clips of a video at all starts are averaged, see ``ClipRule``.
    """

    size: tuple[int, ...]
    overlap: float
    windows: int
    batch: int
    precision: str
    level: Unit | None = None
    sequence: int = 0
    spacing_s: float = 0.0
    decided: int = 0
    period: int = 1
    every: bool = False

    @property
    def rule(self) -> ClipRule:
        """Which clips of a video are seen."""
        return ClipRule(self.period, self.every)


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
    """What the head keeps of every window (C, *size) of network input, (n, ...); call inside ``applied``.

    Logits (n, K) or values (n,); features (n, D) of heads that decide on several windows together.
    """
    parts = []
    for start in range(0, len(windows), batch):
        x = torch.from_numpy(np.stack(windows[start : start + batch])).to(head.device)
        parts.append(head.per_window(x).float().cpu())
    return torch.cat(parts)


def predict_items(
    head: Head,
    decisions: Decisions,
    items: NDArray[np.int64],
    recordings: Recordings,
    testing: Testing,
    known: Embedded | None = None,
) -> NDArray[np.float64]:
    """Probabilities (n, K), or values (n,) for regression, of labelled items.

    A recording is seen through evenly spread windows whose logits (or values) are averaged, or weighed by the head; an
    event through the one window around it, alone or in sequence; a patient's answer is the mean of the logits (or
    values) of the recordings.

    Args:
        head: the model.
        decisions: what is decided.
        items: indices into ``decisions.target``.
        recordings: how they are read.
        testing: how the model is applied.
        known: features of the items' windows, so that they need not be computed again (sequences).
    """
    parts = decisions.parts_of(items)
    with applied(head, testing.precision):
        logits = _logits(head, decisions.parts, parts, recordings, testing, known)
        probabilities = head.probabilities(decisions.joined(logits, items)).double().numpy()
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim == 2 and not decisions.target.multilabel:
        values /= values.sum(1, keepdims=True)  # float32 rows sum to 1 only roughly
    return values


def embed_items(
    head: Head, target: Target, items: NDArray[np.int64], recordings: Recordings, testing: Testing
) -> Embedded:
    """What the head keeps of the one window of every event."""
    parts, order = [], []
    with applied(head, testing.precision):
        for row, of_row in _by_row(target, items):
            windows, _ = _windows(target, row, of_row, recordings, testing)
            parts.append(predict_windows(head, windows, testing.batch).numpy())
            order.append(of_row)
    return Embedded(np.concatenate(order), np.concatenate(parts))


def _logits(
    head: Head,
    target: Target,
    items: NDArray[np.int64],
    recordings: Recordings,
    testing: Testing,
    known: Embedded | None,
) -> Tensor:
    """Logits (n, K), or values (n,), of ``items`` in ascending order."""
    out, order = [], []
    for row, of_row in _by_row(target, items):
        if known is None:
            windows, counts = _windows(target, row, of_row, recordings, testing)
            found = predict_windows(head, windows, testing.batch)
        else:
            found, counts = torch.from_numpy(known.of(of_row)), [1] * len(of_row)
        out.append(answers_of(head, found, counts, _onsets(target, of_row), testing))
        order.append(of_row)
    back = np.argsort(np.concatenate(order), kind="stable")
    return torch.cat(out)[torch.from_numpy(back)]


def answers_of(
    head: Head, windows: Tensor, counts: Sequence[int], onsets_s: NDArray[np.float64] | None, testing: Testing
) -> Tensor:
    """Logits (n, K), or values (n,), of the items of one recording; call inside ``applied``.

    Args:
        head: the model.
        windows: what ``predict_windows`` gave of all their windows, one item after another.
        counts: windows of every item.
        onsets_s: when each begins; needed by models of sequences only, which take one window an item.
        testing: how the model is applied.
    """
    if not isinstance(head, SequenceHead):
        return head.per_item(windows, counts)
    assert onsets_s is not None  # sequences are of events
    order = np.argsort(onsets_s, kind="stable")
    runs = [order[part] for part in unbroken(onsets_s[order], testing.spacing_s)]
    return in_sequences(head, windows, runs, most=testing.sequence, batch=testing.batch)


def _onsets(target: Target, items: NDArray[np.int64]) -> NDArray[np.float64] | None:
    return None if target.onset_s is None else target.onset_s[items]


def _by_row(target: Target, items: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    rows = target.rows[items]
    for row in np.unique(rows):
        yield int(row), items[rows == row]


def windows_of(
    target: Target, items: NDArray[np.int64], recordings: Recordings, testing: Testing
) -> Iterator[tuple[Sequence[NDArray[np.float32]], NDArray[np.int64]]]:
    """Windows (C, *size) of network input, at most ``testing.batch`` at once, and the item each belongs to."""
    for row, of_row in _by_row(target, items):
        windows, counts = _windows(target, row, of_row, recordings, testing)
        owners = np.repeat(of_row, counts)
        for at in range(0, len(windows), testing.batch):
            yield windows[at : at + testing.batch], owners[at : at + testing.batch]


def _windows(
    target: Target, row: int, items: NDArray[np.int64], recordings: Recordings, testing: Testing
) -> tuple[Sequence[NDArray[np.float32]], list[int]]:
    """Windows of the items of one recording, and how many belong to each item."""
    if target.onset_s is None:
        starts = testing.rule.starts(recordings.shape(row), testing.size, testing.windows)
        counts = [len(starts)] * len(items)

        def read(start: tuple[int, ...]) -> NDArray[np.float32]:
            return recordings.network_input(row, testing.rule.read(recordings, row, start, testing.size))

        return LazyWindows(read, starts * len(items)), counts
    size = testing.size[0]
    at = target.starts(items, size)
    whole = recordings.network_input(row, recordings.read(row, (min(at),), (max(at) - min(at) + size,)))
    return [whole[:, a - min(at) : a - min(at) + size] for a in at], [1] * len(items)
