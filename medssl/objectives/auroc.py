"""Area under the receiver operating characteristic on the device, for diagnostics of a step."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["auroc"]


@torch.no_grad()
def auroc(scores: Tensor, positive: Tensor, counted: Tensor | None = None) -> Tensor:
    """Chance that a positive scores above a negative, ties counting one half (Mann and Whitney), by sorting.

    Args:
        scores: any shape, finite where they count.
        positive: booleans of that shape.
        counted: booleans of that shape; None: all.

    Returns:
        Scalar float32 from 0 to 1; 0.5 where one of both is missing.

    >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True]))
    tensor(0.8750)
    """
    y = positive.flatten()
    w = torch.ones_like(y) if counted is None else counted.flatten()
    ordered, order = scores.detach().flatten().sort()
    y, w = y[order], w[order]
    negatives = (w & ~y).cumsum(0)  # whole numbers: exact, however many
    place = torch.arange(len(y), device=y.device)
    step = ordered[1:] != ordered[:-1]
    edge = torch.ones(1, dtype=torch.bool, device=y.device)
    first = torch.where(torch.cat((edge, step)), place, 0).cummax(0).values  # of the scores that are equal to each
    last = torch.where(torch.cat((step, edge)), place, len(y)).flip(0).cummin(0).values.flip(0)
    below, upto = negatives[first] - (w & ~y)[first].long(), negatives[last]
    wins = torch.where(w & y, below + upto, 0).sum()  # twice
    pairs = (w & y).sum() * negatives[-1]
    return torch.where(pairs > 0, wins / (2 * pairs.clamp_min(1)), 0.5).float()
