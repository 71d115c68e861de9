"""The contract of every fine-tuning head."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from medssl.configurable import Configurable
from medssl.encoders.base import Encoder, Features
from medssl.encoders.seeding import seeded
from medssl.errors import ConfigError
from medssl.heads.schedules import Schedule
from medssl.optim import Optim, configure
from medssl.views.base import Batch, Views, to_input

__all__ = ["Head"]


class Head(lightning.LightningModule, Configurable, ABC):
    """An encoder with a task on top, trained on labels.

    Randomness on the device comes only from the batch's ``seed``: ``self.generator`` for augmentation, and dropout runs
    under the same seed.

    Args:
        encoder: pre-trained or fresh; trained along unless frozen.
        optim: optimiser settings; the learning rate is the head's.
        encoder_lr: learning rate of the encoder relative to the head's; 0 keeps it frozen throughout.
        layer_decay: the encoder's rate falls by this factor a layer group from output to input (1 = equal), as in
            BEiT: group i of L has ``encoder_lr · layer_decay^(L - i)``.
        frozen_steps: optimiser steps at the start in which only the head learns; the encoder's norms then use their
            running statistics.
        augmentation: view family whose augmentation is applied to training batches.
        schedule: a published course of the learning rate, in place of that of ``optim``; where it begins with the head
            alone, the optimiser starts anew after that. ``frozen_steps`` says whether the encoder then stands still.

    Raises:
        ConfigError: a negative rate, decay outside (0, 1] or negative step count.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        optim: Optim | None = None,
        encoder_lr: float = 1.0,
        layer_decay: float = 1.0,
        frozen_steps: int = 0,
        augmentation: Views | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        if encoder_lr < 0 or not 0 < layer_decay <= 1 or frozen_steps < 0:
            raise ConfigError(
                f"encoder_lr ({encoder_lr}) and frozen_steps ({frozen_steps}) must not be negative and layer_decay "
                f"({layer_decay}) must be in (0, 1]"
            )
        self.encoder = encoder
        self.optim = optim or Optim()
        self.encoder_lr, self.layer_decay, self.frozen_steps = encoder_lr, layer_decay, frozen_steps
        self.augmentation = augmentation
        self.schedule = schedule
        self._generator: torch.Generator | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Predict from network input (B, C, *size), float."""

    @abstractmethod
    def criterion(self, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of network input (B, C, *size) and the batch's ``y``, with named parts for the log."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """What ``forward`` returned, as what the user asked for: probabilities, or the value itself for regression."""

    def per_window(self, x: Tensor) -> Tensor:
        """What is kept of every window of an item when many are seen: (n, C, *size) → (n, ...). Here: its answer."""
        answer: Tensor = self(x)
        return answer

    def per_item(self, windows: Tensor, counts: Sequence[int]) -> Tensor:
        """Answers of items from those of their windows; here their mean (of logits, or of values).

        Args:
            windows: (n, ...) of ``per_window``, the windows of an item one after another.
            counts: of every item its windows; they add up to n.
        """
        return torch.stack([part.mean(0) for part in torch.split(windows, list(counts))])

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a collated batch; augments while training.

        Args:
            batch: ``x`` (B, 1, C, *size) stored integers with their input fields, and ``y``.

        Returns:
            The scalar loss (float32) and its detached parts.
        """
        x, target = to_input(batch["x"], batch)[:, 0], batch["y"]
        if self.training and self.augmentation is not None:
            x, target = self.augment(x, target)
        return self.criterion(x, target)

    def augment(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented input and target; here the target is left alone."""
        assert self.augmentation is not None
        return self.augmentation.augment(x, self.generator), target

    def encode(self, x: Tensor) -> Features:
        """The encoder's features, without gradient while it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Features = self.encoder(x)
        return features

    @property
    def frozen(self) -> bool:
        """Whether the encoder is left as it is in the present step."""
        return self.encoder_lr == 0 or self.global_step < self.frozen_steps

    @property
    def generator(self) -> torch.Generator:
        """The generator of all augmentation in the current step, on the module's device."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(device=self.device)
        return self._generator

    def train(self, mode: bool = True) -> Head:
        """As in torch, but what is frozen of the encoder stays in evaluation mode (running statistics, no dropout)."""
        super().train(mode)
        if mode:
            self._settle_encoder()
        return self

    def _settle_encoder(self) -> None:
        """Training mode for the parts of the encoder that learn now, evaluation mode for those that stand still."""
        self.encoder.train(not self.frozen)
        for part in self.encoder.modules():
            parameters = list(part.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                part.eval()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Thaw the encoder when its frozen steps are over; start the optimiser anew where the schedule does."""
        if self.encoder.training == self.frozen:
            self._settle_encoder()
        if self.schedule is not None and self.global_step == self.schedule.alone > 0:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()  # moments of the head alone; a checkpoint of this very step still has them

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: everything random follows the batch's seed; every part of the loss is logged."""
        seed = int(batch["seed"])
        self.generator.manual_seed(seed)
        with seeded(seed, self.device):
            total, parts = self.loss(batch)
        size = len(batch["row"])
        self.log("loss", total.detach(), prog_bar=True, batch_size=size)
        self.log_dict(parts, batch_size=size)
        return total

    def groups(self) -> list[tuple[list[tuple[str, nn.Parameter]], float]]:
        """Named parameters with their learning-rate multipliers: encoder groups from input to output, then the head."""
        layers = self.encoder.layers()
        scales = [self.encoder_lr * self.layer_decay ** (len(layers) - i) for i in range(len(layers))]
        head = [(n, p) for n, p in self.named_parameters() if not n.startswith("encoder.")]
        encoder = list(zip(layers, scales, strict=True)) if self.encoder_lr > 0 else []
        return [*encoder, (head, 1.0)]

    def configure_optimizers(self) -> Any:
        """AdamW or SGD with the groups' rates, and the schedule by step."""
        return self.configured(int(self.trainer.estimated_stepping_batches))

    def configured(self, total: int) -> dict[str, Any]:
        """What ``configure_optimizers`` returns for a training of so many steps."""
        if self.schedule is None:
            return configure(self.groups(), self.optim, total)
        self.schedule.check(total)
        return configure(self.groups(), self.optim, total, factor=functools.partial(self.schedule.factor, total=total))
