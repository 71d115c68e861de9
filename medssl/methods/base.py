"""The contract of every self-supervised method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import lightning
import numpy as np
import torch
from torch import Tensor

from medssl.configurable import Configurable
from medssl.encoders.base import Encoder
from medssl.encoders.seeding import seeded
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim, configure
from medssl.views.base import Batch, Drawable, Sample

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import CohortInfo, Reader
    from medssl.heads.decoder import Decoder

__all__ = ["Losses", "Method", "Readable"]

Readable = Drawable
"""What a run reads; a batch's ``row`` counts its ``places``."""


@dataclass
class Losses:
    """What one step gives.

    Attributes:
        total: scalar to minimise.
        terms: named parts and diagnostics (detached scalars) that are logged.
        embeddings: (N, D) detached projections of this step, for the collapse monitor; None if there are none.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    embeddings: Tensor | None = None


class Method(lightning.LightningModule, Configurable, ABC):
    """Encoder + views + objective.

    Randomness on the device comes only from ``self.generator``, seeded anew for every batch from the batch's own
    ``seed``; together with stateless worker-side draws this makes a resumed run equal an uninterrupted one.

    Attributes:
        encoder: what pre-training leaves behind.
        optim: optimiser settings (defaults are the method's own; the trainer may replace them).
        collapses: the same embedding for all recordings could satisfy its loss. Where that is not so (reconstruction),
            measures of the embeddings are logged but raise no alarm.
    """

    collapses: ClassVar[bool] = True
    encoder: Encoder
    optim: Optim

    def __init__(self, encoder: Encoder, optim: Optim | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.optim = optim or Optim()
        self._generator: torch.Generator | None = None

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, ...]:
        """Crop or window that the encoder sees."""

    @property
    def mixes(self) -> bool:
        """Trains on cohorts of several kinds together. Default: no."""
        return False

    def size_for(self, kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Crop or window that the encoder sees of such a recording. Default: ``input_size``."""
        return self.input_size

    @property
    def exported(self) -> Encoder:
        """The encoder that a run leaves behind. Default: the one that is trained."""
        return self.encoder

    @property
    def decoder_exported(self) -> Decoder | None:
        """The decoder (or its first blocks) over ``exported`` that fine-tuning may start from. Default: none."""
        return None

    @property
    def built_on(self) -> tuple[Path, ...]:
        """Runs whose weights are part of ``exported``, so that it has seen their patients too. Default: none."""
        return ()

    @property
    def labels_used(self) -> Sequence[int]:
        """Items of what was prepared (see ``Readable.places``) whose labels are learnt from. Default: none."""
        return ()

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        trainer = self._trainer
        if trainer is None or not trainer.max_steps or trainer.max_steps < 0:
            return 0.0
        return min(1.0, trainer.global_step / trainer.max_steps)

    def check(self, info: CohortInfo) -> None:
        """Refuse, before the first step, a cohort this method cannot train on.

        Raises:
            ConfigError: with what is missing and where to get it. Overriders call ``super().check(info)``.
        """
        self.encoder.check_input(len(info.channels), self.input_size)

    def prepare(self, source: Readable, *, batch: int) -> None:
        """Called once before the first step (and before a checkpoint is loaded), in every training process.

        Args:
            source: what will be read.
            batch: recordings of one optimiser step on all devices, without accumulation.
        """

    def on_train_start(self) -> None:
        """Tells what weighs pairs how long the training is."""
        for part in self.modules():
            if isinstance(part, PairWeighting):
                part.plan(self.trainer.max_steps * self.trainer.accumulate_grad_batches)

    def finish(self) -> None:
        """Called before each export of the encoder."""

    def order(self, manifest: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Rows of the manifest in the order of one epoch. Default: a random permutation."""
        return rng.permutation(len(manifest))

    @abstractmethod
    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Worker side: read what one recording contributes to a batch."""

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """Device side: augment, encode, objective."""

    @property
    def generator(self) -> torch.Generator:
        """The generator of all device-side randomness of the current step, on the module's device."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(device=self.device)
        return self._generator

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One step: seeds the generator from the batch, computes the losses, logs every term."""
        seed = int(batch["seed"])
        self.generator.manual_seed(seed)
        with seeded(seed, self.device):  # dropout draws from the global generator
            losses = self.loss(batch)
        size = len(batch["row"])
        self.log("loss", losses.total.detach(), prog_bar=True, batch_size=size)
        self.log_dict(losses.terms, batch_size=size)
        return {"loss": losses.total, "embeddings": losses.embeddings}

    def configure_optimizers(self) -> Any:
        """AdamW over everything that requires a gradient, warm-up and schedule by step."""
        total = int(self.trainer.estimated_stepping_batches)
        return configure([(list(self.named_parameters()), 1.0)], self.optim, total)
