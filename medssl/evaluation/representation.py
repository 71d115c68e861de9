"""Label-free measures of an embedding set: rank, uniformity, spread, agreement between two encoders.

Every function takes ``z`` as (N, D), one row a case, computes in float64 on the CPU and returns plain numbers.
Rows that hold NaN or infinity are dropped (``finite_rows`` counts them). None of these numbers is a proof of quality: a
high rank is necessary, not sufficient, and compares runs of one method and dimension only.

Sources: RankMe (Garrido et al., ICML 2023); alignment and uniformity (Wang & Isola, ICML 2020); LiDAR (Thilak et al.,
ICLR 2024); α-ReQ (Agrawal et al., NeurIPS 2022); linear CKA (Kornblith et al., ICML 2019; HSIC₁, Song et al. 2012);
relative representations (Moschella et al., ICLR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = [
    "StreamingRankMe",
    "alignment",
    "alpha_req",
    "collapse_summary",
    "finite_rows",
    "lidar",
    "linear_cka",
    "rankme",
    "relative_representation",
    "std_l2",
    "uniformity",
]

_SVD_LIMIT = 2048  # above this many columns the Gram matrix is cheaper and its loss below 1e-8·σ_max is irrelevant


def finite_rows(z: Tensor) -> tuple[Tensor, int]:
    """Float64 CPU copy of ``z`` (N, D) without rows that hold NaN or infinity, and how many were dropped."""
    z = z.detach().to("cpu", torch.float64)
    keep = torch.isfinite(z).all(dim=1)
    return z[keep], int((~keep).sum())


def rankme(z: Tensor, *, eps: float = 1e-7, centre: bool = False, normalise: bool = False) -> float:
    """Effective rank: exponential of the entropy of the normalised singular values (RankMe, equation 1).

    Args:
        z: (N, D); the paper takes un-augmented samples and the projector's output, neither centred nor normalised.
        eps: added to every share before the logarithm.
        centre: subtract the column means first; features after a ReLU have a large mean that hides their rank.
        normalise: scale every row to unit length first.

    Returns:
        About 1 (one direction) to min(N, D). Compare at equal N and D only; 1 for an empty or all-zero matrix.
    """
    z, _ = finite_rows(z)
    if normalise:
        z = _unit(z)
    if centre:
        z = z - z.mean(0, keepdim=True)
    if min(z.shape) == 0:
        return 1.0
    if min(z.shape) > _SVD_LIMIT:
        gram = z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T
        return _rank_of(torch.linalg.eigvalsh(gram).clamp_min(0).sqrt(), eps)
    return _rank_of(torch.linalg.svdvals(z), eps)


def _rank_of(singular: Tensor, eps: float) -> float:
    total = singular.sum()
    if total <= 0:
        return 1.0
    share = singular / total + eps
    return float(torch.exp(-(share * share.log()).sum()))


class StreamingRankMe:
    """RankMe over embeddings that arrive in batches, with memory D² instead of N·D.

    Agrees with ``rankme`` to about 1e-4: the square root of an eigenvalue is exact only down to 1e-8·σ_max.
    """

    def __init__(self, dimension: int, *, eps: float = 1e-7) -> None:
        self.eps = eps
        self.n = 0
        self.dropped = 0
        self._gram = torch.zeros(dimension, dimension, dtype=torch.float64)

    def update(self, z: Tensor) -> None:
        """Add rows ``z`` (n, D)."""
        z, dropped = finite_rows(z)
        self.n += len(z)
        self.dropped += dropped
        self._gram += z.T @ z

    def compute(self) -> float:
        """RankMe of all rows so far."""
        singular = torch.linalg.eigvalsh(self._gram).clamp_min(0).sqrt()
        return _rank_of(singular.flip(0)[: max(self.n, 1)], self.eps)


def alignment(z: Tensor, other: Tensor, *, alpha: float = 2.0) -> float:
    """Mean distance between positive pairs on the unit sphere, ``E‖z − z⁺‖^α``; 0 is perfect, lower is better.

    Args:
        z: (N, D) embeddings of one view; rows are normalised here.
        other: (N, D) embeddings of the other view of the same cases.
        alpha: exponent; 2 in the paper.
    """
    a, b = _unit(z.detach().cpu().double()), _unit(other.detach().cpu().double())
    return float((a - b).norm(dim=1).pow(alpha).mean())


def uniformity(z: Tensor, *, t: float = 2.0) -> float:
    """``log mean_{i<j} exp(−t‖z_i − z_j‖²)`` on the unit sphere, −4t to 0, lower is better.

    About −2t for a uniform distribution in high dimension. Near-duplicates (several windows of one patient) raise it.

    Args:
        z: (N ≥ 2, D); rows are normalised here.
        t: width of the Gaussian potential.
    """
    z = _unit(finite_rows(z)[0])
    squared = torch.pdist(z).pow(2)
    return float(torch.logsumexp(-t * squared, 0) - math.log(len(squared)))


def std_l2(z: Tensor) -> float:
    """Unbiased standard deviation over rows of L2-normalised ``z``, averaged over dimensions; healthy is about 1/√D."""
    return float(_unit(finite_rows(z)[0]).std(dim=0).mean())


def collapse_summary(z: Tensor) -> Mapping[str, float]:
    """The numbers the collapse monitor and the report show for one embedding set ``z`` (N, D).

    Returns:
        ``n``, ``dimension``, ``dropped`` rows, ``rankme``, ``rankme_centred``, ``std_l2``, ``uniformity``,
        ``top1_share`` (variance in the first principal direction), ``participation`` ((Σλ)²/Σλ²) and ``dead_dims``
        (standard deviation below 1e-4 of the median one).
    """
    finite, dropped = finite_rows(z)
    variance = torch.linalg.svdvals(finite - finite.mean(0, keepdim=True)).pow(2)
    total = float(variance.sum())
    std = finite.std(dim=0)
    return {
        "n": float(len(finite)),
        "dimension": float(finite.shape[1]),
        "dropped": float(dropped),
        "rankme": rankme(finite),
        "rankme_centred": rankme(finite, centre=True),
        "std_l2": std_l2(finite),
        "uniformity": uniformity(finite),
        "top1_share": float(variance[0]) / total if total else 1.0,
        "participation": total**2 / float(variance.pow(2).sum()) if total else 1.0,
        "dead_dims": float((std <= 1e-4 * std.median()).sum()),
    }


def lidar(x: Tensor, *, delta: float = 1e-4, eps: float = 1e-8, standardise: bool = True) -> float:
    """LiDAR: effective rank of the directions that tell cases apart from their own augmentations.

    Args:
        x: (n, q, D), q augmented views of each of n cases; wants n > D and q ≥ 2.
        delta: ridge on the within-case scatter.
        eps: added to every eigenvalue.
        standardise: divide by the root mean square of all entries first, since ``delta`` is not free of scale.

    Returns:
        1 to min(n − 1, D); NaN when n < 2 or q < 2, where it is undefined.
    """
    n, q, d = x.shape
    if n < 2 or q < 2:
        return math.nan
    x = x.detach().cpu().double()
    if standardise:
        x = x / x.pow(2).mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    means = x.mean(1)
    between = means - means.mean(0)
    within = (x - means[:, None]).reshape(-1, d)
    scatter_between = between.T @ between / (n - 1)
    scatter_within = within.T @ within / (n * (q - 1)) + delta * torch.eye(d, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(scatter_within)
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    eigen = torch.linalg.eigvalsh(whiten @ scatter_between @ whiten).clamp_min(0) + eps
    share = eigen / eigen.sum()
    return float(torch.exp(-(share * share.log()).sum()))


def alpha_req(z: Tensor, *, low: int = 4, high: int | None = None) -> tuple[float, float]:
    """Decay exponent of the covariance spectrum, λ_k ∝ k^{−α}, by least squares of logs weighted with 1/k.

    Args:
        z: (N, D) encoder features; centred here.
        low: first rank of the fit, 1-based inclusive. The paper fixes no range: print it beside the value.
        high: last rank, inclusive; default min(100, D/2).

    Returns:
        α (about 1 is claimed best, ≫ 1 collapsed, < 1 noisy) and R² of the fit; NaN when the range holds < 2 ranks.
    """
    z, _ = finite_rows(z)
    high = high if high is not None else min(100, z.shape[1] // 2)
    eigen = torch.linalg.svdvals(z - z.mean(0)).pow(2) / len(z)
    rank = torch.arange(1, len(eigen) + 1, dtype=torch.float64)
    use = (rank >= low) & (rank <= high) & (eigen > 0)
    if int(use.sum()) < 2:
        return math.nan, math.nan
    x, y, w = rank[use].log(), eigen[use].log(), 1 / rank[use]
    x, y = x - (w * x).sum() / w.sum(), y - (w * y).sum() / w.sum()
    slope = (w * x * y).sum() / (w * x * x).sum()
    residual, total = (w * (y - slope * x) ** 2).sum(), (w * y * y).sum()
    return float(-slope), float(1 - residual / total) if total > 0 else 1.0


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> float:
    """Linear centred kernel alignment of two embedding sets of the *same* cases, row by row.

    Args:
        x: (N, D1).
        y: (N, D2).
        debiased: use the unbiased HSIC estimator; needed when N < 4·D, requires N > 3.

    Returns:
        0 (unrelated) to 1 (equal up to rotation and scale); the debiased form can be slightly negative.
    """
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    if debiased:
        return _unbiased_cka(x @ x.T, y @ y.T)
    x, y = x - x.mean(0), y - y.mean(0)
    return float((y.T @ x).pow(2).sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def _unbiased_cka(k: Tensor, g: Tensor) -> float:
    k, g = k.clone().fill_diagonal_(0), g.clone().fill_diagonal_(0)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        n = len(a)
        cross = (a @ b).sum() * 2 / (n - 2)
        return ((a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - cross) / (n * (n - 3))

    return float(hsic(k, g) / (hsic(k, k) * hsic(g, g)).clamp_min(0).sqrt())


def relative_representation(z: Tensor, anchors: Tensor) -> Tensor:
    """Cosine of every row of ``z`` (N, D) to ``anchors`` (M, D): (N, M), free of rotation and scale of the space.

    Anchors must be development patients, the same ones for every encoder compared.
    """
    return _unit(z.detach().cpu().double()) @ _unit(anchors.detach().cpu().double()).T


def _unit(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z, dim=1)
