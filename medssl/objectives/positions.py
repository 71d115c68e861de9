"""RASA: directions of feature maps that tell where a cell lies, and how to take them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.base import full_precision, positive

__all__ = [
    "PositionMoments", "merged_removal", "moments", "position_basis", "position_component",
    "position_loss", "position_targets", "predicted_positions", "removal", "removal_from_moments",
]  # fmt: skip

SMALLEST = 1e-6  # of a direction's part that others do not hold, below which it is dropped


class PositionMoments(NamedTuple):
    """All that ridge regression of positions needs of any number of cells with features x and coordinates y.

    Attributes:
        cells: (), their number n.
        features: (D,), Σ x.
        products: (D, D), Σ x xᵀ.
        cross: (D, p), Σ x (y - ½)ᵀ; ½ is the mean of every coordinate over a grid.
    """

    cells: Tensor
    features: Tensor
    products: Tensor
    cross: Tensor


def position_targets(
    grid: Sequence[int], *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Coordinates of the cells of a grid, each axis from 0 to 1 for itself; ½ along an axis of one cell.

    Args:
        grid: cells an axis, one to three axes.
        device: of the result.
        dtype: of the result.

    Returns:
        (P, p), cells in raster order.

    >>> position_targets((2, 3)).tolist()[:4]
    [[0.0, 0.0], [0.0, 0.5], [0.0, 1.0], [1.0, 0.0]]
    """
    axes = [
        torch.linspace(0, 1, g, device=device, dtype=dtype)
        if g > 1
        else torch.full((1,), 0.5, device=device, dtype=dtype)
        for g in grid
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def predicted_positions(features: Tensor, weights: Tensor) -> Tensor:
    """``sigmoid(x Wᵀ)``: (..., D) and W (p, D) → (..., p)."""
    return functional.linear(features, weights).sigmoid()


def position_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of coordinates (..., P, p) against (P, p)."""
    return (predicted - targets).square().mean()


def position_basis(weights: Tensor) -> Tensor:
    """Orthonormal directions of the rows of W, the first row's first (Gram-Schmidt, which is QR for two rows).

    A row is dropped where less than 1e-6 of it is left once the directions before are taken out.

    Args:
        weights: W (p, D).

    Returns:
        U (r, D), r ≤ p.
    """
    basis = weights.new_zeros(0, weights.shape[-1])
    for row in functional.normalize(weights, dim=-1, eps=torch.finfo(weights.dtype).tiny):
        rest = row - (row @ basis.T) @ basis
        rest = rest - (rest @ basis.T) @ basis  # again: the first time leaves rounding of what it took
        if bool(rest.norm() > SMALLEST):
            basis = torch.cat([basis, (rest / rest.norm()).unsqueeze(0)])
    return basis


def position_component(features: Tensor, weights: Tensor) -> Tensor:
    """``x Uᵀ U``, the part of features (..., D) in the row space of W (p, D)."""
    basis = position_basis(weights)
    return functional.linear(features, basis) @ basis


def removal(weights: Tensor) -> Tensor:
    """``I - Uᵀ U`` (D, D), which takes the row space of W (p, D) out of features: ``x @ removal(W)``."""
    basis = position_basis(weights)
    return torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device) - basis.T @ basis


def merged_removal(rounds: Sequence[Tensor], width: int) -> Tensor:
    """One map (D, D) that does what removing each round's W (p, D) in turn does: ``x @ Π_t (I - U_tᵀ U_t)``."""
    merged = torch.eye(width)
    for weights in rounds:
        merged = merged.to(weights) @ removal(weights)
    return merged


def moments(maps: Tensor) -> PositionMoments:
    """The moments of maps (B, D, *grid), in float32 at least."""
    with full_precision(maps.device):
        x = maps.detach().flatten(2)
        x = x if x.dtype == torch.float64 else x.float()
        y = position_targets(maps.shape[2:], device=x.device, dtype=x.dtype) - 0.5
        rows = x.transpose(1, 2).flatten(0, 1)
        cells = torch.tensor(float(len(rows)), device=x.device, dtype=x.dtype)
        return PositionMoments(cells, rows.sum(0), rows.T @ rows, x.sum(0) @ y)


def removal_from_moments(given: PositionMoments, *, rounds: int, ridge: float = 1.0) -> Tensor:
    r"""The merged map of several rounds, each of which predicts coordinates by ridge regression on what is left.

    .. math:: W_t = C_t^T (S_t + \lambda I)^{-1}, \quad S_t = P_t^T S P_t, \quad C_t = P_t^T C, \quad
        P_{t+1} = P_t (I - U_t^T U_t)

    S is the covariance of features, C that of features with coordinates, λ ``ridge`` times the mean variance. The
    closed form of the published rounds, which train W by gradient descent (Venkataramanan et al., *Franca*, 2025). It
    stops early along an axis where nothing is left to predict.

    A small ridge takes out the directions that predict best, a large one those along which the mean moves with
    position; the latter needs fewer rounds: of a random network, whose map explained 54 % of the variance of position,
    three rounds left 5 % with a ridge of 0.001 and 1 % with 1.

    Args:
        given: see ``PositionMoments``.
        rounds: at most (22 and 9 in the paper); each takes out as many directions as there are axes.
        ridge: above 0.

    Returns:
        P (D, D), symmetric.
    """
    positive("ridge regression of positions", ridge=ridge)
    cells, features, products, cross = (x.to("cpu", torch.float64) for x in given)  # not every device has float64
    cells = cells.clamp_min(1)
    mean, cross = features / cells, cross / cells
    covariance = products / cells - torch.outer(mean, mean)
    identity = torch.eye(len(mean), dtype=torch.float64)
    strength = (ridge * covariance.trace() / len(mean)).clamp_min(torch.finfo(torch.float64).tiny)
    least, kept = SMALLEST * cross.norm(dim=0), identity
    for _ in range(rounds):
        left = kept.T @ cross
        left = torch.where(left.norm(dim=0) > least, left, 0.0)
        if not bool(left.any()):
            break
        weights = torch.linalg.solve(kept.T @ covariance @ kept + strength * identity, left).T
        kept = kept @ removal(weights)
    return kept.to(given.products)
