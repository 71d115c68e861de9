"""What all methods share that compare embeddings of several views: head, teacher, and what objectives ask for."""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import CohortError, ConfigError
from medssl.methods.base import Losses, Readable
from medssl.methods.ids import stable_integer
from medssl.methods.of_views import OfViews
from medssl.methods.pretext import Pretext
from medssl.methods.teacher import ema_update, frozen, momentum_at
from medssl.objectives.base import Family, LossOutput, Objective, Weights
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, Views

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from medssl.cohort import CohortInfo, Reader

__all__ = ["JointEmbedding", "Momentum", "SamePatient"]

SamePatient = Literal["ignore", "negative", "positive"]
Momentum = float | Literal["auto"]


class JointEmbedding(OfViews):
    """Encoder, head and an objective on the embeddings of all views; with a teacher where the objective wants one.

    Subclasses build the head and say in ``output`` what the objective gets. Teacher: a copy of encoder and head that
    follows them as a moving average (parameters; buffers are copied), moved before each step.

    Args:
        encoder: what is trained.
        views: how windows or crops are drawn and augmented.
        objective: of this class' family.
        head: from pooled features (N, out_dim) to what the objective takes; not used by objectives that take features.
        width: D of what the objective gets.
        momentum: of the teacher at the start, rising to 1 along a cosine; 0 for none; ``"auto"`` as published.
        same_patient: see ``Contrastive``.
        label: see ``Contrastive``.
        weighting: weights of the pairs, for objectives that have one loss a sample.
        pretext: a further task beside the objective.
        optim: optimiser settings.
    """

    family: ClassVar[Family]
    multi_crop: ClassVar[bool] = False  # views of other sizes may be predicted beside those that targets come from

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        objective: Objective,
        *,
        head: nn.Module,
        width: int,
        momentum: Momentum = 0.0,
        same_patient: SamePatient = "negative",
        label: str | None = None,
        weighting: PairWeighting | None = None,
        pretext: Pretext | None = None,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(encoder, optim or Optim(lr=1e-3, weight_decay=1e-4))
        self.views, self.objective = views, objective
        self.weighting, self.pretext = weighting, pretext
        self.same_patient, self.label = same_patient, label
        self.momentum = float(objective.momentum or 0.0) if momentum == "auto" else float(momentum)
        self._refuse_settings()
        self.projector = nn.Identity() if objective.takes == "features" else head
        objective.fit_width(encoder.out_dim if objective.takes == "features" else width)
        if pretext is not None:
            pretext.fit_width(encoder.out_dim)
        if self.momentum > 0:
            # init_args of the copy are those of the encoder, so that it is found and initialised like it
            self.teacher_encoder = frozen(copy.deepcopy(encoder))
            self.teacher_projector = frozen(copy.deepcopy(self.projector))

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: the cohort must be of the kind that the views read, with enough to tell apart."""
        super().check(info)
        if self.pretext is not None:
            self.pretext.check(self.views)
        others = info.n_patients if self.same_patient == "ignore" else info.n_recordings
        if 0 < others < self.objective.min_samples:
            what = "patients" if self.same_patient == "ignore" else "recordings"
            raise ConfigError(f"{type(self.objective).__name__} tells {what} apart, but this cohort holds {others}")

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``: memory of single recordings; all must have the label that is asked for."""
        super().prepare(source, batch=batch)
        if self.label is not None and source.manifest is not None:
            _require_label(source.manifest, self.label)
        self.objective.remember(len(source.places))
        if self.weighting is not None:
            self.weighting.remember(len(source.places))

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What the views read; ``patient``, an integer that is the same for all recordings of a patient; ``label``."""
        sample = {**super().draw(reader, rng), "patient": np.array(stable_integer(reader.patient), dtype=np.int64)}
        if self.label is None:
            return sample
        return {**sample, "label": _label(reader, self.label, continuous=self.objective.continuous)}

    def loss(self, batch: Batch) -> Losses:
        """Augment, encode all views of a size in one pass, project all, then the objective."""
        self._refuse_few(batch)
        crops = self.views.crops(batch, self.generator)
        views = crops[0]
        rows = self.embed_sizes([each.flatten(0, 1) for each in crops])
        output = self.output(rows.unflatten(0, (-1, views.shape[1])), views, batch)
        total, terms = output.loss, {k: v.detach() for k, v in output.logs.items()}
        if self.weighting is not None:
            terms |= self.weighting.logs()
        if self.pretext is not None:
            term, logs = self.pretext(views.flatten(0, 1), self.encoder, self.generator)
            total, terms = total + self.pretext.weight * term, {**terms, **logs, "objective": output.loss.detach()}
        return Losses(total, terms, rows.detach())

    @abstractmethod
    def output(self, embeddings: Tensor, views: Tensor, batch: Batch) -> LossOutput:
        """The objective of a batch.

        Args:
            embeddings: (K, N, D) of the student.
            views: (V, N, C, *size) network input of the first V ≤ K of them, which are of one size.
            batch: as drawn.
        """

    def embed(self, rows: Tensor) -> Tensor:
        """(N, C, *size) → (N, D), float32."""
        embedded: Tensor = self.projector(self.encoder(rows).pooled)
        return embedded.float()

    def embed_sizes(self, rows: list[Tensor]) -> Tensor:
        """(N, C, *size) of each size → (ΣN, D), float32; all go through the head together, for its statistics."""
        if len(rows) == 1:
            return self.embed(rows[0])
        embedded: Tensor = self.projector(torch.cat([self.encoder(each).pooled for each in rows]))
        return embedded.float()

    @torch.no_grad()
    def teach(self, rows: Tensor) -> Tensor:
        """What the teacher says of rows (N, C, *size): (N, D), float32."""
        embedded: Tensor = self.teacher_projector(self.teacher_encoder(rows).pooled)
        return embedded.float()

    def given(self, batch: Batch, **more: Any) -> dict[str, Any]:
        """Keyword arguments of the objective that do not depend on the embeddings."""
        patient = batch["patient"]
        positive = batch.get("label", patient if self.same_patient == "positive" else None)
        return {
            "index": batch["row"],
            "group": patient if self.same_patient == "ignore" else None,
            "labels": positive,
            "weights": self._weights(batch["row"]),
            "generator": self.generator,
            "progress": self.progress,
            **more,
        }

    def follow(self) -> None:
        """Move the teacher towards the student; before a step, which equals after the step before."""
        if self.momentum > 0:
            momentum = momentum_at(self.progress, self.momentum)
            ema_update(self.teacher_encoder, self.encoder, momentum, buffers="copy")
            ema_update(self.teacher_projector, self.projector, momentum, buffers="copy")
            self.objective.follow(momentum)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """See ``Method.training_step``; the teacher moves once an optimiser step."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.follow()
        return super().training_step(batch, batch_idx)

    def _weights(self, index: Tensor) -> Weights | None:
        if self.weighting is None or not self.training:
            return None
        return functools.partial(self.weighting, index=index)

    def _refuse_few(self, batch: Batch) -> None:
        size = len(batch["row"])
        if size < self.objective.min_samples:
            raise ConfigError(
                f"{type(self.objective).__name__} needs at least {self.objective.min_samples} recordings a batch, "
                f"got {size}; raise the batch size"
            )

    def _refuse_settings(self) -> None:
        name, objective = type(self.objective).__name__, self.objective
        if objective.family != self.family:
            raise ConfigError(
                f"{name} is an objective of the {objective.family} family; {type(self).__name__} takes those of the "
                f"{self.family} family (`medssl list objectives`)"
            )
        if not self.multi_crop and any(len(family.sizes) > 1 for family in self.views.families):
            raise ConfigError(f"{type(self).__name__} compares views of one size; leave MultiCrop to Clustering")
        if self.views.count < objective.min_views:
            raise ConfigError(
                f"{name} compares at least {objective.min_views} views; set the views' count, now {self.views.count}"
            )
        if self.weighting is not None and not objective.pairwise:
            raise ConfigError(
                f"{name} has no loss of single pairs, so {type(self.weighting).__name__} cannot weigh them; leave "
                "weighting out or choose another objective"
            )
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"the momentum of a teacher lies from 0 (no teacher) to below 1, not {self.momentum}")
        if "targets" in objective.needs and objective.momentum and self.momentum == 0:
            raise ConfigError(f"{name} needs a teacher; set momentum above 0 (published: {objective.momentum})")
        if objective.continuous and self.label is None:
            raise ConfigError(f"{name} needs a value of every recording; name a numeric column: label: COLUMN")
        if "labels" in objective.needs and self.label is None and self.same_patient != "positive":
            raise ConfigError(
                f"{name} needs to know which samples belong together; set same_patient: positive, or label: COLUMN"
            )


