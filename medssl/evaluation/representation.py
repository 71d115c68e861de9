"""Label-free measures of an embedding set: rank, uniformity, spread, agreement between two encoders.

Every function takes ``z`` as (N, D), one row a case, computes in float64 on the CPU and returns plain numbers.
Rows that hold NaN or infinity are dropped (``finite_rows`` counts them). None of these numbers is a proof of quality: a
high rank is necessary, not sufficient, and compares runs of one method and dimension only. ``medssl.evaluation.
streaming`` has the same measures for embeddings that arrive in batches.

Sources: RankMe (Garrido et al., ICML 2023); alignment and uniformity (Wang & Isola, ICML 2020); LiDAR (Thilak et al.,
ICLR 2024); α-ReQ (Agrawal et al., NeurIPS 2022); linear CKA (Kornblith et al., ICML 2019; HSIC₁, Song et al. 2012);
relative representations (Moschella et al., ICLR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from medssl.evaluation.spectrum import (
    EPS,
    NOTHING,
    PowerLaw,
    StreamingSpectrum,
    count_dead,
    effective_rank,
    finite_rows,
    participation_ratio,
    power_law,
    top_share,
    unit_rows,
)

__all__ = [
    "StreamingRankMe",
    "alignment",
    "alpha_req",
    "collapse_summary",
    "finite_rows",
    "lidar",
    "lidar_of_scatters",
    "linear_cka",
    "power_law_of",
    "projected",
    "rankme",
    "relative_representation",
    "std_l2",
    "uniformity",
]

_SVD_LIMIT = 2048  # above this many columns the Gram matrix is cheaper and its loss below 1e-8·σ_max is irrelevant
_CHUNK = 1024  # rows of the similarity matrix that are in memory at once


def rankme(z: Tensor, *, eps: float = EPS, centre: bool = False, normalise: bool = False) -> float:
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
        z = unit_rows(z)
    return effective_rank(_singular(_centred(z) if centre else z), eps)


class StreamingRankMe(StreamingSpectrum):
    """RankMe over embeddings that arrive in batches, and nothing else; see ``StreamingSpectrum``."""

    def __init__(self, dimension: int, *, eps: float = EPS) -> None:
        super().__init__(dimension)
        self.eps = eps

    def compute(self) -> float:
        """RankMe of all rows so far."""
        return self.rankme(eps=self.eps)


def alignment(z: Tensor, other: Tensor, *, alpha: float = 2.0) -> float:
    """Mean distance between positive pairs on the unit sphere, ``E‖z − z⁺‖^α``; 0 is perfect, lower is better.

    Args:
        z: (N, D) embeddings of one view; rows are normalised here. Pairs that are not finite are left out.
        other: (N, D) embeddings of the other view of the same cases.
        alpha: exponent; 2 in the paper.

    Returns:
        0 to 2^α; NaN without a finite pair.
    """
    a, b = z.detach().cpu().double(), other.detach().cpu().double()
    keep = torch.isfinite(a).all(dim=1) & torch.isfinite(b).all(dim=1)
    return float((unit_rows(a[keep]) - unit_rows(b[keep])).norm(dim=1).pow(alpha).mean())


def uniformity(z: Tensor, *, t: float = 2.0) -> float:
    """``log mean_{i<j} exp(−t‖z_i − z_j‖²)`` on the unit sphere, −4t to 0, lower is better.

    About −2t for a uniform distribution in high dimension. Near-duplicates (several windows of one patient) raise it.

    Args:
        z: (N, D); rows are normalised here.
        t: width of the Gaussian potential.

    Returns:
        NaN with fewer than two rows.
    """
    z = unit_rows(finite_rows(z)[0])
    if len(z) < 2:
        return math.nan
    parts = torch.stack([torch.logsumexp(-t * d, 0) for d in _squared_distances(z)])
    return float(torch.logsumexp(parts, 0) - math.log(len(z) * (len(z) - 1) / 2))


def _squared_distances(z: Tensor) -> Iterator[Tensor]:
    """Of every pair of rows once, a chunk of rows at a time; a matrix product instead of N²D differences."""
    square = z.square().sum(1)
    for start in range(0, len(z) - 1, _CHUNK):
        rows = slice(start, start + _CHUNK)
        distances = square[rows, None] + square[None, start:] - 2 * z[rows] @ z[start:].T
        pairs = torch.ones_like(distances, dtype=torch.bool).triu(1)
        yield distances[pairs].clamp_min(0)


def std_l2(z: Tensor) -> float:
    """Unbiased standard deviation over rows of L2-normalised ``z``, averaged over dimensions; healthy is about 1/√D.

    NaN with fewer than two rows.
    """
    z = unit_rows(finite_rows(z)[0])
    return float(z.std(dim=0).mean()) if len(z) > 1 else math.nan


def collapse_summary(z: Tensor) -> Mapping[str, float]:
    """The numbers the collapse monitor and the report show for one embedding set ``z`` (N, D).

    Returns:
        ``n``, ``dimension``, ``dropped`` rows, ``rankme``, ``rankme_centred``, ``std_l2``, ``uniformity``,
        ``top1_share`` (variance in the first principal direction), ``participation`` ((Σλ)²/Σλ²) and ``dead_dims``
        (standard deviation at most 1e-4 of the median one). Undefined ones are NaN.
    """
    finite, dropped = finite_rows(z)
    singular = _singular(_centred(finite))
    variance = singular.pow(2)
    dead = count_dead(finite.std(dim=0)) if len(finite) > 1 else 0
    return {
        "n": float(len(finite)),
        "dimension": float(finite.shape[1]),
        "dropped": float(dropped),
        "rankme": rankme(finite),
        "rankme_centred": effective_rank(singular),
        "std_l2": std_l2(finite),
        "uniformity": uniformity(finite),
        "top1_share": top_share(variance),
        "participation": participation_ratio(variance),
        "dead_dims": float(dead),
    }


def lidar(x: Tensor, *, delta: float = 1e-4, eps: float = 1e-8, standardise: bool = True) -> float:
    """LiDAR: effective rank of the directions that tell cases apart from their own augmentations.

    Args:
        x: (n, q, D), q augmented views of each of n cases; wants n > D and q ≥ 2 (``projected`` lowers D). Cases with a
            view that is not finite are left out.
        delta: ridge on the within-case scatter.
        eps: added to every eigenvalue.
        standardise: divide by the root mean square of all entries first, since ``delta`` is not free of scale.

    Returns:
        1 to min(n − 1, D); NaN where it is undefined: n < 2, q < 2, or cases that do not differ.
    """
    x = x.detach().cpu().double()
    x = x[torch.isfinite(x).all(dim=2).all(dim=1)]
    n, q, d = x.shape
    if n < 2 or q < 2:
        return math.nan
    if standardise:
        x = x / x.pow(2).mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    means = x.mean(1)
    between, within = means - means.mean(0), (x - means[:, None]).reshape(-1, d)
    return lidar_of_scatters(
        between.T @ between / (n - 1), within.T @ within / (n * (q - 1)), delta=delta, eps=eps
    )  # fmt: skip


def lidar_of_scatters(between: Tensor, within: Tensor, *, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """LiDAR (equation 2) of the scatter between cases and within cases, each (D, D).

    Returns:
        NaN where the cases differ by no more than ``eps`` in the whitened space: the value would be that of ``eps``.
    """
    d = len(within)
    values, vectors = torch.linalg.eigh(within + delta * torch.eye(d, dtype=within.dtype))
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    eigen = torch.linalg.eigvalsh(whiten @ between @ whiten).clamp_min(0)
    if float(eigen.sum()) <= d * eps:
        return math.nan
    share = (eigen + eps) / (eigen + eps).sum()
    return float(torch.exp(-(share * share.log()).sum()))


def projected(x: Tensor, dimension: int = 128, *, seed: int = 0) -> Tensor:
    """``x`` (..., D) in a fixed random subspace of ``dimension`` directions (orthonormal); as it is when D is less.

    LiDAR wants more cases than dimensions, and a random subspace keeps distances up to a common factor.
    """
    d = x.shape[-1]
    x = x.detach().to("cpu", torch.float64)
    if d <= dimension:
        return x
    drawn = torch.randn(d, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis: Tensor = torch.linalg.qr(drawn).Q
    return x @ basis


def alpha_req(z: Tensor, *, low: int = 4, high: int | None = None) -> tuple[float, float]:
    """Decay exponent of the covariance spectrum, λ_k ∝ k^{−α}, by least squares of logs weighted with 1/k.

    Args:
        z: (N, D) encoder features; centred here.
        low: first rank of the fit, 1-based inclusive. The paper fixes no range: print it beside the value.
        high: last rank, inclusive; default min(100, D/2). ``power_law_of`` also says which ranks were there.

    Returns:
        α (about 1 is claimed best, ≫ 1 collapsed, < 1 noisy) and R² of the fit; NaN when the range holds < 2 ranks.
    """
    found = power_law_of(z, low=low, high=high)
    return found.alpha, found.r2


def power_law_of(z: Tensor, *, low: int = 4, high: int | None = None) -> PowerLaw:
    """α-ReQ as ``alpha_req``, with the ranks that the fit used."""
    z, _ = finite_rows(z)
    eigen = _singular(_centred(z)).pow(2) / max(len(z), 1)
    return power_law(eigen, low=low, high=high if high is not None else min(100, z.shape[1] // 2))


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> float:
    """Linear centred kernel alignment of two embedding sets of the *same* cases, row by row.

    Args:
        x: (N, D1).
        y: (N, D2).
        debiased: use the unbiased HSIC estimator; needed when N < 4·D, requires N > 3.

    Returns:
        0 (unrelated) to 1 (equal up to rotation and scale); the debiased form can be slightly negative. NaN where one
        of the sets has no variance.
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
    cosines: Tensor = unit_rows(z.detach().cpu().double()) @ unit_rows(anchors.detach().cpu().double()).T
    return cosines


def _centred(z: Tensor) -> Tensor:
    """Rows without their mean; exactly zero where what is left is rounding, as for identical rows."""
    if not len(z):
        return z
    centred = z - z.mean(0, keepdim=True)
    return centred if float(centred.square().sum()) > NOTHING * float(z.square().sum()) else torch.zeros_like(z)


def _singular(z: Tensor) -> Tensor:
    """Singular values of ``z`` (N, D), largest first: (min(N, D),)."""
    if min(z.shape) == 0:
        return torch.zeros(0, dtype=torch.float64)
    if min(z.shape) > _SVD_LIMIT:
        gram = z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T
        roots: Tensor = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)
        return roots
    values: Tensor = torch.linalg.svdvals(z)
    return values
