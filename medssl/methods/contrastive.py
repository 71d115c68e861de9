"""Contrastive learning: any encoder, any views, any objective on embeddings."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.base import Losses, Method
from medssl.methods.projectors import Projector
from medssl.objectives.base import Objective, Weights
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, Views

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["Contrastive"]


class Contrastive(Method):
    """Contrastive learning (SimCLR, ICML 2020, and its many objectives): views of a recording belong together.

    Serves volumes and signals alike: what is cut and augmented is the views' affair, what is compared the objective's.

    Shapes: views (V, B, C, *size) → embeddings (V, B, projector out) → objective.

    Args:
        encoder: what is trained; its pooled features are projected.
        views: how windows or crops are drawn and augmented.
        objective: loss on embeddings; InfoNCE by default.
        projector: hidden and output features of the projection head.
        weighting: weights of the pairs, for objectives that have one loss a sample.
        same_patient: recordings of one patient in a batch are ``"ignore"``: neither positives nor negatives;
            ``"negative"``: treated like any other; ``"positive"``: further positives.
        optim: optimiser settings.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        objective: Objective | None = None,
        projector: tuple[int, int] = (512, 128),
        weighting: PairWeighting | None = None,
        same_patient: Literal["ignore", "negative", "positive"] = "ignore",
        optim: Optim | None = None,
    ) -> None:
        super().__init__(encoder, optim or Optim(lr=1e-3, weight_decay=1e-4))
        self.views = views
        self.objective = objective or InfoNCE()
        self.weighting = weighting
        self.same_patient = same_patient
        if views.count < self.objective.min_views:
            raise ConfigError(
                f"{type(self.objective).__name__} compares at least {self.objective.min_views} views; "
                f"set the views' count, now {views.count}"
            )
        if weighting is not None and not self.objective.pairwise:
            raise ConfigError(
                f"{type(self.objective).__name__} has no loss of single pairs, so {type(weighting).__name__} "
                "cannot weigh them; leave weighting out or choose another objective"
            )
        if "labels" in self.objective.needs and same_patient != "positive":
            raise ConfigError(
                f"{type(self.objective).__name__} needs to know which samples belong together; set "
                "same_patient: positive"
            )
        hidden, out = projector
        self.projector = Projector(encoder.out_dim, hidden=hidden, out=out)

    @property
    def input_size(self) -> tuple[int, ...]:
        """Size of the views."""
        return self.views.size

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: the cohort must be of the kind that the views read."""
        if info.kind != self.views.kind:
            raise ConfigError(
                f"{type(self.views).__name__} cuts {self.views.kind}s, but this cohort holds {info.kind}s; "
                "choose the views for its kind"
            )
        others = info.n_patients if self.same_patient == "ignore" else info.n_recordings
        if 0 < others < self.objective.min_samples:
            what = "patients" if self.same_patient == "ignore" else "recordings"
            raise ConfigError(f"{type(self.objective).__name__} tells {what} apart, but this cohort holds {others}")
        super().check(info)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What the views read, and ``patient``, an integer that is the same for all recordings of a patient."""
        return {**self.views.draw(reader, rng), "patient": np.array(_integer(reader.patient), dtype=np.int64)}

    def loss(self, batch: Batch) -> Losses:
        """Augment, encode and project all views in one pass, then the objective."""
        size = len(batch["row"])
        if size < self.objective.min_samples:
            raise ConfigError(
                f"{type(self.objective).__name__} needs at least {self.objective.min_samples} recordings a batch, "
                f"got {size}; raise the batch size"
            )
        views = self.views(batch, self.generator)
        rows = self.projector(self.encoder(views.flatten(0, 1)).pooled)
        embeddings = rows.unflatten(0, views.shape[:2]).float()
        patient = batch["patient"]
        output = self.objective(
            embeddings,
            index=batch["row"],
            group=patient if self.same_patient == "ignore" else None,
            labels=patient if self.same_patient == "positive" else None,
            weights=self._weights(batch["row"]),
        )
        logs = {k: v.detach() for k, v in output.logs.items()}
        return Losses(output.loss, logs, rows.detach())

    def _weights(self, index: torch.Tensor) -> Weights | None:
        if self.weighting is None or not self.training:
            return None
        return functools.partial(self.weighting, index=index)


def _integer(name: str) -> int:
    """A 63-bit integer that stands for a name, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
