"""Contrastive learning: any encoder, any views, any contrastive objective."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.concatenated import Concatenated
from medssl.methods.base import Readable
from medssl.methods.joint import JointEmbedding, Momentum, SamePatient
from medssl.methods.pretext import Pretext
from medssl.methods.projectors import Projector
from medssl.methods.pure_batches import pure_order
from medssl.methods.stages import Stages
from medssl.methods.teacher import frozen
from medssl.objectives.base import Family, LossOutput, Objective
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.base import Batch, Views

if TYPE_CHECKING:
    import pandas as pd

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
        stages: earlier stages, whose clusters every batch is drawn from one of; what is exported are then the earlier
            encoders and this one, side by side.
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
        stages: Stages | None = None,
        pretext: Pretext | None = None,
        optim: Optim | None = None,
    ) -> None:
        hidden, out = projector
        super().__init__(
            encoder, views, objective or InfoNCE(), head=Projector(encoder.out_dim, hidden=hidden, out=out), width=out,
            momentum=momentum, same_patient=same_patient, label=label, weighting=weighting, pretext=pretext,
            optim=optim,
        )  # fmt: skip
        self.stages = stages
        self.earlier = nn.ModuleList()  # the encoders of earlier stages
        self._batch = 0
        self._clusters: NDArray[np.int64] | None = None

    @property
    def exported(self) -> Encoder:
        """See ``Method.exported``."""
        return Concatenated((*self.earlier, self.encoder)) if len(self.earlier) else self.encoder

    @property
    def built_on(self) -> tuple[Path, ...]:
        """See ``Method.built_on``."""
        return () if self.stages is None else self.stages.runs

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``; finds the clusters that batches are drawn from."""
        super().prepare(source, batch=batch)
        if self.stages is None:
            return
        encoders = self.stages.encoders(source)
        for encoder in encoders:
            encoder.check_input(self.encoder.in_channels, self.input_size)
        self._clusters = self.stages.cluster(source, encoders, size=self.input_size, batch=batch)
        self._batch = batch
        self.earlier = nn.ModuleList(frozen(encoder) for encoder in encoders)

    def order(self, manifest: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """See ``Method.order``; with stages every batch is of one cluster, and what does not fill one is left out."""
        if self._clusters is None:
            return super().order(manifest, rng)
        return pure_order(self._clusters, self._batch, rng)

    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """See ``JointEmbedding.output``: the teacher's embeddings, where there is one, are the keys."""
        targets = self.teach(views.flatten(0, 1)).unflatten(0, views.shape[:2]) if self.momentum > 0 else None
        output: LossOutput = self.objective(embeddings, **self.given(batch, targets=targets))
        return output
