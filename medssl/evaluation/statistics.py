"""Tests with the patient as the unit, and what belongs to them; intervals are in ``medssl.evaluation.intervals``.

Repeats of one patient are averaged first: treating them as independent makes paired tests reject a true null in a third
of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "benjamini_hochberg",
    "cluster_means",
    "detectable_effect",
    "effect_size",
    "holm",
    "intraclass_correlation",
    "sign_flip",
    "wilcoxon",
]

Array = NDArray[np.float64]
EXACT_LIMIT = 20  # patients up to which all 2ⁿ sign vectors are enumerated


def cluster_means(values: NDArray[np.floating], patients: Sequence[object] | NDArray[np.generic]) -> Array:
    """Mean of ``values`` (n,) within each patient; patients in sorted order; (P,)."""
    _, codes = np.unique(np.asarray(patients), return_inverse=True)
    return np.bincount(codes, weights=np.asarray(values, dtype=np.float64)) / np.bincount(codes)


def sign_flip(differences: NDArray[np.floating], *, flips: int = 100_000, seed: int = 0) -> float:
    """Two-sided permutation test that paired differences have mean zero.

    Exact over all 2ⁿ sign vectors for n ≤ 20, else ``flips`` random ones and the identity.

    Args:
        differences: (P,), one mean difference a patient.
        flips: random sign vectors for large n.
        seed: of the random ones.

    Returns:
        p, at least 2^(1−n) or 1/(flips + 1); NaN without patients.
    """
    d = np.asarray(differences, dtype=np.float64)
    n = len(d)
    if not n or not np.isfinite(d).all():
        return math.nan
    observed = abs(float(d.sum()))
    slack = 1e-12 * n
    if n <= EXACT_LIMIT:
        sums = np.zeros(1)
        for value in d:  # doubling the list of sums visits every sign vector once
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= observed - slack).mean())
    rng = np.random.default_rng(seed)
    hits, done = 1, 0
    while done < flips:
        size = min(8192, flips - done)  # bounded memory for any number of patients
        signs = rng.integers(0, 2, (size, n), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ d) >= observed - slack).sum())
        done += size
    return hits / (1 + flips)


def wilcoxon(differences: NDArray[np.floating]) -> float:
    """Two-sided Wilcoxon signed-rank p (exact where scipy can); NaN when all differences are zero or none is given."""
    from scipy.stats import wilcoxon as signed_rank

    d = np.asarray(differences, dtype=np.float64)
    if not len(d) or not np.isfinite(d).all() or not np.any(d):
        return math.nan
    return float(signed_rank(d).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values in input order; NaN stays NaN and still counts in the family."""
    return _adjusted(p_values, lambda ranked, m: np.maximum.accumulate(np.minimum(1, (m - np.arange(m)) * ranked)))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg adjusted p values in input order, for exploration; NaN stays NaN and still counts."""

    def step_up(ranked: Array, m: int) -> Array:
        scaled = np.minimum(1, m * ranked / np.arange(1, m + 1))
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _adjusted(p_values, step_up)


def effect_size(differences: NDArray[np.floating]) -> float:
    """Mean of paired differences in units of their standard deviation (Cohen's d_z); NaN when it is undefined."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2 or not d.std(ddof=1):
        return math.nan
    return float(d.mean() / d.std(ddof=1))


def detectable_effect(n: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest paired effect (in SD of patient differences) that n patients show with this power (paired t test).

    >>> round(detectable_effect(50), 2)
    0.4
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if n < 2:
        return math.inf
    critical = t.ppf(1 - alpha / 2, n - 1)

    def missing_power(effect: float) -> float:  # the other tail is negligible wherever the power is near 0.8
        shift = effect * math.sqrt(n)
        return float(nct.sf(critical, n - 1, shift)) - power

    highest = 1.0
    while missing_power(highest) < 0 and highest < 1024:
        highest *= 2
    return float(brentq(missing_power, 0, highest, xtol=1e-6)) if highest < 1024 else math.inf


def intraclass_correlation(
    values: NDArray[np.floating], patients: Sequence[object] | NDArray[np.generic]
) -> tuple[float, float]:
    """One-way random-effects ICC of a per-case metric by patient, and the effective number of independent cases.

    Returns:
        ICC (clipped to 0…1; NaN with fewer than 2 patients or one case each) and ``N / (1 + (m̄ − 1)·ICC)``.
    """
    v = np.asarray(values, dtype=np.float64)
    _, codes, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    n, groups = len(v), len(counts)
    if groups < 2 or n == groups:
        return math.nan, float(n)
    means = np.bincount(codes, weights=v) / counts
    between = float((counts * (means - v.mean()) ** 2).sum()) / (groups - 1)
    within = float(((v - means[codes]) ** 2).sum()) / (n - groups)
    size = (n - float((counts**2).sum()) / n) / (groups - 1)
    total = between + (size - 1) * within
    icc = min(1.0, max(0.0, (between - within) / total)) if total > 0 else 0.0
    return icc, n / (1 + (n / groups - 1) * icc)


def _adjusted(p_values: Sequence[float], rule: Callable[[Array, int], Array]) -> list[float]:
    p = np.asarray(p_values, dtype=np.float64)
    filled = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(filled, kind="stable")
    out = np.empty_like(filled)
    out[order] = rule(filled[order], len(p))
    return np.where(np.isnan(p), math.nan, out).tolist() if len(p) else []
