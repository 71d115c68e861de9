"""Contrastive learning: any encoder, any views, any contrastive objective."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.methods.joint import JointEmbedding, Momentum, SamePatient
from medssl.methods.pretext import Pretext
from medssl.methods.projectors import Projector
from medssl.objectives.base import Family, LossOutput, Objective
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.base import Batch, Views

__all__ = ["Contrastive"]


class Contrastive(JointEmbedding):
    """Contrastive learning (SimCLR, ICML 2020, and its many objectives): views of a recording belong together.

    Serves volumes and signals alike: what is cut and augmented is the views' affair, what is compared the objective's.

    Shapes: views (V, B, C, *size) → embeddings (V, B, projector out) → objective.

    Args:
        encoder: what is trained; its pooled features are projected.
        views: how windows or crops are drawn and augmented.
        objective: loss on embeddings, of the contrastive family; InfoNCE by default.
        projector: hidden and output features of the projection head.
        momentum: of a teacher whose embeddings are the keys (MoCo v3), rising to 1; 0 for none: the keys are the
            student's own; ``auto`` as the objective was published.
        weighting: weights of the pairs, for objectives that have one loss a sample.
        same_patient: recordings of one patient in a batch are ``"ignore"``: neither positives nor negatives;
            ``"negative"``: treated like any other; ``"positive"``: further positives.
        label: a column of the manifest (a label, site, scanner): recordings with the same value belong together.
        pretext: a further task beside the objective.
        optim: optimiser settings.
    """

    family: ClassVar[Family] = "contrastive"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        objective: Objective | None = None,
        projector: tuple[int, int] = (512, 128),
        momentum: Momentum = "auto",
        weighting: PairWeighting | None = None,
        same_patient: SamePatient = "ignore",
        label: str | None = None,
        pretext: Pretext | None = None,
        optim: Optim | None = None,
    ) -> None:
        hidden, out = projector
        super().__init__(
            encoder, views, objective or InfoNCE(), head=Projector(encoder.out_dim, hidden=hidden, out=out), width=out,
            momentum=momentum, same_patient=same_patient, label=label, weighting=weighting, pretext=pretext,
            optim=optim,
        )  # fmt: skip

    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """See ``JointEmbedding.output``: the teacher's embeddings, where there is one, are the keys."""
        targets = self.teach(views.flatten(0, 1)).unflatten(0, views.shape[:2]) if self.momentum > 0 else None
        output: LossOutput = self.objective(embeddings, **self.given(batch, targets=targets))
        return output
