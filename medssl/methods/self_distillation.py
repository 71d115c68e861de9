"""Self-distillation: predict a teacher's, or the network's own, projection of another view; no negatives."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.joint import JointEmbedding, Momentum
from medssl.methods.pretext import Pretext
from medssl.methods.projectors import MLPHead
from medssl.methods.teacher import distance
from medssl.objectives.base import Family, LossOutput, Objective
from medssl.objectives.distillation import BYOL
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim, configure
from medssl.views.base import Batch, Views

__all__ = ["SelfDistillation"]


class SelfDistillation(JointEmbedding):
    """Self-distillation (BYOL, NeurIPS 2020; SimSiam, CVPR 2021; DirectPred, ICML 2021): views predict each other.

    Shapes: views (V, B, C, *size) → projections (V, B, out) → predictions (V, B, out) → objective, with the
    teacher's projections as targets, or without a teacher the network's own without gradient.

    The heads are those of the papers. Without a teacher the projector has three layers and a last BN without weights
    (SimSiam), with one it has two and no last BN (BYOL). Their BN takes its statistics over all views of a batch in
    one pass (published: each view in its own); they need a batch of some 32 views to be worth the name, and are not
    enlarged by accumulating gradients.

    Args:
        encoder: what is trained; its pooled features are projected.
        views: how windows or crops are drawn and augmented.
        objective: of the distillation family; BYOL by default.
        projector: hidden and output features of the projection head.
        predictor: hidden features of the predictor, a head of two layers; for objectives that have one.
        layers: of the projector; None as published.
        momentum: of the teacher, rising to 1; 0 for none; ``auto`` as the objective was published. Short training
            (below 20,000 steps) wants 0.99.
        predictor_lr: ``constant`` at its peak, ``scheduled`` like all else, or ``auto``: constant without a teacher,
            as published.
        weighting: weights of the pairs.
        same_patient: recordings of one patient in a batch are ``"ignore"``: strangers; ``"positive"``: each other's
            targets.
        label: a column of the manifest: recordings with the same value are each other's targets.
        pretext: a further task beside the objective.
        optim: optimiser settings.
    """

    family: ClassVar[Family] = "distillation"

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        objective: Objective | None = None,
        projector: tuple[int, int] = (512, 128),
        predictor: int = 512,
        layers: int | None = None,
        momentum: Momentum = "auto",
        predictor_lr: Literal["auto", "constant", "scheduled"] = "auto",
        weighting: PairWeighting | None = None,
        same_patient: Literal["ignore", "positive"] = "ignore",
        label: str | None = None,
        pretext: Pretext | None = None,
        optim: Optim | None = None,
    ) -> None:
        objective = objective or BYOL()
        hidden, out = projector
        alone = not (objective.momentum if momentum == "auto" else momentum)
        depth = (3 if alone else 2) if layers is None else layers
        if depth < 1:
            raise ConfigError(f"a projector has at least 1 layer, not {layers}")
        head = MLPHead(encoder.out_dim, hidden, out, layers=depth, last_norm=alone)
        super().__init__(
            encoder, views, objective, head=head, width=out, momentum=momentum,
            same_patient="positive" if same_patient == "positive" else "negative", label=label, weighting=weighting,
            pretext=pretext, optim=optim,
        )  # fmt: skip
        self.predictor = MLPHead(out, predictor, out, layers=2) if objective.predictor else nn.Identity()
        self.steady_predictor = predictor_lr == "constant" or (predictor_lr == "auto" and alone)

    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """See ``JointEmbedding.output``: predictions of the projections against the targets."""
        predictions = self.predictor(embeddings.flatten(0, 1)).float().unflatten(0, embeddings.shape[:2])
        logs = {}
        if self.momentum > 0:
            targets = self.teach(views.flatten(0, 1)).unflatten(0, views.shape[:2])
            logs["teacher_distance"] = distance(self.teacher_encoder, self.encoder)
        else:
            targets = embeddings.detach()
        output: LossOutput = self.objective(predictions, **self.given(batch, targets=targets))
        return LossOutput(output.loss, {**output.logs, **logs})

    def configure_optimizers(self) -> Any:
        """See ``Method.configure_optimizers``; the predictor's learning rate may stay at its peak."""
        if not self.steady_predictor:
            return super().configure_optimizers()
        total = int(self.trainer.estimated_stepping_batches)
        steady = {id(p) for p in self.predictor.parameters()}
        rest = [(name, p) for name, p in self.named_parameters() if id(p) not in steady]
        return configure([(rest, 1.0)], self.optim, total, steady=list(self.predictor.named_parameters()))
