"""How many labels pre-training is worth: the patients that the baseline would need for the same result, and the area
under the curve over all budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.estimands import Estimand, Mean
from medssl.evaluation.intervals import FEWEST, bootstrap_weights

__all__ = ["GapClosed", "LabelsNeeded", "curve_area", "gap_closed", "labels_needed"]

Array = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class LabelsNeeded:
    """Labelled patients with which the baseline would equal an encoder.

    Attributes:
        needed: estimate; infinite where the baseline does not reach the result with the largest budget.
        low, high: 95 % interval over patients (percentiles of resamples); ``high`` is infinite where it lies beyond the
            largest budget; NaN with fewer than 5 test patients.
        smallest, largest: budgets of the baseline; nothing is known beyond them.
    """

    needed: float
    low: float
    high: float
    smallest: float
    largest: float


def labels_needed(
    arm: Estimand, baseline: Mapping[float, Estimand], *, higher_is_better: bool, seed: int = 0
) -> LabelsNeeded | None:
    """Where the baseline's curve reaches the arm's result, linear in the logarithm of the budget.

    More labels cannot harm on average, so the curve is made monotone first (isotonic regression).

    Args:
        arm: the encoder at one budget.
        baseline: budget in patients → the baseline there, two budgets or more.
        higher_is_better: of the metric.
        seed: of the resamples of patients, which arm and baseline share.

    Returns:
        None with fewer than two budgets.
    """
    sizes = sorted(baseline)
    if len(sizes) < 2:
        return None
    weights = _weights(arm.n_patients, seed)
    sign = 1.0 if higher_is_better else -1.0
    curves = sign * np.stack([baseline[size](weights) for size in sizes], axis=1)
    values = sign * arm(weights)
    found = np.array([_reached(v, c, sizes) for v, c in zip(values, curves, strict=True)])
    spread = found[1:][~np.isnan(found[1:])]
    low, high = _order_percentiles(spread) if len(spread) else (math.nan, math.nan)
    return LabelsNeeded(float(found[0]), low, high, sizes[0], sizes[-1])


def _weights(n: int, seed: int) -> NDArray[np.int32]:
    """(1 + B, n): every patient once, then the resamples; these are left out where there are too few patients."""
    resamples = bootstrap_weights(n, RESAMPLES, seed) if n >= FEWEST else np.empty((0, n), dtype=np.int32)
    return np.concatenate([np.ones((1, n), dtype=np.int32), resamples])


def _reached(value: float, curve: Array, sizes: Sequence[float]) -> float:
    """The budget at which a curve reaches a value: the smallest where it starts above, infinite where it ends below."""
    from scipy.optimize import isotonic_regression

    if np.isnan(value) or np.isnan(curve).any():
        return math.nan
    rising = isotonic_regression(curve).x
    if value > rising[-1]:
        return math.inf
    i = int(np.searchsorted(rising, value))
    if i == 0:
        return float(sizes[0])
    share = (value - rising[i - 1]) / (rising[i] - rising[i - 1])
    return float(sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** share)


def _order_percentiles(values: Array) -> tuple[float, float]:
    """2.5 and 97.5 % without interpolation, since values may be infinite."""
    low, high = np.quantile(values, [0.025, 0.975], method="closest_observation")
    return float(low), float(high)


@dataclass(frozen=True)
class GapClosed:
    """Share of what more labels would bring that pre-training brings instead; 1 is as good as all labels.

    Attributes:
        share: estimate; NaN where the baseline gains nothing from more labels.
        low, high: 95 % interval over patients (percentiles of resamples); NaN where the gap is not above 0 in 95 % of
            them, since a share of nothing means nothing.
    """

    share: float
    low: float
    high: float


def gap_closed(
    arm: Estimand, few: Estimand, most: Estimand, *, higher_is_better: bool, seed: int = 0
) -> GapClosed:  # fmt: skip
    """(arm - baseline with few labels) / (baseline with the most - baseline with few), on the same patients."""
    weights = _weights(arm.n_patients, seed)
    start = few(weights)
    sign = 1.0 if higher_is_better else -1.0
    gain, gap = sign * (arm(weights) - start), sign * (most(weights) - start)
    if not gap[0] > 0:
        return GapClosed(math.nan, math.nan, math.nan)
    open_ = gap > 0
    if len(weights) == 1 or open_[1:].mean() < 0.95:
        return GapClosed(float(gain[0] / gap[0]), math.nan, math.nan)
    low, high = np.percentile((gain[1:] / np.where(open_[1:], gap[1:], 1))[open_[1:]], [2.5, 97.5])
    return GapClosed(float(gain[0] / gap[0]), float(low), float(high))


def curve_area(curve: Mapping[float, Estimand]) -> Estimand:
    """Mean of a metric along the curve over two or more budgets (in patients), by trapezoids in their logarithm."""
    sizes = sorted(curve)
    widths = np.diff(np.log(sizes))
    shares = (np.append(widths, 0.0) + np.append(0.0, widths)) / (2 * widths.sum())
    parts = [curve[size] for size in sizes]
    if all(isinstance(part, Mean) for part in parts):
        return Mean(np.tensordot(shares, np.stack([part.values for part in parts if isinstance(part, Mean)]), 1))
    return _Mixture(shares, parts)


class _Mixture(Estimand):
    """A weighted sum of estimands of the same patients and repeats."""

    def __init__(self, shares: Array, parts: Sequence[Estimand]) -> None:
        self.shares, self.parts = shares, parts
        self.n_patients = parts[0].n_patients

    def per_repeat(self, weights: NDArray[np.integer]) -> Array:
        return np.tensordot(self.shares, np.stack([part.per_repeat(weights) for part in self.parts]), 1)