def _require_label(manifest: pd.DataFrame, name: str) -> None:
    column = f"label_{name}" if f"label_{name}" in manifest else name
    if column not in manifest:
        raise ConfigError(f"label: the cohort has no column '{name}'; {_labels_are(map(str, manifest))}")
    without = manifest["recording"][manifest[column].isna()]
    if len(without):
        raise ConfigError(
            f"label: {len(without)} of {len(manifest)} recordings have no '{name}' (first: {without.iloc[0]}); give "
            "their values and prepare the cohort again, or choose another label"
        )


def _labels_are(columns: Iterable[str]) -> str:
    known = sorted(k.removeprefix("label_") for k in columns if k.startswith("label_"))
    return f"its labels are: {', '.join(known) or 'none'}"


def _label(reader: Reader, name: str, *, continuous: bool) -> np.ndarray[Any, Any]:
    """A manifest column's value of one recording: a number if asked for, else an integer that stands for it."""
    record = reader.record
    key = f"label_{name}" if f"label_{name}" in record else name
    value = record.get(key)
    if value is None or value != value:
        raise CohortError(f"recording {reader.recording} has no '{name}'; {_labels_are(record)}")
    if continuous:
        if isinstance(value, str):
            raise CohortError(f"recording {reader.recording} has '{name}' = '{value}', which is no number")
        return np.array(value, dtype=np.float32)
    whole = isinstance(value, float) and value.is_integer()  # a column with gaps holds 1 as 1.0
    return np.array(stable_integer(str(int(value)) if whole else str(value)), dtype=np.int64)
