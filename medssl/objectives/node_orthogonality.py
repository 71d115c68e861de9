"""Keeping the nodes of a graph apart."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.objectives.base import full_precision, promoted

__all__ = ["node_orthogonality"]


def node_orthogonality(h: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""How far nodes are from orthogonal: the regulariser of STAGIN (Kim et al., NeurIPS 2021) without its weight.

    .. math:: \| \mathrm{triu}(G / \max_j G_{ij} - I) \|_F, \quad G = H H^T

    The published code divides by the maximum of a row even where it is negative or 0; here it is at least 1e-6.

    Args:
        h: (..., N, D) nodes.
        valid: (..., N) nodes that count; None: all.

    Returns:
        (...,), at least float32; 0 for orthogonal nodes. The published term is its mean over windows, summed over
        layers, times 1e-5.

    >>> node_orthogonality(torch.eye(3))
    tensor(0.)
    """
    with full_precision(h.device):
        h = promoted(h)
        gram = h @ h.mT
        own = torch.eye(h.shape[-2], dtype=gram.dtype, device=h.device)
        if valid is not None:
            gram = torch.where(valid.unsqueeze(-1) & valid.unsqueeze(-2), gram, own)
        apart = (gram / gram.amax(-1, keepdim=True).clamp_min(1e-6) - own).triu()
        norm: Tensor = torch.linalg.matrix_norm(apart)
        return norm
