"""Masked slices of a volume: which are hidden, and how well what is hidden is told from the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["draw_masked_slices", "hide_slices", "masked_slice_loss"]


def draw_masked_slices(filled: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Slices to hide, ``ceil(ratio · n)`` of the n that each volume has.

    Args:
        filled: (B, n) booleans: slices that are there.
        ratio: share of them that is hidden.
        generator: on their device.

    Returns:
        (B, n) booleans.
    """
    keys = torch.rand(filled.shape, generator=generator, device=filled.device).masked_fill(~filled, 2.0)
    rank = keys.argsort(1).argsort(1)
    return rank < (ratio * filled.sum(1, keepdim=True).double()).ceil()


def hide_slices(vectors: Tensor, masked: Tensor, token: Tensor) -> Tensor:
    """(B, n, D) with the token (D,) where masked (B, n); other rows are as they were, bit for bit."""
    return torch.where(masked.unsqueeze(-1), token.to(vectors.dtype), vectors)


def masked_slice_loss(predicted: Tensor, target: Tensor, masked: Tensor, *, divisor: int | None = None) -> Tensor:
    r"""Mean squared error of predicted slice vectors, over the slices that were hidden.

    .. math:: L = \frac{1}{|\mathcal{M}| D} \sum_{(b, i) \in \mathcal{M}} \| \hat h_{bi} - \mathrm{LN}(h_{bi}) \|^2

    After Nguyen et al., *Joint self-supervised image-volume representation learning with intra-inter contrastive
    clustering*, AAAI 2023. Their code takes the mean over all slices, visible ones included, of vectors as they are,
    and divides it by the number of hidden ones: ``divisor`` does so. Here the hidden ones count alone, and targets have
    no mean and unit variance (LN without weights), so that the loss is 1 for a prediction of zeros. 0 where none is
    hidden.

    Args:
        predicted: (..., n, D).
        target: h, like ``predicted``; gets no gradient.
        masked: (..., n) booleans, the set M.
        divisor: of the released code, ``int(n · ratio)``; None takes the loss above.

    >>> vectors = torch.tensor([[[1.0, -1.0], [3.0, 5.0]]])
    >>> round(float(masked_slice_loss(torch.zeros(1, 2, 2), vectors, torch.tensor([[True, False]]))), 3)
    1.0
    """
    target = target.detach()
    if divisor is not None:
        return functional.mse_loss(predicted, target) / divisor
    error = (predicted - functional.layer_norm(target, target.shape[-1:])).square().mean(-1)
    return error.masked_fill(~masked, 0.0).sum() / masked.sum().clamp_min(1)
