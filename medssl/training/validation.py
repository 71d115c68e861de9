"""Chooses the checkpoint on the validation patients of the budget; test patients are never looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from medssl.training.callbacks import Fit, Module, between_steps
from medssl.training.metrics_log import MetricsLog

__all__ = ["BestOnValidation"]

NEVER_BEFORE = 0.3  # share of the steps before which training never stops early


class BestOnValidation(Callback):
    """Scores the model every so many steps and keeps the weights of the best look (the later one of equals).

    Args:
        score: higher is better; gets the module in evaluation mode.
        log: where scores go, as ``validation``.
        every: steps between two looks; the last step is always looked at.
        patience: looks without improvement after which training stops; 0 never.
    """

    def __init__(self, score: Callable[[Any], float], log: MetricsLog, *, every: int, patience: int) -> None:
        self.score = score
        self.log_to = log
        self.every = every
        self.patience = patience
        self.best = -float("inf")
        self.best_step = 0
        self._weights: dict[str, torch.Tensor] = {}
        self._since = 0

    def on_train_batch_end(self, trainer: Fit, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look, when it is time."""
        step = trainer.global_step
        if not between_steps(trainer, batch_idx) or (step % self.every and step < trainer.max_steps):
            return
        score = self.score(pl_module)
        self.log_to.add(trainer, step, {"validation": score})
        if score >= self.best:
            self.best, self.best_step, self._since = score, step, 0
            self._weights = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}
        else:
            self._since += 1
        if self.patience and self._since >= self.patience and step >= NEVER_BEFORE * trainer.max_steps:
            trainer.should_stop = True

    def on_train_end(self, trainer: Fit, pl_module: Module) -> None:
        """Go back to the best weights."""
        if self._weights:
            pl_module.load_state_dict(self._weights)
