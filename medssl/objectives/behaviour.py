"""How a temperature makes InfoNCE behave: penalties of single negatives, tolerance, and the hard contrastive loss.

From Wang and Liu, *Understanding the behaviour of contrastive loss*, CVPR 2021. Uniformity and alignment, the other
half of the analysis, stand in ``medssl.evaluation.representation``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given, Weights, full_precision, positive
from medssl.objectives.contrastive import info_nce_anchors
from medssl.objectives.pairs import AnchorLosses, ContrastiveObjective, pair_up, unit, weighted_mean

__all__ = [
    "HardInfoNCE",
    "hard_info_nce",
    "probabilities",
    "relative_penalties",
    "similarity_gradient",
    "tolerance",
]


def probabilities(similarity: Tensor, *, temperature: float) -> Tensor:
    """``P_ij = softmax_j(s_ij / τ)``: how one-directional InfoNCE shares out the anchor i.

    Args:
        similarity: (N, N) cosine of anchors and keys, positives on the diagonal.
        temperature: τ > 0.
    """
    return (similarity / temperature).softmax(-1)


def similarity_gradient(similarity: Tensor, *, temperature: float) -> Tensor:
    r"""Derivative of every anchor's own loss L_i by its similarities, (N, N).

    .. math:: \partial L_i / \partial s_{ii} = -\frac1\tau \sum_{j \ne i} P_{ij}, \qquad
        \partial L_i / \partial s_{ij} = \frac1\tau P_{ij}

    Each row sums to 0.

    Args:
        similarity, temperature: see ``probabilities``.
    """
    shares = probabilities(similarity, temperature=temperature)
    return (shares - torch.eye(len(shares), dtype=shares.dtype, device=shares.device)) / temperature


def relative_penalties(similarity: Tensor, *, temperature: float) -> Tensor:
    r"""How the gradient is shared among the negatives, (N, N): 0 on the diagonal, rows sum to 1.

    .. math:: r_{ij} = \frac{|\partial L_i / \partial s_{ij}|}{|\partial L_i / \partial s_{ii}|}
        = \frac{e^{s_{ij}/\tau}}{\sum_{k \ne i} e^{s_{ik}/\tau}}

    A small τ spends all of it on the nearest negative.

    Args:
        similarity, temperature: see ``probabilities``; N ≥ 2.
    """
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return (similarity / temperature).masked_fill(own, -torch.inf).softmax(-1)


def tolerance(z: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine similarity of different samples of one label; NaN where no two share one.

    High: semantically alike samples stay together. Read it beside the uniformity, which a small temperature
    improves at its cost.

    Args:
        z: (N, D); normalised here.
        labels: (N,) integers.
    """
    z = unit(z)
    same = (labels.unsqueeze(1) == labels).fill_diagonal_(False)
    return (z @ z.T)[same].mean()


def hard_info_nce(
    views: Tensor,
    *,
    temperature: float,
    quantile: float,
    same_view: bool = False,
    group: Tensor | None = None,
    weights: Weights | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """InfoNCE with the nearest negatives alone: those at or above a quantile of the anchor's negatives.

    It makes the loss less sensitive to the temperature, so that a larger, more tolerant one can be used.

    Args:
        views: (K, N, D), K ≥ 2, N ≥ 2; normalised here. The mean over all ordered pairs of views.
        temperature: τ > 0.
        quantile: from 0 (all negatives) to 1 (the nearest), interpolated linearly, for each view of the keys.
        same_view, group, weights, labels: see ``info_nce``.

    >>> round(float(hard_info_nce(torch.eye(4).expand(2, 4, 4), temperature=1.0, quantile=1.0).exp()), 3)  # all tie
    2.104
    """
    with full_precision(views.device):
        pairs = pair_up(views, Given(group=group, labels=labels))
        return weighted_mean(
            info_nce_anchors(pairs, temperature=temperature, same_view=same_view, quantile=quantile), weights
        )


class HardInfoNCE(ContrastiveObjective):
    """HardInfoNCE: InfoNCE against the nearest negatives alone, which tolerates larger temperatures (2021).

    Args:
        temperature: τ; larger than that of InfoNCE.
        quantile: negatives below this quantile of the anchor's similarities are left out; 0 keeps all.
        same_view: negatives come from the anchor's own view too.
        queue: keys of earlier steps that serve as further negatives; 0 for none.
        chunk: samples whose similarities are in memory at once; 0 chooses.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.3,
        quantile: float = 0.5,
        same_view: bool = False,
        queue: int = 0,
        chunk: int = 0,
    ) -> None:
        super().__init__(queue=queue, chunk=chunk)
        positive("HardInfoNCE", temperature=temperature)
        if not 0 <= quantile <= 1:
            raise ConfigError(f"HardInfoNCE takes a quantile from 0 to 1, not {quantile}")
        self.temperature, self.quantile, self.same_view = temperature, quantile, same_view

    def anchors(self, views: Tensor, given: Given) -> AnchorLosses:
        """See ``hard_info_nce``."""
        return info_nce_anchors(
            pair_up(views, given, self.queue), temperature=self.temperature, chunk=self.chunk,
            same_view=self.same_view, quantile=self.quantile,
        )  # fmt: skip
