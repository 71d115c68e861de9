"""Average precision for continuous targets, as a loss: CoTAP's ranking of similarities, in O(n log n)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medssl.objectives.dominance import dominated_sums, ranks_of

__all__ = ["Surrogate", "ap_loss", "misranking", "not_exceeded"]

Surrogate = Literal["quadratic", "hinge"]
"""Penalty h of a difference of scores z: quadratic: (1 - z/τ)² from 0 to τ, 0 above, 1 - 2z/τ below 0; hinge:
max(1 - z/τ, 0)."""

EPS = 1e-5
FAST_FROM = 512  # scores from which sorting is faster than all pairs (measured on one thread)
BLOCK_ELEMENTS = 2**21  # pairs in memory at once


def ap_loss(
    targets: Tensor,
    scores: Tensor,
    matched: Tensor | None = None,
    *,
    margin: float = 0.5,
    floor: float = -0.2,
    unmatched: float = 0.1,
    surrogate: Surrogate = "quadratic",
    fast: bool | None = None,
) -> Tensor:
    r"""Continuous-target average-precision loss of CoTAP (Wen et al., TPAMI 2025).

    .. math:: L = \frac{\sum_i w_i \frac{\ell_i}{1 + \ell_i}}{\epsilon + \sum_i w_i}, \quad
        \ell_i = \frac{N_i}{\epsilon + P_i}, \quad w_i = \max(y_i - \theta, 0) \cdot (m_i \text{ or } \alpha)

    over n pairs with targets y and scores x; N is ``misranking``, P is ``not_exceeded`` (without gradient), ε = 10⁻⁵.
    The bounded form lets wrong targets saturate. A perfect ranking costs nothing only where gaps exceed the margin.

    Args:
        targets: (n,) or (B, n) similarities the scores should be ranked by; no gradient.
        scores: like targets; about -1 to 1.
        matched: like targets, booleans: rows of full weight; None: all.
        margin: τ > 0.
        floor: θ; rows whose target is not above it carry no weight.
        unmatched: α, weight of the other rows.
        surrogate: see ``Surrogate``.
        fast: sort (True), or go through all pairs; None chooses by n.

    Returns:
        Scalar, or (B,); at least float32.

    >>> bad, good = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])
    >>> round(float(ap_loss(good, good, margin=0.1)), 3), round(float(ap_loss(good, bad, margin=0.1)), 3)
    (0.0, 0.732)
    """
    targets = targets.detach()
    missed = _eagerly(misranking)(targets, scores, margin=margin, surrogate=surrogate, fast=fast)
    ratio = missed / (EPS + _eagerly(not_exceeded)(targets, scores.detach(), fast=fast))
    weights = (targets - floor).clamp_min(0).to(ratio.dtype)
    if matched is not None:
        weights = torch.where(matched, weights, unmatched * weights)
    loss = (weights * ratio / (1 + ratio)).sum(-1) / (EPS + weights.sum(-1))
    return loss.to(torch.promote_types(scores.dtype, torch.float32))


def misranking(
    targets: Tensor, scores: Tensor, *, margin: float, surrogate: Surrogate = "quadratic", fast: bool | None = None
) -> Tensor:
    r"""Mass by which each score is out of order, :math:`N_i = \sum_j \max(y_i - y_j, 0)\, h(x_i - x_j)`.

    Value and gradient in O(n log n): h is a polynomial on each side of its breaks, so that N and its gradient are
    sums over the points below in the target and below a bound in the score, of (1, y, x, xy, x², x²y).

    Args:
        targets: (n,) or (B, n), y; no gradient.
        scores: like targets, x.
        margin: τ > 0 of h.
        surrogate: h, see ``Surrogate``.
        fast: see ``ap_loss``.

    Returns:
        Like scores, float64: differences of large sums.
    """
    flat = scores.double().reshape(-1, scores.shape[-1])
    missed: Tensor = _Misranking.apply(
        targets.double().reshape(flat.shape), flat / margin, surrogate, _fast(flat.shape[-1], fast)
    )
    return missed.view(scores.shape)


def not_exceeded(targets: Tensor, scores: Tensor, *, fast: bool | None = None) -> Tensor:
    r"""How many points are below i in neither order, :math:`P_i = |\{j: y_j \ge y_i, x_j \ge x_i\}|`, itself included.

    Args:
        targets: (n,) or (B, n), y.
        scores: like targets, x.
        fast: see ``ap_loss``.

    Returns:
        Like scores, whole numbers as float32 (as published, which rounds what ε adds to them).
    """
    x, y = (v.reshape(-1, v.shape[-1]).contiguous() for v in (scores, targets))
    if not _fast(x.shape[-1], fast):
        found = [((y[:, r, None] <= y[:, None]) & (x[:, r, None] <= x[:, None])).sum(-1) for r in _blocks(x.shape)]
        return torch.cat(found, 1).float().view(scores.shape)
    order = y.argsort(-1)
    x, y = x.gather(-1, order), y.gather(-1, order)
    lower, ranks = ranks_of(x)
    below_y, below_x = torch.searchsorted(y, y), torch.searchsorted(lower, x)
    both = dominated_sums(ranks, torch.ones_like(x, dtype=torch.float64).unsqueeze(-1), below_y, below_x)
    count = x.shape[-1] - below_y - below_x + both.squeeze(-1)
    return torch.empty_like(count).scatter_(-1, order, count).float().view(scores.shape)


def _eagerly(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Unrolled over the digits of n it takes long to compile, for nothing: it is sorts, gathers and prefix sums."""
    if not torch.compiler.is_compiling():
        return function  # importing the compiler takes seconds
    eager: Callable[..., Tensor] = torch.compiler.disable(function)
    return eager


