"""Functional connectivity of regions: pure functions on tensors, batched over recordings and windows.

Two policies hold everywhere. A volume in which all regions are exactly 0 is padding and does not count. A region with
NaN or infinity, or that is constant over the volumes that count, is invalid: it has correlation 0 with all others,
nothing but its self-loop in a graph, and no part in percentiles, pooling, masks or targets.

All of it runs on the device of its input, in at least float32 whatever the autocast: edges near a threshold flip in
half precision.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import full_precision, promoted

__all__ = [
    "correlation",
    "correlation_and_valid",
    "covariance",
    "dynamic_correlation",
    "fisher_z",
    "ledoit_wolf",
    "lower_triangle",
    "partial_correlation",
    "phase_randomised",
    "sliding_windows",
    "tangent",
    "tangent_reference",
    "valid_regions",
    "volume_weights",
    "window_count",
]

BLOCK = 320_000
"""Entries of the graphs that a CPU works on at a time: 8 graphs of 200 regions."""

CONSTANT = 32.0
"""A deviation below so many times the rounding error of a region's values is none."""


def volume_weights(x: Tensor) -> Tensor:
    """Which volumes count: 0 for padding, in which all regions are exactly 0, else 1.

    Args:
        x: (..., N, T) series of N regions.

    Returns:
        (..., T), of the type of ``x``, at least float32.
    """
    return (x != 0).any(-2).to(promoted(x).dtype)


