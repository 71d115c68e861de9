"""Overlap and boundary distances of label maps, per class, with empty masks scored so that silence never wins.

Definitions (Metrics Reloaded, Nature Methods 2024): the boundary of a mask is the mask minus its erosion by the
face-neighbour cross, with everything outside the image as background. HD95 is the larger of the two directed 95th
percentiles (linear interpolation) of boundary-to-boundary distances in mm; NSD counts boundary voxels within the
tolerance; MASD is the mean of the two directed means. They agree with MONAI's defaults on non-empty masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MetricRow", "mean_over_classes", "segmentation_metrics", "tolerance_mm"]


class MetricRow(NamedTuple):
    """One value of one case.

    Attributes:
        metric: name, as in ``medssl.evaluation.metrics.METRICS``.
        label: label value as text (``"1"``), or ``""`` for the mean over classes.
        name: the label's name, or ``""``.
        value: in the metric's unit; NaN only for a relative volume error against an empty reference.
        empty_reference: the class does not occur in the reference.
        empty_prediction: the class does not occur in the prediction.
    """

    metric: str
    label: str
    name: str
    value: float
    empty_reference: bool = False
    empty_prediction: bool = False

    @property
    def key(self) -> str:
        """``"dice/1"``, or ``"dice"`` for the mean over classes."""
        return f"{self.metric}/{self.label}" if self.label else self.metric


def segmentation_metrics(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    *,
    spacing_mm: Sequence[float],
    labels: Mapping[int, str],
    nsd_tolerance_mm: float | None = None,
) -> list[MetricRow]:
    """Dice, NSD, HD95, MASD and volume errors of one case, per class and averaged over classes.

    Args:
        prediction: (Z, Y, X) label map on the reference's own grid (any number of axes works).
        reference: (Z, Y, X) label map.
        spacing_mm: voxel size in the order of the array's axes.
        labels: label value → name, background left out.
        nsd_tolerance_mm: tolerance of the NSD; default ``tolerance_mm(spacing_mm)``.

    Returns:
        Rows ``dice``, ``nsd``, ``hd95_mm``, ``masd_mm``, ``volume_error``, ``volume_error_ml`` for every class, then
        their means over classes. An empty mask against a filled one scores Dice 0, NSD 0 and the image diagonal as
        distance; two empty masks score 1, 1 and 0.

    Raises:
        ValueError: shapes differ, or the arrays hold fractions (probabilities must be turned into labels first).
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} are not on one grid")
    for array in (prediction, reference):
        if not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
            raise ValueError(
                f"label maps must hold integers, not {array.dtype}; take the argmax of probabilities first"
            )
    if len(spacing_mm) != reference.ndim:
        raise ValueError(f"{len(spacing_mm)} voxel sizes for an array of {reference.ndim} axes")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    tolerance = tolerance_mm(spacing_mm) if nsd_tolerance_mm is None else nsd_tolerance_mm
    diagonal = float(np.linalg.norm(np.asarray(reference.shape) * spacing))
    rows: list[MetricRow] = []
    for value, name in labels.items():
        scores, empty_reference, empty_prediction = _one_class(
            prediction == value, reference == value, spacing, tolerance, diagonal
        )
        rows += [MetricRow(m, str(value), name, v, empty_reference, empty_prediction) for m, v in scores.items()]
    return rows + mean_over_classes(rows)


def tolerance_mm(spacing_mm: Sequence[float]) -> float:
    """Default NSD tolerance: one voxel of the coarser in-plane axis (the two finest axes are in-plane), at least 1 mm.

    >>> tolerance_mm((5.0, 1.5, 1.2))
    1.5
    """
    finest = sorted(spacing_mm)
    return max(1.0, float(finest[min(1, len(finest) - 1)]))


def mean_over_classes(rows: Iterable[MetricRow]) -> list[MetricRow]:
    """One row a metric with the mean over its classes (NaN volume errors left out)."""
    groups: dict[str, list[MetricRow]] = {}
    for row in rows:
        groups.setdefault(row.metric, []).append(row)
    return [
        MetricRow(metric, "", "", _mean([r.value for r in group]),
                  any(r.empty_reference for r in group), any(r.empty_prediction for r in group))
        for metric, group in groups.items()
    ]  # fmt: skip


def _mean(values: list[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _one_class(
    p: NDArray[np.bool_], r: NDArray[np.bool_], spacing: NDArray[np.float64], tolerance: float, diagonal: float
) -> tuple[dict[str, float], bool, bool]:
    n_p, n_r = int(p.sum()), int(r.sum())
    ml = float(np.prod(spacing)) / 1000
    volumes = {
        "volume_error": (n_p - n_r) / n_r if n_r else (0.0 if not n_p else math.nan),
        "volume_error_ml": (n_p - n_r) * ml,
    }
    if not n_p or not n_r:
        same = float(n_p == n_r)
        worst = 0.0 if same else diagonal
        return {"dice": same, "nsd": same, "hd95_mm": worst, "masd_mm": worst, **volumes}, not n_r, not n_p
    p, r = _crop(p, r)
    dice = 2 * int((p & r).sum()) / (n_p + n_r)
    forth, back = _surface_distances(p, r, spacing)
    # the relative slack keeps a distance of exactly one voxel inside a tolerance of one voxel despite rounding
    within = int((forth <= tolerance * (1 + 1e-6)).sum() + (back <= tolerance * (1 + 1e-6)).sum())
    scores = {
        "dice": dice,
        "nsd": within / (len(forth) + len(back)),
        "hd95_mm": max(float(np.percentile(forth, 95)), float(np.percentile(back, 95))),
        "masd_mm": (float(forth.mean()) + float(back.mean())) / 2,
    }
    return scores | volumes, False, False


def _crop(p: NDArray[np.bool_], r: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks cut to the bounding box of their union, so that the work scales with the organ, not the scan."""
    union = p | r
    box = []
    for axis in range(union.ndim):
        others = tuple(i for i in range(union.ndim) if i != axis)
        used = np.flatnonzero(union.any(axis=others))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return p[tuple(box)], r[tuple(box)]


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    inner = mask.copy()
    core = (slice(1, -1),) * mask.ndim
    for axis in range(mask.ndim):
        for shift in (slice(None, -2), slice(2, None)):
            inner &= padded[(*core[:axis], shift, *core[axis + 1 :])]
    return mask & ~inner


def _surface_distances(
    p: NDArray[np.bool_], r: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from every boundary voxel of ``p`` to the boundary of ``r``, and back."""
    from scipy.spatial import cKDTree

    a, b = (np.argwhere(_boundary(m)) * spacing for m in (p, r))
    return np.asarray(cKDTree(b).query(a)[0]), np.asarray(cKDTree(a).query(b)[0])