class _Misranking(torch.autograd.Function):
    """N of targets and scores in units of the margin, (B, n) float64.

    The gradient of :math:`\\sum_i g_i N_i` is :math:`g_i \\partial N_i/\\partial x_i` less what the row takes from
    others, :math:`\\sum_k g_k \\max(y_k - y_i, 0)\\, h'(x_k - x_i)`: the same sum with both signs turned.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, u: Tensor, surrogate: Surrogate, fast: bool) -> Tensor:
        y, u = _centred(y), _centred(u)
        sums = _sorted_sums if fast else _paired_sums
        value, slope = sums(y, u, torch.ones_like(y), surrogate)
        ctx.save_for_backward(y, u, slope)
        ctx.surrogate, ctx.sums = surrogate, sums
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None]:
        y, u, slope = ctx.saved_tensors
        _, of_others = ctx.sums(-y, -u, gradient, ctx.surrogate)
        return None, gradient * slope - of_others, None, None


def _centred(x: Tensor) -> Tensor:
    """Only differences count; small numbers lose less of them."""
    return x - (x.amin(-1, keepdim=True) + x.amax(-1, keepdim=True)) / 2


def _fast(n: int, wanted: bool | None) -> bool:
    return n >= FAST_FROM if wanted is None else wanted


def _blocks(shape: torch.Size) -> list[slice]:
    batch, n = shape
    rows = max(1, BLOCK_ELEMENTS // (batch * n))
    return [slice(first, first + rows) for first in range(0, n, rows)]


def _paired_sums(y: Tensor, u: Tensor, weight: Tensor, surrogate: Surrogate) -> tuple[Tensor, Tensor]:
    """Σ_j w_j max(y_i - y_j, 0) h(u_i - u_j), and the same of h', (B, n) each, through all pairs."""
    values, slopes = [], []
    for rows in _blocks(y.shape):
        above = (y[:, rows, None] - y[:, None]).clamp_min(0) * weight[:, None]
        short = (1 - u[:, rows, None] + u[:, None]).clamp_min(0)
        if surrogate == "hinge":
            values.append((above * short).sum(-1))
            slopes.append(-(above * (short > 0)).sum(-1))
        else:
            over = (short - 1).clamp_min(0)  # below 0 the square goes on as its tangent
            values.append((above * (short.square() - over.square())).sum(-1))
            slopes.append(-2 * (above * (short - over)).sum(-1))
    return torch.cat(values, 1), torch.cat(slopes, 1)


def _sorted_sums(y: Tensor, u: Tensor, weight: Tensor, surrogate: Surrogate) -> tuple[Tensor, Tensor]:
    """``_paired_sums`` by dominance: h is a power of 1 - u_i + u_j where that is positive; the quadratic one, less the
    square of u_j - u_i where that is positive."""
    order = y.argsort(-1)
    y, u, weight = (v.gather(-1, order) for v in (y, u, weight))
    falling, ranks = ranks_of(-u)
    n, squares = y.shape[-1], surrogate == "quadratic"
    shifts = [1 - u, -u] if squares else [1 - u]
    moments = [u**power for power in range(3 if squares else 2)]
    features = weight.unsqueeze(-1) * torch.stack(moments + [y * m for m in moments], -1)
    below = torch.cat([torch.searchsorted(falling, shift.contiguous()) for shift in shifts], -1)
    stop = torch.searchsorted(y, y).repeat(1, len(shifts))  # equal targets are no pair
    found = dominated_sums(ranks, features, stop, below).split(n, 1)
    value, slope = (torch.zeros_like(y) for _ in range(2))
    for sign, shift, sums in zip((1, -1), shifts, found, strict=False):
        # Σ (y_i - y_j) u_j^p, for each p
        plain, times_y = sums.unbind(-1)[: len(moments)], sums.unbind(-1)[len(moments) :]
        of = [y * a - b for a, b in zip(plain, times_y, strict=True)]
        if squares:
            value = value + sign * (shift**2 * of[0] + 2 * shift * of[1] + of[2])
            slope = slope - sign * 2 * (shift * of[0] + of[1])
        else:
            value, slope = value + shift * of[0] + of[1], slope - of[0]
    return tuple(torch.empty_like(v).scatter_(-1, order, v) for v in (value, slope))  # type: ignore[return-value]
