"""Telling the future of one view from the past of another, among the futures of a batch (TS-TCC)."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.objectives.base import full_precision, promoted

__all__ = ["temporal_contrast"]


def temporal_contrast(predictions: Tensor, future: Tensor, *, group: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Temporal contrasting of Eldele et al., *TS-TCC*, IJCAI 2021, equations 2 and 3.

    .. math:: L_i = -\frac{1}{K} \sum_k \log \frac{\exp(p_{ik} \cdot z_{ik})}{\sum_j \exp(p_{ik} \cdot z_{jk})}

    p is what the past of one view says of step k ahead, z what the encoder makes of that step in the other view. The
    released code normalises over the predictions j instead. Negatives are those of this process: others look at another
    time.

    Args:
        predictions: (N, K, D), not normalised.
        future: (N, K, D).
        group: (N,) integers; samples of one group are no negatives of each other.

    Returns:
        (N,) losses, at least float32; 0 where a sample has no negative. And the share of steps, a scalar without
        gradient, whose own future is the most likely one.

    >>> losses, hit = temporal_contrast(torch.zeros(4, 3, 2), torch.ones(4, 3, 2))
    >>> losses.exp().round().tolist()  # nothing known: log N
    [4.0, 4.0, 4.0, 4.0]
    """
    with full_precision(predictions.device):
        scores = torch.einsum("ikd,jkd->kij", promoted(predictions), promoted(future))
        if group is not None:
            other = torch.arange(len(group), device=group.device)
            same = (group.unsqueeze(1) == group) & (other.unsqueeze(1) != other)
            scores = scores.masked_fill(same, -torch.inf)
        own = scores.diagonal(dim1=1, dim2=2)
        losses = (scores.logsumexp(-1) - own).mean(0)
        return losses, (own >= scores.amax(-1)).to(losses.dtype).mean().detach()
