"""The simple baseline of fMRI: linear models on functional connectivity, fitted on training patients only.

Foundation models of fMRI struggle to beat it on traits of a subject, so every report carries it. Features are the edges
(Fisher z of the Pearson correlation) and the tangent vector of the shrunk covariance (Varoquaux et al., MICCAI 2010;
Dadi et al., NeuroImage 2019). What a region that is missing would have had is the mean of the training items; that
mean, the reference of the tangent space, centring and scale are all learnt from training items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.probes import thinned

__all__ = ["ConnectivityFloor", "connectivity_rows", "plain_edges"]

Rows = NDArray[np.float32]
MOST_IN_REFERENCE = 200
"""Items whose geometric mean is the reference: it hardly moves with more, and each costs a decomposition a step."""
AT_ONCE = 64
LEAST_SHRINKAGE = 1e-3
"""Keeps covariances positive definite although their correlations are stored in single precision."""


def connectivity_rows(series: NDArray[np.floating]) -> Rows:
    """What is kept of each run or window before anything is fitted.

    Args:
        series: (n, N, T), a volume of zeros is padding; see ``medssl.views.connectivity`` for regions without signal.

    Returns:
        (n, N (N - 1) / 2 + 1): correlations, NaN at regions without signal, and the shrinkage of Ledoit and Wolf of the
        standardised series.
    """
    import torch

    from medssl.views import connectivity as fc

    x = torch.from_numpy(np.ascontiguousarray(series, dtype=np.float64))
    weights, valid = fc.volume_weights(x), fc.valid_regions(x)
    scale = fc.covariance(x, weights).diagonal(dim1=-2, dim2=-1).sqrt()
    standard = torch.where(valid.unsqueeze(-1), x / torch.where(valid, scale, 1.0).unsqueeze(-1), 0.0)
    pairs = fc.lower_triangle(valid.unsqueeze(-1) & valid.unsqueeze(-2))
    edges = torch.where(pairs, fc.lower_triangle(fc.correlation(x, weights)), torch.nan)
    return torch.cat([edges, fc.ledoit_wolf(standard, weights)[1].unsqueeze(-1)], -1).float().numpy()


def plain_edges(rows: Rows) -> Rows:
    """Fisher z of rows of ``connectivity_rows``, 0 where a region is missing: what needs no fitting. (n, D)."""
    return np.arctanh(np.clip(np.nan_to_num(rows[:, :-1]), -0.9999, 0.9999))


@dataclass(frozen=True)
class ConnectivityFloor:
    """What is learnt from training items.

    Attributes:
        mean: (E,) mean Fisher z of each edge over the items that have it; 0 where none has.
        reference: (N, N) point at which the tangent space touches; a missing region counts as uncorrelated.
        tangent_mean: (N (N + 1) / 2,) mean of each entry of the tangent vectors over the items that have it.
        scales: root mean square distances of training items from both means: both kinds count alike.
    """

    mean: NDArray[np.float64]
    reference: NDArray[np.float64]
    tangent_mean: NDArray[np.float64]
    scales: tuple[float, float]

    @classmethod
    def fit(cls, rows: Rows, patients: NDArray[Any], *, seed: int = 0) -> ConnectivityFloor:
        """From training rows (n, D) of ``connectivity_rows`` and their owners (n,)."""
        import torch

        from medssl.views.connectivity import tangent_reference

        chosen = thinned(patients, seed, MOST_IN_REFERENCE)
        reference = tangent_reference(torch.from_numpy(_covariances(rows[chosen]))).numpy()
        z, vectors = _edges(rows), np.concatenate(list(_tangents(rows, reference)))
        mean, tangent_mean = _mean(z), _mean(vectors)
        scales = (_spread(z, mean), _spread(vectors, tangent_mean))
        return cls(mean, reference, tangent_mean, scales)

    def __call__(self, rows: Rows) -> Rows:
        """Features of rows (n, D): edges and tangent vectors, centred, (n, E + N (N + 1) / 2)."""
        z = (_edges(rows) - self.mean) / self.scales[0]
        vectors = (np.concatenate(list(_tangents(rows, self.reference))) - self.tangent_mean) / self.scales[1]
        features: Rows = np.nan_to_num(np.concatenate([z, vectors], axis=1)).astype(np.float32)  # missing: the mean
        return features


def _edges(rows: Rows) -> NDArray[np.float64]:
    return np.arctanh(np.clip(rows[:, :-1].astype(np.float64), -0.9999, 0.9999))


def _covariances(rows: Rows) -> NDArray[np.float64]:
    """Shrunk covariances of standardised series, (n, N, N): correlations times (1 - δ) beside a diagonal of ones."""
    n = _regions(rows)
    out = np.zeros((len(rows), n, n))
    out[:, *np.tril_indices(n, -1)] = np.nan_to_num(rows[:, :-1]) * (1 - rows[:, -1:].clip(LEAST_SHRINKAGE))
    return out + out.transpose(0, 2, 1) + np.eye(n)


def _tangents(rows: Rows, reference: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Tangent vectors (b, N (N + 1) / 2), some rows at a time; NaN at regions that are missing."""
    import torch

    from medssl.views.connectivity import lower_triangle, tangent

    n = _regions(rows)
    point = torch.from_numpy(reference)
    yield np.zeros((0, n * (n + 1) // 2))  # of no rows
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        known = np.zeros((len(some), n, n), dtype=bool)
        known[:, *np.tril_indices(n, -1)] = ~np.isnan(some[:, :-1])
        there = torch.from_numpy(known | known.transpose(0, 2, 1)).any(-1)
        pairs = there.unsqueeze(-1) & there.unsqueeze(-2)
        found = tangent(torch.from_numpy(_covariances(some)), point)
        yield lower_triangle(torch.where(pairs, found, torch.nan), diagonal=True).numpy()


def _regions(rows: Rows) -> int:
    """N, of N (N - 1) / 2 + 1 columns."""
    return round((1 + math.sqrt(1 + 8 * (rows.shape[1] - 1))) / 2)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the rows that are known; 0 where none is."""
    known = ~np.isnan(values)
    mean: NDArray[np.float64] = np.nan_to_num(values).sum(0) / np.maximum(known.sum(0), 1)
    return mean


def _spread(values: NDArray[np.float64], mean: NDArray[np.float64]) -> float:
    """Root mean square distance from the mean; 1 where there is none."""
    return float(np.sqrt(np.square(np.nan_to_num(values - mean)).sum(1).mean())) or 1.0