def valid_regions(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Regions that can be correlated: finite, and not constant over the volumes that count.

    Args:
        x: (..., N, T).
        weights: (..., T) of the volumes, 0 or 1; ``volume_weights`` by default.

    Returns:
        (..., N) booleans.
    """
    return _centred(x, weights)[1]


def correlation(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pearson correlation of all pairs of regions.

    Args:
        x: (..., N, T).
        weights: (..., T) of the volumes, 0 or 1; ``volume_weights`` by default.

    Returns:
        (..., N, N) in [-1, 1], exactly symmetric, diagonal 1; invalid regions have 0 with all others.

    >>> correlation(torch.tensor([[1.0, 2, 3], [3, 2, 1], [5, 5, 5]])).round()
    tensor([[ 1., -1.,  0.],
            [-1.,  1.,  0.],
            [ 0.,  0.,  1.]])
    """
    return correlation_and_valid(x, weights)[0]


def correlation_and_valid(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``correlation`` and ``valid_regions`` in one go; arguments as there.

    Returns:
        (..., N, N), and (..., N) booleans.
    """
    x, leading = promoted(x), x.shape[:-2]
    weights = volume_weights(x) if weights is None else weights.to(x.dtype).expand(*leading, -1)
    with _exact(x.device):
        if not worth_blocks(x):
            return _correlation(x, weights)
        r, valid = x.new_empty(*x.shape[:-1], x.shape[-2]), x.new_empty(x.shape[:-1], dtype=torch.bool)
        size = block_size(x.shape[-2])
        work = x.new_empty(size, *x.shape[-2:]), x.new_empty(size, *r.shape[-2:])
        for at in _blocks(leading, size):
            count = math.prod(valid[at].shape[:-1])
            room = (work[0][:count].view(*valid[at].shape, -1), work[1][:count].view(*valid[at].shape, -1))
            valid[at] = _correlation(x[at], weights[at], r[at], room)[1]
        return r, valid


def dynamic_correlation(
    x: Tensor, window: int, stride: int, *, exclusive: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Pearson correlation inside each sliding window.

    A region with NaN or infinity anywhere is invalid in all windows, one that is constant in a window in that window.

    Args:
        x: (B, N, T).
        window: volumes of a window.
        stride: volumes from one window to the next.
        exclusive: leave out the last window where it ends with the series, as the published code does.
        weights: (B, T) of the volumes, 0 or 1; ``volume_weights`` by default.

    Returns:
        (B, K, N, N), see ``correlation``; K as ``window_count`` says.

    Raises:
        ConfigError: a series shorter than a window.
    """
    return correlation(*sliding_windows(x, window, stride, exclusive=exclusive, weights=weights))


def sliding_windows(
    x: Tensor, window: int, stride: int, *, exclusive: bool = False, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The windows of ``dynamic_correlation``; arguments and errors as there.

    Returns:
        (B, K, N, window), in which a region with NaN or infinity anywhere is 0; and (B, K, window) weights.
    """
    count = window_count(x.shape[-1], window, stride, exclusive=exclusive)
    weights = volume_weights(x) if weights is None else weights
    x = torch.where(x.isfinite().all(-1, keepdim=True), x, 0.0)
    pieces = x.unfold(-1, window, stride)[:, :, :count].transpose(1, 2)
    return pieces, weights.unfold(-1, window, stride)[:, :count]


def window_count(length: int, window: int, stride: int, *, exclusive: bool = False) -> int:
    """How many windows a series has; they begin at 0, ``stride``, 2 ``stride``, …

    Args:
        length: volumes of the series.
        window: volumes of a window.
        stride: volumes from one window to the next.
        exclusive: leave out the last window where it ends with the series, as the published code does.

    Raises:
        ConfigError: not a single window fits.

    >>> window_count(100, 50, 25), window_count(100, 50, 25, exclusive=True)
    (3, 2)
    """
    if window < 2 or stride < 1 or length < window + exclusive:
        raise ConfigError(
            f"no window of {window} volumes every {stride} fits into a run of {length}; use shorter windows or leave "
            "the run out"
        )
    return (length - window - exclusive) // stride + 1


def covariance(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Empirical covariance, divided by the number of volumes that count.

    Args:
        x: (..., N, T).
        weights: (..., T) of the volumes, 0 or 1; ``volume_weights`` by default.

    Returns:
        (..., N, N); rows and columns of invalid regions are 0.
    """
    with _exact(x.device):
        weights = volume_weights(x) if weights is None else weights
        centred, valid, _ = _centred(x, weights)
        centred = centred * valid.unsqueeze(-1)
        return _symmetric(centred @ centred.mT) / weights.sum(-1).clamp_min(1.0)[..., None, None]


def ledoit_wolf(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Covariance shrunk towards a multiple of the identity (Ledoit and Wolf, 2004).

    .. math:: (1-δ) S + δ \frac{\mathrm{tr} S}{N} I

    with the analytic δ of their lemma 3.3, over valid regions and the volumes that count.

    Args:
        x: (..., N, T).
        weights: (..., T) of the volumes, 0 or 1; ``volume_weights`` by default.

    Returns:
        (..., N, N), and δ (...,) in [0, 1]. An invalid region is uncorrelated and has the mean variance of the others.
    """
    with _exact(x.device):
        weights = volume_weights(x) if weights is None else weights
        centred, valid, _ = _centred(x, weights)
        centred = centred * valid.unsqueeze(-1)
        volumes = weights.sum(-1).clamp_min(1.0)
        regions = valid.sum(-1).clamp_min(1).to(centred.dtype)
        s = _symmetric(centred @ centred.mT) / volumes[..., None, None]
        mean = s.diagonal(dim1=-2, dim2=-1).sum(-1) / regions
        square = s.square().sum((-2, -1))
        spread = (square / regions - mean.square()).clamp_min(0.0)
        error = (centred.square().sum(-2).square().sum(-1) / volumes - square) / (regions * volumes)
        delta = (error / spread.clamp_min(torch.finfo(s.dtype).tiny)).clamp(0.0, 1.0)
        delta = torch.where(spread > 0, delta, 0.0)
        shrunk = (1 - delta)[..., None, None] * s
        added = torch.where(valid, (delta * mean).unsqueeze(-1), mean.unsqueeze(-1))
        return shrunk + torch.diag_embed(added), delta


def partial_correlation(covariance: Tensor) -> Tensor:
    r"""Correlation of two regions given all others, :math:`-Θ_{ij} / \sqrt{Θ_{ii} Θ_{jj}}` with Θ the inverse.

    Args:
        covariance: (..., N, N), positive definite; a region of variance 0 is taken as uncorrelated with all others.

    Returns:
        (..., N, N) in [-1, 1], diagonal 1.

    Raises:
        ConfigError: a covariance that cannot be inverted, as of fewer volumes than regions.
    """
    with _exact(covariance.device):
        own = torch.diag_embed((covariance.diagonal(dim1=-2, dim2=-1) <= 0).to(promoted(covariance).dtype))
        matrix = promoted(covariance) + own
        if not torch.compiler.is_exporting():
            _refuse_singular(matrix)
        theta = torch.linalg.inv(matrix)
        scale = theta.diagonal(dim1=-2, dim2=-1).rsqrt()
        r = _symmetric(theta * scale.unsqueeze(-1) * scale.unsqueeze(-2)).neg_().clamp_(-1.0, 1.0)
        return _with_ones(r)


def fisher_z(r: Tensor, limit: float = 0.9999) -> Tensor:
    """``atanh`` of correlations, which are kept within ± ``limit`` so that it stays finite."""
    return torch.atanh(promoted(r).clamp(-limit, limit))


def tangent_reference(covariances: Tensor, *, steps: int = 30, tolerance: float = 1e-7) -> Tensor:
    r"""Geometric mean of covariances: the point at which the tangent space touches.

    :math:`G ← G^{1/2} \exp(h \, \mathrm{mean}_k \log(G^{-1/2} Σ_k G^{-1/2})) G^{1/2}` from the arithmetic mean on, the
    step h halved where the norm of the mean grows (Varoquaux et al., MICCAI 2010; Fletcher and Joshi, 2007).
    Fit it on training patients only: a reference that has seen test patients leaks.

    Args:
        covariances: (M, N, N), positive definite.
        steps: at most so many.
        tolerance: of the mean's norm, divided by N².

    Returns:
        (N, N).

    Raises:
        ConfigError: a covariance that is not positive definite.
    """
    with _exact(covariances.device):
        matrices = promoted(covariances)
        _refuse_singular(matrices)
        mean, step, before = matrices.mean(0), 1.0, math.inf
        for _ in range(steps):
            root, inverse = _roots(mean)
            direction = _function(inverse @ matrices @ inverse, torch.log).mean(0)
            mean = _symmetric(root @ _function(step * direction, torch.exp) @ root)
            norm = float(torch.linalg.matrix_norm(direction))
            if norm > before:
                step /= 2
            before = min(norm, before)
            if before / mean.numel() < tolerance:
                break
        return mean


def tangent(covariances: Tensor, reference: Tensor) -> Tensor:
    r"""Where covariances lie in the tangent space at a reference: :math:`\log(G^{-1/2} Σ G^{-1/2})`.

    It depends on the scale of the regions; standardise the series first.

    Args:
        covariances: (..., N, N), positive definite.
        reference: (N, N) G, of ``tangent_reference``.

    Returns:
        (..., N, N), symmetric; 0 for the reference itself.
    """
    with _exact(covariances.device):
        matrices, inverse = promoted(covariances), _roots(promoted(reference))[1]
        _refuse_singular(matrices)
        return _function(inverse @ matrices @ inverse, torch.log)


def phase_randomised(x: Tensor, generator: torch.Generator, *, together: bool = True) -> Tensor:
    """Series of the same power spectra with random phases: a null of what connectivity is compared with.

    With the same phases for all regions (Prichard and Theiler, 1994) every covariance stays, at any lag, so dynamic
    connectivity fluctuates as that of stationary series with this static connectivity does. With phases for each region
    (Theiler et al., 1992) nothing but the spectra stays, and correlations are those of chance.

    Args:
        x: (..., N, T) without padding; regions with NaN or infinity become 0.
        generator: of the phases, on the device of ``x``; they are drawn for each run anew.
        together: the same phases for all regions.

    Returns:
        (..., N, T), at least float32, of the same mean and variance.

    Raises:
        ConfigError: padding, whose end would be spread over the whole series.
    """
    x = promoted(x)
    x = torch.where(x.isfinite().all(-1, keepdim=True), x, 0.0)
    used = x.any(-1).any(-1)
    if bool(((volume_weights(x) == 0).any(-1) & used).any()):
        raise ConfigError(
            "a run holds volumes of padding, in which all regions are 0; cut them off before phases are drawn"
        )
    spectrum = torch.fft.rfft(x)
    regions, length = (1 if together else x.shape[-2]), x.shape[-1]
    phases = torch.rand(
        *x.shape[:-2], regions, spectrum.shape[-1], generator=generator, device=x.device, dtype=x.dtype
    ).mul_(2 * math.pi)
    phases[..., 0] = 0.0  # the mean, and half the sampling rate where the length is even, are real numbers
    if length % 2 == 0:
        phases[..., -1] = 0.0
    moved: Tensor = torch.fft.irfft(spectrum * torch.polar(torch.ones_like(phases), phases), n=length)
    return moved


def lower_triangle(m: Tensor, *, diagonal: bool = False) -> Tensor:
    """The lower triangle of symmetric matrices as vectors, row by row.

    Args:
        m: (..., N, N).
        diagonal: with it, divided by √2, so that distances of vectors are those of the matrices (Frobenius) over √2.

    Returns:
        (..., N (N ± 1) / 2).

    >>> lower_triangle(torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0]]))
    tensor([1, 2, 3])
    """
    if diagonal:
        m = m * (1 - (1 - math.sqrt(0.5)) * torch.eye(m.shape[-1], dtype=promoted(m).dtype, device=m.device))
    return m.flatten(-2).index_select(-1, triangle_places(m.shape[-1], diagonal, m.device))


def all_on_cpu(valid: Tensor) -> bool:
    """Whether nothing is missing, where looking costs nothing: a GPU would have to be waited for."""
    return valid.device.type == "cpu" and not torch.compiler.is_compiling() and bool(valid.all())


@functools.lru_cache(maxsize=64)
def triangle_places(n: int, diagonal: bool, device: torch.device) -> Tensor:
    """Of the lower triangle in a flattened (n, n) matrix, row by row."""
    rows, columns = torch.tril_indices(n, n, 0 if diagonal else -1, device=device)
    places: Tensor = rows * n + columns
    return places


def _centred(x: Tensor, weights: Tensor | None, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Series less their mean, 0 where a volume does not count; valid regions; norms, 1 for invalid ones."""
    x = promoted(x)
    weights = (volume_weights(x) if weights is None else weights.to(x.dtype)).unsqueeze(-2)
    finite = x.sum(-1).isfinite()
    whole = all_on_cpu(finite) and all_on_cpu(weights == 1)
    if not whole:
        x = torch.where(finite.unsqueeze(-1), x, 0.0) * weights
    mean = x.sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp_min(1.0)
    centred = torch.sub(x, mean, out=out)
    if not whole:
        centred *= weights
    square = centred.square().sum(-1)
    rounding = CONSTANT * torch.finfo(x.dtype).eps
    valid = finite & (square > rounding**2 * x.square().sum(-1))
    return centred, valid, torch.where(valid, square, 1.0).sqrt()


def _correlation(
    x: Tensor,
    weights: Tensor,
    out: Tensor | None = None,
    room: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """See ``correlation_and_valid``; to ``out`` where given, with room for (..., N, T) and (..., N, N)."""
    centred, valid, norm = _centred(x, weights, room[0])
    unit = torch.mul(centred, (valid / norm).unsqueeze(-1), out=room[0])
    half = torch.matmul(unit, unit.mT, out=room[1])
    return _with_ones(torch.add(half, half.mT, out=out).mul_(0.5).clamp_(-1.0, 1.0)), valid


def block_size(n: int) -> int:
    """How many graphs of n regions a CPU works on at a time."""
    return max(BLOCK // max(n * n, 1), 1)


def worth_blocks(graphs: Tensor) -> bool:
    """Whether graphs (..., n, m) are worked on in blocks of ``block_size``.

    On a CPU the steps then find their input in the cache, and memory is taken for the result alone; what takes
    gradients or is compiled is made at once.
    """
    grows = torch.is_grad_enabled() and graphs.requires_grad
    on_cpu = graphs.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and not grows and math.prod(graphs.shape[:-2]) > block_size(graphs.shape[-2])


def _blocks(leading: Sequence[int], size: int) -> Iterator[tuple[slice, ...]]:
    """Slices of all batch dimensions, at most ``size`` graphs each."""
    if not leading:
        yield ()
        return
    step = max(size // math.prod(leading[1:]), 1)
    for start in range(0, leading[0], step):
        for others in _blocks(leading[1:], size):
            yield (slice(start, start + step), *others)


def _symmetric(m: Tensor) -> Tensor:
    """Exactly: products of matrices are so up to rounding only."""
    return (m + m.mT).mul_(0.5)


def _with_ones(r: Tensor) -> Tensor:
    """The diagonal set to 1, in place; ONNX has no writing into a diagonal."""
    if torch.compiler.is_exporting():
        return r.masked_fill(torch.eye(r.shape[-1], dtype=torch.bool, device=r.device), 1.0)
    r.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    return r


def _function(m: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of a symmetric matrix, by its eigenvalues."""
    values, vectors = torch.linalg.eigh(_symmetric(m))
    return _symmetric((vectors * f(values).unsqueeze(-2)) @ vectors.mT)


def _roots(m: Tensor) -> tuple[Tensor, Tensor]:
    """Square root of a positive definite matrix, and its inverse."""
    values, vectors = torch.linalg.eigh(m)
    root = values.sqrt().unsqueeze(-2)
    return _symmetric((vectors * root) @ vectors.mT), _symmetric((vectors / root) @ vectors.mT)


def _refuse_singular(matrices: Tensor) -> None:
    """Refuse covariances whose Cholesky factor does not exist, or has a pivot that is only rounding error."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    # a squared pivot over its variance is the share of the region that those before it do not explain
    share = factor.diagonal(dim1=-2, dim2=-1).square() / matrices.diagonal(dim1=-2, dim2=-1)
    n = matrices.shape[-1]
    bad = (failed != 0) | ~(share.amin(-1) > n * torch.finfo(matrices.dtype).eps)
    if bool(bad.any()):
        where = int(bad.flatten().nonzero()[0, 0])
        raise ConfigError(
            f"the covariance of recording {where} ({n} regions) cannot be inverted: it has too few volumes, or regions "
            "that repeat each other; shrink it with ledoit_wolf"
        )


def _exact(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Without autocast; an exported graph has none."""
    return contextlib.nullcontext() if torch.compiler.is_exporting() else full_precision(device)
