"""Regression metrics in the target's own unit."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["regression_metrics"]


def regression_metrics(
    prediction: NDArray[np.floating], target: NDArray[np.floating], *, training_mean: float
) -> dict[str, float]:
    """Everything the study reports for one set of predicted values.

    Args:
        prediction: (n,).
        target: (n,).
        training_mean: mean of the target over the *training* patients; R² is measured against always answering it.

    Returns:
        ``mae, rmse, r2`` (negative when worse than the training mean), ``pearson`` (0 with ``pearson_undefined`` = 1
        when either side is constant), ``slope`` (of the error over the target: −1 means the prediction ignores
        it), ``bias`` (mean error) and the Bland-Altman limits ``loa_low, loa_high`` (bias ∓ 1.96 SD).

    Raises:
        ValueError: shapes differ, nothing to score, or a prediction is not finite.
    """
    p, t = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if p.shape != t.shape or p.ndim != 1 or not len(p):
        raise ValueError(f"predictions {p.shape} and targets {t.shape} must be two equal, non-empty lists of numbers")
    if not np.isfinite(p).all():
        raise ValueError("predictions hold NaN or infinity; the model that made them has diverged")
    error = p - t
    variation = float(((t - training_mean) ** 2).sum())
    spread_p, spread_t = float(p.std()), float(t.std())
    defined = len(p) > 1 and spread_p > 1e-12 * (1 + abs(float(p.mean()))) and spread_t > 0
    bias = float(error.mean())
    half = 1.96 * float(error.std(ddof=1)) if len(p) > 1 else math.nan
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": 1 - float((error**2).sum()) / variation if variation > 0 else math.nan,
        "pearson": float(np.corrcoef(p, t)[0, 1]) if defined else 0.0,
        "pearson_undefined": float(not defined),
        "slope": float(((t - t.mean()) * error).mean() / spread_t**2) if spread_t > 0 else math.nan,
        "bias": bias,
        "loa_low": bias - half,
        "loa_high": bias + half,
    }
