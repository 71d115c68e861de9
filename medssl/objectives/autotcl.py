"""What AutoTCL (ICLR 2024) is made of: the gate over time, its losses, and the losses of the encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.base import full_precision, promoted

__all__ = [
    "kept_beyond",
    "local_contrast",
    "max_mean_discrepancy",
    "one_way_info_nce",
    "relaxed_gate",
    "sampled_variation",
    "straight_through",
    "temporal_variation",
]

SEGMENTS = 16
KERNELS = 5
EPS = 1e-12


def relaxed_gate(
    logits: Tensor, noise: Tensor | None, *, bias: float = 0.05, stretch: float = 0.02, temperature: float = 1.0
) -> Tensor:
    r"""A relaxed Bernoulli variable, stretched so that it can be exactly 0.

    .. math:: \epsilon = (2b - 1) u + (1 - b),\quad
              a = \sigma\big((\log \epsilon - \log(1 - \epsilon) + w) / \tau\big),\quad
              m = \mathrm{clip}\big(a (1 + \gamma) - \gamma, 0, 1\big)

    Args:
        logits: w, any shape. (The published code gives a probability here: without noise it then stays within 0.50 and
            0.73.)
        noise: u, uniform on [0, 1), of that shape; None: no noise.
        bias: b, from above 0 to below 0.5; keeps the noise finite.
        stretch: γ, from 0.
        temperature: τ > 0; near 0 the gate is a Bernoulli variable of probability σ(w).

    Returns:
        m in [0, 1], at least float32.

    >>> relaxed_gate(torch.tensor([-9.0, 0.0, 9.0]), None, stretch=0.0)
    tensor([1.2339e-04, 5.0000e-01, 9.9988e-01])
    """
    with full_precision(logits.device):
        w = promoted(logits)
        if noise is not None:
            eps = (2 * bias - 1) * noise.to(w.dtype) + (1 - bias)
            w = w + eps.log() - torch.log1p(-eps)
        return (torch.sigmoid(w / temperature) * (1 + stretch) - stretch).clamp(0, 1)


def straight_through(gate: Tensor) -> Tensor:
    """0 below 0.5, 1 above (0.5 itself stays), with the gradient of the gate.

    >>> straight_through(torch.tensor([0.2, 0.5, 0.7]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    hard = (torch.sign(gate.detach() - 0.5) + 1) / 2
    return hard + (gate - gate.detach())


def one_way_info_nce(
    anchors: Tensor, keys: Tensor, *, temperature: float = 1.0, first: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Originals are compared with all views, not vice versa: the mean of -log softmax of the own view.

    Args:
        anchors: (B, D) of the originals; normalised here.
        keys: (M, D) of the views, likewise.
        temperature: τ > 0.
        first: row of the first anchor's own view among the keys.

    Returns:
        Scalar, 0 for a single row; and the (B, M) similarities over τ, without gradient.
    """
    with full_precision(anchors.device):
        rows, columns = (functional.normalize(promoted(x), dim=-1, eps=EPS) for x in (anchors, keys))
        logits = rows @ columns.mT / temperature
        itself = torch.arange(len(logits), device=logits.device) + first
        return functional.cross_entropy(logits, itself), logits.detach()


def max_mean_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Biased squared discrepancy of two samples under five Gaussian kernels; 0 where they are the same.

    ``mean(K_xx + K_yy - K_xy - K_yx)`` with ``K = Σ_k exp(-d² / (2^(k-2) w))``, k = 0…4, and w the mean of d² over all
    pairs of different rows of both samples, without gradient.

    Args:
        first: (B, D), not normalised. Fewer than 8 rows say little.
        second: (B, D).
    """
    with full_precision(first.device):
        rows = torch.cat([promoted(first), promoted(second)])
        count = len(rows)
        square = (rows.unsqueeze(1) - rows.unsqueeze(0)).square().sum(-1)
        width = square.detach().sum() / (count * count - count)
        scales = (2.0 ** (torch.arange(KERNELS, device=rows.device) - KERNELS // 2)).to(rows.dtype)
        kernel = torch.exp(-square.unsqueeze(-1) / (width * scales).clamp_min(EPS)).sum(-1)
        sign = torch.ones_like(rows[:, 0])
        sign[len(first) :] = -1
        discrepancy: Tensor = sign @ kernel @ sign / len(first) ** 2
        return discrepancy


def local_contrast(steps: Tensor, start: int, *, temperature: float = 1.0) -> Tensor:
    r"""Neighbouring stretches of a series are alike, distant ones are not.

    The unit vectors of the steps are pooled by their maximum over 16 stretches of ⌊T/16⌋ steps. The next stretch is the
    positive (of the last one the one before); negatives are all but itself and both its neighbours. The first and the
    last leave out the next but one as well, so that each has 13.

    Args:
        steps: (B, T, D).
        start: first step of the first stretch, 0 to T - 16 ⌊T/16⌋.
        temperature: τ > 0.

    Returns:
        (B,) the mean of -log softmax over the stretches of each series; zeros for fewer than 16 steps. (The published
        code takes the first series of a batch alone.)
    """
    length = steps.shape[1] // SEGMENTS
    if length == 0:
        return promoted(steps).new_zeros(len(steps))
    with full_precision(steps.device):
        unit = functional.normalize(promoted(steps[:, start : start + SEGMENTS * length]), dim=-1, eps=EPS)
        pooled = unit.unflatten(1, (SEGMENTS, length)).amax(2)
        similarity = pooled @ pooled.mT / temperature
        place = torch.arange(SEGMENTS, device=steps.device)
        apart = (place.unsqueeze(1) - place).abs()
        negative = apart > 1
        for end, next_but_one in ((0, 2), (-1, -3)):
            negative[end, next_but_one] = False
        positive = (place + 1).clamp_max(SEGMENTS - 1)
        positive[-1] = SEGMENTS - 2
        told = similarity.gather(2, positive.view(1, -1, 1).expand(len(steps), -1, 1)).squeeze(2)
        others = similarity.masked_fill(~negative, -math.inf).logsumexp(2)
        losses: Tensor = (torch.logaddexp(told, others) - told).mean(1)
        return losses


def kept_beyond(probability: Tensor, share: float) -> Tensor:
    """How much more than ``share`` is kept, ReLU(mean - share): the mean over samples, steps and channels.

    Args:
        probability: (B, T, C) in [0, 1]. (Published: the sum over channels; give that with C = 1 for parity.)
        share: that may be kept for nothing (0.4).
    """
    return functional.relu(promoted(probability).mean() - share)


def temporal_variation(probability: Tensor) -> Tensor:
    """Mean of |p_t - p_{t-1}|, so that the gate keeps stretches and not single steps.

    Args:
        probability: (B, T, C), T ≥ 2.
    """
    return promoted(probability).diff(dim=1).abs().mean()


def sampled_variation(probability: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The published regulariser, at drawn steps s₀ and s₁ that all samples share.

    ``|p_{s0} - p_{s0-1}| + |p_{s0} - p_{s0+1}|``, and ``|p_{s0} - p_{s1}|`` where s₁ lies more than one step after s₀,
    else 1 minus that. (The condition looks inverted; ``temporal_variation`` is meant to replace it.)

    Args:
        probability: (B, T, C).
        first: (S,) int64, from 1 to T - 2.
        second: (S,) likewise.
    """
    p = promoted(probability)
    here = p[:, first]
    across = (here - p[:, second]).abs()
    far = (second - first > 1).view(1, -1, 1)
    terms = (here - p[:, first - 1]).abs() + (here - p[:, first + 1]).abs() + torch.where(far, across, 1 - across)
    return terms.mean()
