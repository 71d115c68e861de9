"""Contrast of one window's embeddings in three frames, and mappings from one frame's embedding to another's.

*Learning Without Augmenting: Unsupervised Time Series Representation Learning via Frame Projections*, NeurIPS 2025.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medssl.objectives.base import Given, full_precision, promoted
from medssl.objectives.contrastive import anchor_losses, contrast
from medssl.objectives.pairs import pair_up

__all__ = ["FrameContrast", "MapReduction", "frame_contrast", "mapping_error"]

MapReduction = Literal["mean", "paper", "code"]
"""Mean over coordinates and items; sum over coordinates (D times that); mean divided by the number of items."""


class FrameContrast(NamedTuple):
    """What ``frame_contrast`` finds.

    Attributes:
        pairs: (K (K - 1) / 2,) NT-Xent of the frames (0, 1), (0, 2), …, (1, 2), …; their sum is the loss.
        accuracy: detached scalar, share of embeddings whose own in all other frames are nearer than any other item's.
    """

    pairs: Tensor
    accuracy: Tensor


def frame_contrast(views: Tensor, *, temperature: float = 0.15) -> FrameContrast:
    r"""Symmetric NT-Xent of every pair of frames, from one set of similarities.

    .. math:: NT(a, b) = \frac{1}{2N} \sum_i \Big[ \log \sum_{k \ne i} e^{s_{ik}/\tau} - s_{i,p(i)}/\tau \Big]

    over the 2N embeddings of frames a and b, as ``info_nce`` of the two. In several processes the keys are all of them.

    Args:
        views: (K, N, D) embeddings of K ≥ 2 frames of N ≥ 2 items, normalised here.
        temperature: τ > 0.

    Raises:
        ValueError: fewer than 2 frames or 2 items.

    >>> [round(float(pair.exp()), 3) for pair in frame_contrast(torch.ones(3, 4, 8)).pairs]  # all equal: 2N - 1
    [7.0, 7.0, 7.0]
    """
    if views.ndim != 3 or views.shape[0] < 2:
        raise ValueError(f"needs at least 2 frames, as (K, N, D); got {tuple(views.shape)}")
    with full_precision(views.device):
        pairs = pair_up(views, Given())
        terms = contrast(pairs, temperature=temperature)
        losses = terms.energy - terms.target  # (K, N, K); all samples have a negative
        each = losses.mean(1)
        accuracy = anchor_losses(pairs, losses, terms.nearest).logs["pair_accuracy"]
        both = [(each[a, b] + each[b, a]) / 2 for a, b in combinations(range(len(views)), 2)]
        return FrameContrast(torch.stack(both), accuracy)


def mapping_error(predicted: Tensor, target: Tensor, *, reduction: MapReduction = "mean") -> Tensor:
    """Absolute difference of a mapped embedding and the one it stands for, as a scalar; gradients reach both.

    Args:
        predicted: (N, D).
        target: (N, D).
        reduction: ``mean`` over items and coordinates; ``paper``: sum over coordinates, mean over items (Eq. 6);
            ``code``: ``mean`` once more divided by N, which at N = 1,024 and D = 128 is the paper's over 131,072.

    >>> one, other = torch.zeros(2, 4), torch.ones(2, 4)
    >>> [float(mapping_error(one, other, reduction=r)) for r in ("mean", "paper", "code")]
    [1.0, 4.0, 0.5]
    """
    with full_precision(predicted.device):
        error = (promoted(predicted) - promoted(target)).abs().mean()
        return error * {"mean": 1.0, "paper": float(target.shape[-1]), "code": 1 / len(target)}[reduction]
