"""The spectrum of an embedding set, its summaries, and its accumulation over batches with memory D².

A spectrum is the singular values σ of Z (N, D), or the eigenvalues λ of its covariance. Everything is computed in
float64 on the CPU, whatever the embeddings came in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "PowerLaw",
    "StreamingSpectrum",
    "count_dead",
    "effective_rank",
    "finite_rows",
    "participation_ratio",
    "power_law",
    "top_share",
    "unit_rows",
]

EPS = 1e-7  # RankMe's
NOISE = 1e-12  # eigenvalues below this share of the largest are rounding of float32 features
NOTHING = 1e-24  # variance below this share of the mean square is rounding: all rows are the same


def finite_rows(z: Tensor) -> tuple[Tensor, int]:
    """Float64 CPU copy of ``z`` (N, D) without rows that hold NaN or infinity, and how many were dropped."""
    z = z.detach().to("cpu", torch.float64)
    keep = torch.isfinite(z).all(dim=1)
    return z[keep], int((~keep).sum())


def unit_rows(z: Tensor) -> Tensor:
    """Rows of ``z`` (..., D) at length 1; a zero row stays zero."""
    unit: Tensor = torch.nn.functional.normalize(z, dim=-1)
    return unit


def effective_rank(singular: Tensor, eps: float = EPS) -> float:
    """``exp(−Σ p log p)`` with ``p = σ/Σσ + eps`` (RankMe, equation 1); 1 where every σ is 0."""
    total = singular.sum()
    if total <= 0:
        return 1.0
    share = singular / total + eps
    return float(torch.exp(-(share * share.log()).sum()))


def participation_ratio(eigen: Tensor) -> float:
    """``(Σλ)²/Σλ²`` of covariance eigenvalues: 1 for one direction, D for equal ones; 1 where every λ is 0."""
    return float(eigen.sum() ** 2 / eigen.pow(2).sum()) if bool((eigen > 0).any()) else 1.0


def top_share(eigen: Tensor) -> float:
    """Share of the variance in the first direction; 1 where there is no variance."""
    return float(eigen.max() / eigen.sum()) if bool((eigen > 0).any()) else 1.0


def count_dead(std: Tensor) -> int:
    """Dimensions whose standard deviation (D,) is at most 1e-4 of the median one."""
    return int((std <= 1e-4 * std.median()).sum()) if len(std) else 0


class PowerLaw(NamedTuple):
    """λ_k ∝ k^{−α} fitted to a spectrum.

    Attributes:
        alpha: about 1 is claimed best, ≫ 1 collapsed, < 1 noisy; NaN where fewer than two ranks could be used.
        r2: share of the variance of log λ that the line explains.
        low, high: first and last rank of the fit, 1-based; the paper fixes no range, so they belong to the value.
    """

    alpha: float
    r2: float
    low: int
    high: int


def power_law(eigen: Tensor, *, low: int = 4, high: int) -> PowerLaw:
    """Least squares of log λ over log k, weighted with 1/k.

    Args:
        eigen: covariance eigenvalues, largest first.
        low, high: ranks, 1-based and inclusive; ``high`` is lowered to the last eigenvalue above rounding.
    """
    above = int((eigen > NOISE * eigen[:1].sum()).sum())
    high = min(high, above)
    if high - low < 1:
        return PowerLaw(math.nan, math.nan, low, high)
    rank = torch.arange(low, high + 1, dtype=torch.float64)
    x, y, w = rank.log(), eigen[low - 1 : high].log(), 1 / rank
    x, y = x - (w * x).sum() / w.sum(), y - (w * y).sum() / w.sum()
    slope = (w * x * y).sum() / (w * x * x).sum()
    residual, total = (w * (y - slope * x) ** 2).sum(), (w * y * y).sum()
    return PowerLaw(float(-slope), float(1 - residual / total) if total > 0 else 1.0, low, high)


class StreamingSpectrum:
    """The spectrum of embeddings that arrive in batches: count, mean and scatter, never the rows themselves.

    Mean and scatter are updated together (Chan, Golub & LeVeque, 1983), so a mean that is large beside the spread costs
    no digits, as it would with sums of squares. A singular value is the root of an eigenvalue and so exact down to
    about 1e-7 of the largest one; RankMe agrees with the one of the whole matrix to about 1e-4.

    Args:
        dimension: D.

    Attributes:
        n: rows so far.
        dropped: rows left out because they hold NaN or infinity.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.n = 0
        self.dropped = 0
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64)
        self._unit_mean = torch.zeros(dimension, dtype=torch.float64)
        self._unit_squares = torch.zeros(dimension, dtype=torch.float64)

    def update(self, z: Tensor) -> None:
        """Add rows ``z`` (n, D)."""
        z, dropped = finite_rows(z)
        self.dropped += dropped
        if not len(z):
            return
        batch = StreamingSpectrum(self.dimension)
        unit = unit_rows(z)
        batch.n, batch._mean, batch._unit_mean = len(z), z.mean(0), unit.mean(0)
        centred = z - batch._mean
        batch._scatter = centred.T @ centred
        batch._unit_squares = (unit - batch._unit_mean).square().sum(0)
        self.merge(batch)

    def merge(self, other: StreamingSpectrum) -> None:
        """Add what another accumulator has seen, of another process for instance; it is left as it is."""
        self.dropped += other.dropped
        if not other.n:
            return
        total = self.n + other.n
        share, weight = other.n / total, self.n * other.n / total
        delta, unit_delta = other._mean - self._mean, other._unit_mean - self._unit_mean
        self._scatter = self._scatter + other._scatter + weight * torch.outer(delta, delta)
        self._unit_squares = self._unit_squares + other._unit_squares + weight * unit_delta.square()
        self._mean, self._unit_mean = self._mean + share * delta, self._unit_mean + share * unit_delta
        self.n = total

    def rankme(self, *, eps: float = EPS, centre: bool = False) -> float:
        """RankMe of all rows so far, see ``representation.rankme``."""
        gram = self._scatter if centre else self._scatter + self.n * torch.outer(self._mean, self._mean)
        return effective_rank(self._eigen(gram).sqrt()[: max(self.n, 1)], eps)

    def eigenvalues(self) -> Tensor:
        """Of the covariance (divided by N), largest first: (min(N, D),)."""
        return self._eigen(self._scatter)[: max(self.n, 1)] / max(self.n, 1)

    def power_law(self, *, low: int = 4, high: int | None = None) -> PowerLaw:
        """α-ReQ of all rows so far; ``high`` is min(100, D/2) by default."""
        return power_law(self.eigenvalues(), low=low, high=high or min(100, self.dimension // 2))

    def std(self) -> Tensor:
        """Unbiased standard deviation of every dimension: (D,); NaN with fewer than two rows."""
        return _deviation(self._scatter.diagonal(), self.n)

    def summary(self) -> dict[str, float]:
        """As ``representation.collapse_summary``, without the uniformity, which needs rows."""
        eigen = self.eigenvalues()
        return {
            "n": float(self.n),
            "dimension": float(self.dimension),
            "dropped": float(self.dropped),
            "rankme": self.rankme(),
            "rankme_centred": self.rankme(centre=True),
            "std_l2": float(_deviation(self._unit_squares, self.n).mean()),
            "top1_share": top_share(eigen),
            "participation": participation_ratio(eigen),
            "dead_dims": float(count_dead(self.std())),
        }

    def _eigen(self, matrix: Tensor) -> Tensor:
        """Eigenvalues of a scatter matrix, largest first; rounding of the decomposition, and of the rows, is 0."""
        eigen = torch.linalg.eigvalsh(matrix).flip(0)
        square = float(self._scatter.trace() + self.n * self._mean.square().sum())
        floor = max(2.2e-16 * self.dimension * float(eigen[0]), NOTHING * square)
        return torch.where(eigen > floor, eigen, 0.0)


def _deviation(squares: Tensor, n: int) -> Tensor:
    """Unbiased standard deviation from sums of squared deviations."""
    return (squares / (n - 1)).sqrt() if n > 1 else torch.full_like(squares, math.nan)
