"""Clustering: any encoder, any views, any objective that predicts cluster assignments."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.position_free import PositionFree
from medssl.errors import ConfigError
from medssl.methods.joint import JointEmbedding, Momentum
from medssl.methods.pretext import Pretext
from medssl.methods.projectors import MLPHead
from medssl.objectives.assignment import start_head
from medssl.objectives.base import Family, LossOutput, Objective
from medssl.objectives.swav import SwAV
from medssl.optim import Optim
from medssl.views.base import Batch, Views

__all__ = ["Clustering"]


class Clustering(JointEmbedding):
    """Clustering (SwAV, NeurIPS 2020, DINO, ICCV 2021, and relatives): a view's cluster is predicted from another view.

    Serves volumes, video and signals alike, several kinds of them together (``ViewsByKind``), and small crops beside
    large ones (``MultiCrop``): all are predicted, the large ones alone are assigned. The projection head is the
    objective's as published: two layers with batch normalisation (SwAV), or three with GELU and none (those with a
    teacher).

    Shapes: views (V, B, C, *size), small ones (W, B, C, *smaller) → embeddings (V + W, B, projector out) → objective.

    Args:
        encoder: what is trained; its pooled features are projected.
        views: how windows or crops are drawn and augmented; all are predicted, the first ones are assigned.
        objective: loss on embeddings, of the clustering family; SwAV by default.
        projector: hidden and output features of the projection head; not used by objectives with heads of their own.
        momentum: of the teacher at the start, rising to 1; ``auto`` as the objective was published. Short training
            (below 20,000 steps) wants 0.99.
        position_free: rounds after which exported features do not tell any more where a cell lies in the crop (RASA):
            each takes out as many directions as there are axes; 0 leaves features as they are. Training does not see
            it.
        pretext: a further task beside the objective.
        optim: optimiser settings.
    """

    family: ClassVar[Family] = "clustering"
    multi_crop: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        objective: Objective | None = None,
        projector: tuple[int, int] = (512, 128),
        momentum: Momentum = "auto",
        position_free: int = 0,
        pretext: Pretext | None = None,
        optim: Optim | None = None,
    ) -> None:
        objective = objective or SwAV()
        if position_free:
            encoder = PositionFree(encoder, position_free)
            encoder.collect = True
        super().__init__(
            encoder, views, objective, head=_head(encoder.out_dim, projector, objective), width=projector[1],
            momentum=momentum, pretext=pretext, optim=optim,
        )  # fmt: skip
        if self.momentum > 0 and not objective.momentum:
            raise ConfigError(f"{type(objective).__name__} has no teacher; leave momentum out")

    def finish(self) -> None:
        """See ``Method.finish``: what takes positions out is computed anew for each export."""
        if isinstance(self.encoder, PositionFree):
            self.encoder.settle()

    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """See ``JointEmbedding.output``: the teacher sees the first views, as many as the objective wants of it."""
        targets = None
        if self.momentum > 0:
            seen = views[: getattr(self.objective, "globals", len(views))]
            targets = self.teach(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        output: LossOutput = self.objective(embeddings, **self.given(batch, targets=targets))
        return output


def _head(width: int, projector: tuple[int, int], objective: Objective) -> nn.Module:
    hidden, out = projector
    if objective.momentum:
        return start_head(MLPHead(width, hidden, out, layers=3, norm=False, activation="gelu"))
    return MLPHead(width, hidden, out, layers=2)
