"""The measures of ``medssl.evaluation.representation`` for embeddings that arrive in batches, with memory D².

Each accumulator takes batches with ``update``, joins another one (of another process, or of another part of a cohort)
with ``merge``, and says its value in ``compute``. None keeps the rows it has seen, but for ``StreamingUniformity``,
which keeps a bounded random sample of them. The spectrum's is ``medssl.evaluation.spectrum.StreamingSpectrum``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medssl.evaluation.representation import lidar_of_scatters, uniformity
from medssl.evaluation.spectrum import finite_rows, unit_rows

__all__ = ["StreamingAlignment", "StreamingLidar", "StreamingUniformity"]


class StreamingAlignment:
    """Mean distance of all pairs of views of a case, ``E‖z − z⁺‖^α``; see ``representation.alignment``.

    Args:
        alpha: exponent.

    Attributes:
        pairs: so far.
        dropped: cases left out because a view holds NaN or infinity.
    """

    def __init__(self, *, alpha: float = 2.0) -> None:
        self.alpha = alpha
        self.pairs = 0
        self.dropped = 0
        self._total = 0.0

    def update(self, x: Tensor) -> None:
        """Add cases ``x`` (n, q, D), each with q views."""
        x, dropped = _finite_cases(x)
        self.dropped += dropped
        views = unit_rows(x).unbind(1)
        for i, view in enumerate(views):
            for other in views[:i]:
                self._total += float((view - other).norm(dim=1).pow(self.alpha).sum())
                self.pairs += len(view)

    def merge(self, other: StreamingAlignment) -> None:
        """Add what another accumulator has seen."""
        self.pairs += other.pairs
        self.dropped += other.dropped
        self._total += other._total

    def compute(self) -> float:
        """NaN without pairs."""
        return self._total / self.pairs if self.pairs else math.nan


class StreamingLidar:
    """LiDAR from the scatter between and within cases; see ``representation.lidar``.

    The views of a case must come in one batch. Batches may differ in their number of views; every case counts once
    between cases, every view once within.

    Args:
        dimension: D.
        delta, eps, standardise: as of ``lidar``.

    Attributes:
        n: cases so far.
        dropped: cases left out because a view holds NaN or infinity.
    """

    def __init__(
        self, dimension: int, *, delta: float = 1e-4, eps: float = 1e-8, standardise: bool = True
    ) -> None:  # fmt: skip
        self.delta, self.eps, self.standardise = delta, eps, standardise
        self.n = 0
        self.dropped = 0
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._between = torch.zeros(dimension, dimension, dtype=torch.float64)
        self._within = torch.zeros(dimension, dimension, dtype=torch.float64)
        self._freedom = 0  # Σ (q − 1)
        self._squares, self._entries = 0.0, 0

    def update(self, x: Tensor) -> None:
        """Add cases ``x`` (n, q, D), each with q views."""
        x, dropped = _finite_cases(x)
        self.dropped += dropped
        n, q, d = x.shape
        if not n:
            return
        batch = StreamingLidar(d)
        means = x.mean(1)
        batch.n, batch._mean = n, means.mean(0)
        between, within = means - batch._mean, (x - means[:, None]).reshape(-1, d)
        batch._between, batch._within, batch._freedom = between.T @ between, within.T @ within, n * (q - 1)
        batch._squares, batch._entries = float(x.square().sum()), x.numel()
        self.merge(batch)

    def merge(self, other: StreamingLidar) -> None:
        """Add what another accumulator has seen; their cases must be different ones."""
        self.dropped += other.dropped
        if not other.n:
            return
        total = self.n + other.n
        delta = other._mean - self._mean
        self._between = self._between + other._between + self.n * other.n / total * torch.outer(delta, delta)
        self._within = self._within + other._within
        self._mean = self._mean + other.n / total * delta
        self._freedom += other._freedom
        self._squares, self._entries = self._squares + other._squares, self._entries + other._entries
        self.n = total

    def compute(self) -> float:
        """NaN where LiDAR is undefined."""
        if self.n < 2 or not self._freedom:
            return math.nan
        square = self._squares / self._entries if self.standardise else 1.0
        square = max(square, torch.finfo(torch.float64).tiny)
        between, within = self._between / (self.n - 1) / square, self._within / self._freedom / square
        return lidar_of_scatters(between, within, delta=self.delta, eps=self.eps)


class StreamingUniformity:
    """Uniformity of a random sample of the rows, every one equally likely to be in it; see ``representation``.

    Every row gets a random number, and the rows with the smallest ones are kept, so that the sample depends on the
    order of the rows but not on how they are cut into batches.

    Args:
        capacity: rows kept. Uniformity depends on the number of near-duplicates, so compare at equal capacity.
        seed: of the sample; accumulators that will be merged need different ones.
        t: width of the Gaussian potential.

    Attributes:
        n: rows so far.
        dropped: rows left out because they hold NaN or infinity.
    """

    def __init__(self, capacity: int = 2048, *, seed: int = 0, t: float = 2.0) -> None:
        self.capacity, self.t = capacity, t
        self.n = 0
        self.dropped = 0
        self._random = np.random.default_rng(seed)
        self._keys = torch.zeros(0, dtype=torch.float64)
        self._rows: Tensor | None = None

    def update(self, z: Tensor) -> None:
        """Add rows ``z`` (n, D)."""
        z, dropped = finite_rows(z)
        self.dropped += dropped
        self.n += len(z)
        self._keep(torch.from_numpy(self._random.random(len(z))), z)

    def merge(self, other: StreamingUniformity) -> None:
        """Add what another accumulator has seen."""
        self.n += other.n
        self.dropped += other.dropped
        if other._rows is not None:
            self._keep(other._keys, other._rows)

    def compute(self) -> float:
        """NaN with fewer than two rows."""
        return math.nan if self._rows is None else uniformity(self._rows, t=self.t)

    def _keep(self, keys: Tensor, rows: Tensor) -> None:
        rows = rows if self._rows is None else torch.cat([self._rows, rows])
        keys = torch.cat([self._keys, keys])
        smallest = keys.argsort()[: self.capacity]
        self._keys, self._rows = keys[smallest], rows[smallest]


def _finite_cases(x: Tensor) -> tuple[Tensor, int]:
    """Float64 CPU copy of ``x`` (n, q, D) without cases that hold NaN or infinity, and how many were dropped."""
    x = x.detach().to("cpu", torch.float64)
    keep = torch.isfinite(x).all(dim=2).all(dim=1)
    return x[keep], int((~keep).sum())
