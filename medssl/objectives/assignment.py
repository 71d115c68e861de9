"""Soft cluster assignments: equal use by Sinkhorn-Knopp or a moving centre, and how well other views predict them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.base import promoted
from medssl.objectives.gather import gather_views
from medssl.objectives.pairs import unit

__all__ = [
    "assign", "assign_together", "assignment_logs", "between_views", "centred", "cosine_scores", "cross_entropies",
    "new_prototypes", "prediction_loss", "refuse_shares", "sinkhorn", "start_head", "still", "updated_centre",
]  # fmt: skip


def sinkhorn(logits: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    r"""Optimal transport of samples to prototypes that uses all prototypes equally (Sinkhorn-Knopp), without gradient.

    .. math:: q_{mk} \propto e^{x_{mk}/\epsilon + u_k}, \quad
        u_k = -\log K - \log \sum_m e^{x_{mk}/\epsilon + v_m}, \quad
        v_m = -\log M - \log \sum_k e^{x_{mk}/\epsilon + u_k}

    u and v in turn, then rows that sum to 1: the published alternate scaling of columns and rows (Caron et al.,
    *Unsupervised learning of visual features by contrasting cluster assignments*, NeurIPS 2020) in the log domain, so
    that nothing overflows however small ε is. One sample alone gets 1/K everywhere.

    Args:
        logits: x (..., M, K) of M samples and K prototypes; every leading index is a problem of its own. Finite: a NaN
            spreads over its problem.
        epsilon: ε > 0, or a teacher's temperature; small values make q sharp.
        iterations: at least 1.

    Returns:
        q (..., M, K), float32 (float64 for float64 input), rows sum to 1, columns nearly to M/K.

    >>> sinkhorn(torch.eye(2), epsilon=0.05, iterations=3).round(decimals=3)
    tensor([[1., 0.],
            [0., 1.]])
    """
    m, k = logits.shape[-2:]
    scaled = promoted(logits.detach()) / epsilon
    v = scaled.new_zeros(*scaled.shape[:-1], 1)
    u = scaled.new_zeros(*scaled.shape[:-2], 1, k)
    for _ in range(iterations):
        u = -math.log(k) - (scaled + v).logsumexp(-2, keepdim=True)
        v = -math.log(m) - (scaled + u).logsumexp(-1, keepdim=True)
    return (scaled + u).softmax(-1)


def assign(logits: Tensor, *, epsilon: float, iterations: int, earlier: Tensor | None = None) -> Tensor:
    """``sinkhorn`` over the samples of all processes and of earlier steps; the rows of this process' samples.

    Args:
        logits: (P, N, K), P problems.
        epsilon: see ``sinkhorn``.
        iterations: see ``sinkhorn``.
        earlier: (P, L, K) logits of further samples, the same in all processes, which take their share of prototypes.

    Returns:
        (P, N, K).
    """
    joined, offset, _ = gather_views(logits.detach())
    everything = joined if earlier is None else torch.cat([joined, earlier.detach()], dim=1)
    return sinkhorn(everything, epsilon=epsilon, iterations=iterations)[:, offset : offset + logits.shape[1]]


def assign_together(logits: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """``assign`` with all views of all samples in one problem: (G, N, K) → (G, N, K)."""
    together = assign(logits.flatten(0, 1).unsqueeze(0), epsilon=epsilon, iterations=iterations)
    return together.view_as(logits)


def centred(logits: Tensor, centre: Tensor, *, temperature: float) -> Tensor:
    """``softmax((x - c) / τ)`` without gradient: the centre keeps single prototypes from taking everything.

    Args:
        logits: x (..., K), raw.
        centre: c (K,), a moving mean of raw logits.
        temperature: τ > 0.
    """
    return ((logits.detach() - centre) / temperature).softmax(-1)


def updated_centre(centre: Tensor, logits: Tensor, *, momentum: float) -> Tensor:
    """``m · c + (1 - m) · mean(x)`` over the samples of all processes; unchanged where the mean is not finite.

    Args:
        centre: c (K,).
        logits: x (..., K), raw; every process holds the same number.
        momentum: m, 0 to 1.
    """
    mean = gather_views(logits.detach().flatten(0, -2).mean(0).view(1, 1, -1)).views[0].mean(0)
    return torch.where(mean.isfinite().all(), torch.lerp(mean.to(centre.dtype), centre, momentum), centre)


def cross_entropies(scores: Tensor, assignments: Tensor, *, temperature: float) -> Tensor:
    """How badly each of V sets of scores predicts each of A assignments: mean over samples of ``-Σ_k q log p``.

    Args:
        scores: (V, N, K), raw; ``p = softmax(scores / τ)``.
        assignments: q (A, N, K), rows that sum to 1; gets no gradient.
        temperature: τ > 0.

    Returns:
        (A, V).
    """
    predicted = (scores / temperature).log_softmax(-1)
    return -assignments.detach().flatten(1) @ predicted.flatten(1).T / scores.shape[1]


def between_views(pairs: Tensor) -> Tensor:
    """Mean over all (a, v), a ≠ v, of (A, V): the first A views with all V views, none with itself."""
    own = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(own, 0).sum() / (pairs.numel() - min(pairs.shape))


def prediction_loss(scores: Tensor, assignments: Tensor, *, temperature: float) -> Tensor:
    r"""Mean cross-entropy of predicting the assignment of one view from another.

    .. math:: L = \frac{1}{A(V-1)} \sum_{a=1}^{A} \sum_{v \ne a} \frac{1}{N} \sum_n
        -\sum_k q_{ank} \log \mathrm{softmax}(s_{vn} / \tau)_k

    The loss of SwAV, of DINO, and of DINOv2's global and local terms together. It is log K where scores are uniform.

    Args:
        scores: s (V, N, K) of all views, raw, V ≥ 2.
        assignments: q (A, N, K) of the first A ≤ V views.
        temperature: τ > 0.

    >>> equal, anything = torch.zeros(3, 4, 8), torch.eye(8)[:4].expand(2, 4, 8)
    >>> round(float(prediction_loss(equal, anything, temperature=0.1).exp()), 3)  # K
    8.0
    """
    return between_views(cross_entropies(scores, assignments, temperature=temperature))


def new_prototypes(count: int, width: int) -> nn.Parameter:
    """(K, D) directions, uniform on the sphere."""
    return nn.Parameter(unit(torch.randn(count, width)))


def start_head(head: nn.Module) -> nn.Module:
    """Linear layers of a head as DINO starts them: small normal weights that keep the scale, no biases.

    0.02, the published deviation, is that for the published 2048 features in: one over the square root.
    """
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return head


def cosine_scores(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """(..., D) and (K, D) → (..., K), in [-1, 1].

    Normalising the prototypes here is what a weight-normed layer of gain 1 does, and what SwAV does in place.
    """
    return functional.linear(unit(embeddings), unit(prototypes))


def still(weights: Tensor, when: bool) -> Tensor:
    """The weights, with a gradient of 0 while ``when``; of 0, because data-parallel training expects one for each."""
    return torch.lerp(weights, weights.detach(), 1.0) if when else weights


@torch.no_grad()
def assignment_logs(loss: Tensor, scores: Tensor, assignments: Tensor) -> dict[str, Tensor]:
    """What tells collapse from learning.

    ``loss_of_uniform``: the loss over log K; it stays at 1 where nothing is learned. ``certainty``: mean largest share
    of an assignment, 1/K to 1. ``prototypes_used``: share of prototypes that are the nearest of some embedding.
    """
    k = scores.shape[-1]
    used = torch.zeros(k, device=scores.device).index_fill_(0, scores.argmax(-1).flatten(), 1.0)
    return {
        "loss_of_uniform": loss / math.log(k),
        "certainty": assignments.amax(-1).mean(),
        "prototypes_used": used.mean(),
    }


def refuse_shares(name: str, **values: float) -> None:
    """Refuse settings outside 0 to 1.

    Raises:
        ConfigError: names the first that is.
    """
    for key, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} takes a {key.replace('_', ' ')} from 0 to 1, not {value}")
