"""Blur and loss of resolution as one small matrix an axis and row: batched, without a convolution for each strength."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["apply_along", "blur_matrix", "coarse_matrix"]


def blur_matrix(sd: Tensor, length: int) -> Tensor:
    """Gaussian smoothing with renormalised edges.

    Args:
        sd: (N,) standard deviation in voxels; 0 gives the identity.
        length: voxels along the axis.

    Returns:
        (N, length, length), rows sum to 1.
    """
    place = torch.arange(length, device=sd.device, dtype=torch.float32)
    squared = (place[:, None] - place[None, :]).square()
    weights = torch.exp(-squared / (2 * sd.float().clamp_min(1e-3).square()).view(-1, 1, 1))
    return weights / weights.sum(-1, keepdim=True)


def coarse_matrix(factor: Tensor, length: int) -> Tensor:
    """Sampling at the nearest voxel every ``factor`` voxels, then linear interpolation back.

    Args:
        factor: (N,) ≥ 1; 1 gives the identity.
        length: voxels along the axis.

    Returns:
        (N, length, length), rows sum to 1.
    """
    factor = factor.float().view(-1, 1)
    place = torch.arange(length, device=factor.device, dtype=torch.float32)
    last = (length / factor).floor().clamp_min(1) - 1
    position = ((place + 0.5) / factor - 0.5).clamp_min(0).minimum(last)
    lower = position.floor()
    share = position - lower
    matrix = torch.zeros(len(factor), length, length, device=factor.device)
    for sample, weight in ((lower, 1 - share), ((lower + 1).minimum(last), share)):
        source = ((sample + 0.5) * factor - 0.5).round().clamp(0, length - 1).long()
        matrix.scatter_add_(2, source.unsqueeze(-1), weight.unsqueeze(-1))
    return matrix


def apply_along(x: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Apply one matrix along each spatial axis.

    Args:
        x: (N, C, Z, Y, X).
        matrices: (N, Z, Z), (N, Y, Y) and (N, X, X).
    """
    along_z, along_y, along_x = matrices
    x = (along_z.unsqueeze(1) @ x.flatten(3)).view_as(x)
    x = along_y[:, None, None] @ x
    return x @ along_x.mT[:, None, None]
