"""DISCOVR: masked self-distillation of class tokens, and clusters of an image teacher's tokens told by a video decoder.

Mishra et al., *Self-supervised learning of echocardiographic video representations via online cluster distillation*,
NeurIPS 2025. What the released code does otherwise than intended stands behind arguments named or valued ``reference``.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.assignment import assign, centred, cross_entropies, updated_centre
from medssl.objectives.base import full_precision, promoted
from medssl.objectives.masked_reconstruction import patch_targets
from medssl.objectives.pairs import unit

__all__ = [
    "Alignment", "Clusters", "Distilled", "Targets", "cluster_distillation", "in_published_order",
    "masked_self_distillation", "moved_centre", "random_tokens", "standardised_frames", "teacher_tokens", "usage",
]  # fmt: skip

Alignment = Literal["aligned", "reference"]
"""A student's token beside the teacher's of the same place, or beside the one that the released code takes."""

Targets = Literal["soft", "hard"]
"""Assignments as Sinkhorn-Knopp gives them (paper), or their largest entry alone (released code)."""


class Distilled(NamedTuple):
    """What ``masked_self_distillation`` finds.

    Attributes:
        loss: scalar.
        shares: P (B, K), the teacher's assignments, rows sum to 1; no gradient.
    """

    loss: Tensor
    shares: Tensor


class Clusters(NamedTuple):
    """What ``cluster_distillation`` finds.

    Attributes:
        loss: scalar.
        scores: (M, K), cosines of the student's tokens with the prototypes; no gradient.
        assignments: q (M, K), those of the teacher's tokens, rows sum to 1; no gradient.
    """

    loss: Tensor
    scores: Tensor
    assignments: Tensor


def masked_self_distillation(
    scores: Tensor, teacher: Tensor, centre: Tensor, *, temperature: float, teacher_temperature: float
) -> Distilled:
    r"""What a teacher says of a whole input, told by a student from V masked versions of it.

    .. math:: L = \frac{1}{VB} \sum_{v,b} -\sum_k P_{bk} \log \mathrm{softmax}(u_{vb} / \tau)_k, \quad
        P = \mathrm{softmax}((t - c) / \tau_t)

    The loss of both branches, frames and clips. It is log K where the student's scores are uniform.

    Args:
        scores: u (V, B, K) of the student's class tokens, raw.
        teacher: t (B, K), raw; no gradient.
        centre: c (K,); see ``moved_centre``.
        temperature: τ > 0, of the student; 0.1 published.
        teacher_temperature: τ_t > 0; 0.04, rising to 0.07.
    """
    with full_precision(scores.device):
        shares = centred(promoted(teacher), centre, temperature=teacher_temperature)
        losses = cross_entropies(promoted(scores), shares.unsqueeze(0), temperature=temperature)
    return Distilled(losses.mean(), shares)


def moved_centre(
    centre: Tensor, teacher: Tensor, shares: Tensor, *, momentum: float, reference: bool = False
) -> Tensor:
    """The centre after a step: ``γ c + (1 - γ) mean(t)`` over the raw scores of all processes, as in DINO.

    The released code takes the mean of the *shares*, which is near 1/K everywhere, so that its centre does nothing.

    Args:
        centre: c (K,).
        teacher: t (B, K), raw.
        shares: (B, K), see ``Distilled``.
        momentum: γ, 0 to 1; 0.9, the released code runs with 0.8.
        reference: as released.
    """
    return updated_centre(centre, shares if reference else teacher, momentum=momentum)


def standardised_frames(tokens: Tensor) -> Tensor:
    """Each channel of a frame over its tokens: ``(f - mean) / (sd + 1e-6)``, in at least float32, without gradient.

    Standard deviations are unbiased. A frame of a single token, and a channel that is the same everywhere, become 0.

    Args:
        tokens: f (B, F, L, D), L tokens of each of F frames, without class tokens.

    Returns:
        (B, F, L, D).
    """
    frames = tokens.flatten(2)  # a frame is standardised as VideoMAE does a patch: tokens are its pixels
    return patch_targets(frames, channels=tokens.shape[-1], target="token_channel", min_token_std=0.0).view_as(tokens)


def teacher_tokens(tokens: Tensor, tubelet: int, alignment: Alignment = "aligned") -> Tensor:
    """The teacher's token beside each of the student's, of which one covers ``tubelet`` frames.

    ``aligned``: tubelet j takes those of its first frame. ``reference``: every ``tubelet``-th token of all frames in a
    row, so that token i stands beside patch ``i · tubelet mod L`` of frame ``i · tubelet // L``.

    Args:
        tokens: (B, F, L, D) of all frames, F a multiple of the tubelet.
        tubelet: frames.
        alignment: see above.

    Returns:
        (B, F / tubelet · L, D), in raster order where aligned.

    >>> frame, patch = torch.meshgrid(torch.arange(4), torch.arange(3), indexing="ij")
    >>> tokens = (10 * frame + patch).view(1, 4, 3, 1)
    >>> teacher_tokens(tokens, 2).flatten().tolist(), teacher_tokens(tokens, 2, "reference").flatten().tolist()
    ([0, 1, 2, 20, 21, 22], [0, 2, 11, 20, 22, 31])
    """
    if alignment == "aligned":
        return tokens[:, ::tubelet].flatten(1, 2)
    return tokens.flatten(1, 2)[:, ::tubelet]


def in_published_order(tokens: Tensor, hidden: Tensor) -> Tensor:
    """Tokens in the order in which the released decoder leaves them: visible ones first, then hidden ones.

    Args:
        tokens: (B, L, D) in raster order.
        hidden: (B, L) booleans.
    """
    order = hidden.to(torch.uint8).argsort(stable=True, dim=1)
    return tokens.gather(1, order.unsqueeze(-1).expand_as(tokens))


def random_tokens(count: int, kept: int, clips: int, generator: torch.Generator) -> Tensor:
    """Different places of each clip, in raster order: (clips, kept) int64 below ``count``.

    Args:
        count: L, places of a clip.
        kept: places to draw, at most L.
        clips: B.
        generator: of the draws; the places are made on its device.

    >>> random_tokens(5, 5, 1, torch.Generator())
    tensor([[0, 1, 2, 3, 4]])
    """
    noise = torch.rand(clips, count, generator=generator, device=generator.device)
    return noise.argsort(1)[:, :kept].sort(1).values


def cluster_distillation(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor,
    *,
    epsilon: float = 0.05,
    iterations: int = 10,
    temperature: float = 0.1,
    targets: Targets = "soft",
    symmetric: bool = False,
) -> Clusters:
    r"""Semantic cluster distillation: the teacher's assignment of each token, told from the student's.

    .. math:: L = \frac{1}{M} \sum_m -\sum_k q_{mk} \log \mathrm{softmax}(\cos(z_m, C_k) / \tau)_k, \quad
        q = \mathrm{Sinkhorn}(\cos(f_m, C_k) / \epsilon)

    Assignments use all prototypes equally over the tokens of all processes. 0 for a single token, whose assignment
    would tell nothing.

    Args:
        student: z (M, D), not normalised.
        teacher: f (M, D), not normalised; no gradient.
        prototypes: C (K, D), unit vectors.
        epsilon: ε > 0 of the assignments.
        iterations: of Sinkhorn-Knopp, at least 1.
        temperature: τ > 0 of the predictions.
        targets: see ``Targets``.
        symmetric: add the same with both sides exchanged; its gradients reach the prototypes, and neither side's
            tokens. The released code adds its value, without any gradient.
    """
    with full_precision(student.device):
        own = unit(promoted(student)) @ prototypes.T
        known = unit(promoted(teacher.detach())) @ (prototypes if symmetric else prototypes.detach()).T
        sides = [(own, known), (known, own)][: 1 + symmetric]
        found = [assign(other.unsqueeze(0), epsilon=epsilon, iterations=iterations)[0] for _, other in sides]
        losses = [_told(scores, q, temperature, targets) for (scores, _), q in zip(sides, found, strict=True)]
        loss = torch.stack(losses).sum() if len(own) > 1 else 0 * own.sum()
        return Clusters(loss, own.detach(), found[0])


def _told(scores: Tensor, assignments: Tensor, temperature: float, targets: Targets) -> Tensor:
    """Mean cross-entropy of assignments (M, K), told from scores (M, K)."""
    return functional.cross_entropy(scores / temperature, assignments if targets == "soft" else assignments.argmax(-1))


@torch.no_grad()
def usage(shares: Tensor) -> dict[str, Tensor]:
    """What tells collapse from learning, as shares of log K.

    ``entropy``: mean entropy of an assignment; near 1 the teacher says nothing. ``spread``: entropy of the mean
    assignment; near 0 it says the same of everything.

    Args:
        shares: (B, K), rows that sum to 1.

    >>> {name: round(float(value), 2) for name, value in usage(torch.eye(4)).items()}
    {'entropy': 0.0, 'spread': 1.0}
    """

    def entropy(p: Tensor) -> Tensor:
        nats: Tensor = torch.special.entr(p).sum(-1)
        return nats / math.log(p.shape[-1])

    return {"entropy": entropy(shares).mean(), "spread": entropy(shares.mean(0))}
