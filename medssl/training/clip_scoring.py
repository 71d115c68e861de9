"""Scores of masks of video, in the frames that somebody annotated: a mean over videos, and pooled over pixels.

Protocol: EchoNet-Dynamic (Ouyang et al., Nature 580:252, 2020), which reports Dice pooled over the pixels of all test
videos, in all traced frames, in the large (ED) and in the small ones (ES). The mean over videos is given beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.clip_dice import FrameCounts, frame_counts, pooled
from medssl.evaluation.metrics import MetricRow, segmentation_metrics
from medssl.evaluation.results import POOLED
from medssl.training.clips import read_frames, segment_frames
from medssl.training.windows import Recordings

if TYPE_CHECKING:
    from medssl.training.inference import Testing
    from medssl.training.targets import Target

__all__ = ["SURFACES", "TracedMasks", "case_rows", "pooled_rows", "traced_masks"]

SURFACES = ("nsd", "hd95_mm", "masd_mm")
_PHASES = {"ED": "dice_ed", "ES": "dice_es"}

Row = dict[str, Any]


class TracedMasks:
    """What is known and what a model said of the annotated frames of one video.

    Attributes:
        frames: (N,) their numbers.
        phases: N words, see ``Trace``.
        prediction, reference: (N, Y, X) class indices.
    """

    def __init__(
        self, frames: Sequence[int], phases: Sequence[str], prediction: NDArray[np.uint8], reference: NDArray[np.uint8]
    ) -> None:
        self.frames, self.phases = np.asarray(frames, dtype=np.int64), tuple(phases)
        self.prediction, self.reference = prediction, reference


def traced_masks(head: Any, target: Target, item: int, recordings: Recordings, testing: Testing) -> TracedMasks:
    """Segment the annotated frames of one video as ``predict`` would; call inside ``applied``."""
    assert target.traces is not None
    row, traces = int(target.rows[item]), target.traces[item]
    count, *size = recordings.shape(row)

    def read(frames: NDArray[np.int64]) -> NDArray[np.float32]:
        return recordings.network_input(row, read_frames(recordings, row, frames, (0, 0), size))

    frames = [trace.frame for trace in traces]
    found = {f: p.argmax(0).astype(np.uint8) for f, p in segment_frames(head, read, count, testing, wanted=frames)}
    class_of = np.zeros(256, dtype=np.uint8)
    class_of[list(target.values)] = np.arange(len(target.values), dtype=np.uint8)
    key = f"mask:{target.name}"
    reference = [recordings.read(row, (f, 0, 0), (1, *size), key)[0, 0] for f in frames]
    return TracedMasks(
        frames, [trace.phase for trace in traces], np.stack([found[f] for f in frames]), class_of[np.stack(reference)]
    )


def case_rows(masks: TracedMasks, names: Mapping[int, str], spacing_mm: Sequence[float] | None) -> Iterator[MetricRow]:
    """Metrics of one video: means over its annotated frames, and Dice in the ED and the ES frame where it has such.

    Args:
        masks: of the video.
        names: class index → name, without the background.
        spacing_mm: (y, x) of a pixel; None where it is not known: there are then no distances.
    """
    groups: dict[tuple[str, str, str], list[MetricRow]] = {}
    for phase, prediction, reference in zip(masks.phases, masks.prediction, masks.reference, strict=True):
        for row in segmentation_metrics(prediction, reference, spacing_mm=spacing_mm or (1.0, 1.0), labels=names):
            if row.metric == "volume_error_ml" or (row.metric in SURFACES and spacing_mm is None):
                continue
            metric = "area_error" if row.metric == "volume_error" else row.metric
            kinds = [metric, _PHASES[phase]] if metric == "dice" and phase in _PHASES else [metric]
            for kind in kinds:
                groups.setdefault((kind, row.label, row.name), []).append(row)
    for (metric, label, name), rows in groups.items():
        values = [r.value for r in rows if r.value == r.value]
        yield MetricRow(
            metric, label, name, float(np.mean(values)) if values else float("nan"),
            any(r.empty_reference for r in rows), any(r.empty_prediction for r in rows),
        )  # fmt: skip


def pooled_rows(masks: Sequence[TracedMasks], names: Mapping[int, str]) -> list[Row]:
    """Dice pooled over the pixels of all videos: in all annotated frames, in the large (ED) and the small ones (ES).

    Args:
        masks: of all videos.
        names: class index → name, without the background.

    Returns:
        Rows of patient ``"*"``, of each class and their mean.
    """
    phases = np.array([phase for video in masks for phase in video.phases])
    chosen = {"dice_pooled": np.ones(len(phases), dtype=bool)}
    chosen |= {f"dice_pooled_{p.lower()}": phases == p for p in _PHASES if (phases == p).any()}
    counts = {k: _joined([frame_counts(v.prediction == k, v.reference == k) for v in masks]) for k in names}
    rows: list[Row] = []
    for metric, own in chosen.items():
        values = {k: pooled(FrameCounts(c.overlap[own], c.sizes[own])) for k, c in counts.items()}
        each = [(str(k), names[k], value) for k, value in values.items()]
        for label, name, value in [*each, ("", "", float(np.mean(list(values.values()))))]:
            rows.append({
                "patient": POOLED, "recording": "", "site": "", "metric": metric, "class": name, "label": label,
                "value": value, "empty_reference": False, "empty_prediction": False,
            })  # fmt: skip
    return rows


def _joined(parts: Sequence[FrameCounts]) -> FrameCounts:
    return FrameCounts(np.concatenate([p.overlap for p in parts]), np.concatenate([p.sizes for p in parts]))
