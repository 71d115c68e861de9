"""Redundancy reduction: views agree and the dimensions of an embedding do not repeat each other; no negatives."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.joint import JointEmbedding
from medssl.methods.pretext import Pretext
from medssl.methods.projectors import MLPHead
from medssl.objectives.barlow_twins import MixedBarlowTwins
from medssl.objectives.base import Family, LossOutput, Mixture, Objective
from medssl.optim import Optim
from medssl.views.base import Batch, Views

__all__ = ["RedundancyReduction", "mix"]


class RedundancyReduction(JointEmbedding):
    """Redundancy reduction (Barlow Twins, ICML 2021; VICReg, ICLR 2022): agree, without dimensions that repeat.

    Shapes: views (V, B, C, *size) → embeddings (V, B, projector out) → objective.

    Objectives that ask for mixed inputs get those of the first two views, in a pass of their own through encoder and
    projector, so that their statistics stay apart from those of the views, which share one pass. Mixing takes for
    granted that all recordings have the same channels, voxel size or rate, and units.

    Args:
        encoder: what is trained; its pooled features are projected.
        views: how windows or crops are drawn and augmented.
        objective: of the redundancy family; MixedBarlowTwins by default.
        projector: hidden and output features of the projection head, three layers. Correlations of few samples are
            noise: for fewer than 256 recordings a batch keep the output below about 1024.
        pretext: a further task beside the objective.
        optim: optimiser settings.
    """

    family: ClassVar[Family] = "redundancy"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        objective: Objective | None = None,
        projector: tuple[int, int] = (1024, 1024),
        pretext: Pretext | None = None,
        optim: Optim | None = None,
    ) -> None:
        hidden, out = projector
        head = MLPHead(encoder.out_dim, hidden, out, layers=3, last_bias=False)
        super().__init__(
            encoder, views, objective or MixedBarlowTwins(), head=head, width=out, pretext=pretext, optim=optim
        )

    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """See ``JointEmbedding.output``."""
        mixture = self._mixture(views) if "mixture" in self.objective.needs else None
        output: LossOutput = self.objective(embeddings, **self.given(batch, mixture=mixture))
        return output

    def _mixture(self, views: Tensor) -> Mixture:
        """A random partner for every recording, and one random share for the batch (Beta(1, 1): uniform)."""
        n, device = views.shape[1], views.device
        order = torch.randperm(n, generator=self.generator, device=device)
        share = torch.rand((), generator=self.generator, device=device).expand(n)
        return Mixture(self.embed(mix(views, order, share)), order, share)


def mix(views: Tensor, order: Tensor, share: Tensor) -> Tensor:
    """``share · x₁ + (1 - share) · x₂[order]``.

    Args:
        views: (K, N, C, *size); the first two count.
        order: (N,) which sample of the second view is mixed into each.
        share: (N,) of the first view.

    Returns:
        (N, C, *size).
    """
    part = share.view(-1, *(1,) * (views.ndim - 2))
    return torch.lerp(views[1][order], views[0], part)
