"""Is the encoder still learning something, or does it say the same about every patient? Seen without labels."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from medssl.evaluation.representation import finite_rows, rankme, std_l2
from medssl.training.callbacks import Fit, Module, between_steps
from medssl.training.metrics_log import MetricsLog

__all__ = ["CollapseMonitor", "CollapseWarning", "alarm"]


class CollapseWarning(UserWarning):
    """The embeddings look as if pre-training is failing."""


def alarm(now: Mapping[str, float], earlier: list[float], *, rows: int, dimension: int) -> str | None:
    """What is wrong with the embeddings, in plain words; None when nothing is.

    Thresholds: spread below 0.2/√D, RankMe below 5 % of what is possible, RankMe less than half of what it was within
    the last three looks, more than half of the variance in one direction.

    Args:
        now: ``rankme``, ``embedding_std``, ``top1_share``.
        earlier: RankMe of the last looks, oldest first.
        rows, dimension: N and D of the embedding set.
    """
    possible = min(rows, dimension)
    advice = "; lower the learning rate, strengthen the augmentation or enlarge the batch, and compare methods"
    if now["embedding_std"] < 0.2 / math.sqrt(dimension):
        return f"the encoder gives nearly the same embedding for every recording (complete collapse){advice}"
    if now["rankme"] < 0.05 * possible:
        return (
            f"the embeddings use about {now['rankme']:.1f} of {possible} possible directions (dimensional collapse)"
            f"{advice}"
        )
    if earlier and now["rankme"] < 0.5 * max(earlier[-3:]):
        return f"the embeddings lost half of their directions ({max(earlier[-3:]):.1f} → {now['rankme']:.1f}){advice}"
    if now["top1_share"] > 0.5:
        return f"one direction carries {now['top1_share']:.0%} of the embeddings' variance{advice}"
    return None


def measures(z: Tensor) -> dict[str, float]:
    """``rankme``, ``embedding_std`` (of unit-length rows) and ``top1_share`` of embeddings (N, D)."""
    z, _ = finite_rows(z)
    variance = torch.linalg.svdvals(z - z.mean(0, keepdim=True)).pow(2)
    total = float(variance.sum())
    return {
        "rankme": rankme(z),
        "embedding_std": std_l2(z),
        "top1_share": float(variance[0]) / total if total > 0 else 1.0,
    }


class CollapseMonitor(Callback):
    """Looks at the embeddings of the last steps before every ``every``-th one.

    These are embeddings of augmented training views, always equally many, so the values of one run can be compared
    with each other, not with those of another method.

    Args:
        log: where the values go.
        every: steps between two looks.
        rows: embeddings looked at.
        warm_up: steps before the first alarm.
    """

    def __init__(self, log: MetricsLog, *, every: int, rows: int = 512, warm_up: int = 50) -> None:
        self.log_to = log
        self.every = every
        self.rows = rows
        self.warm_up = warm_up
        self.history: list[float] = []
        self.alarms: list[str] = []
        self._kept: deque[Tensor] = deque()

    def state_dict(self) -> dict[str, Any]:
        """The looks so far, and the embeddings waiting for the next."""
        return {"history": list(self.history), "alarms": list(self.alarms), "kept": [z.cpu() for z in self._kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.history, self.alarms = list(state_dict["history"]), list(state_dict["alarms"])
        self._kept = deque(state_dict["kept"])

    def on_train_batch_end(self, trainer: Fit, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the newest embeddings; look at them when it is time."""
        embeddings = outputs.get("embeddings") if isinstance(outputs, Mapping) else None
        if embeddings is not None:
            self._kept.append(embeddings.detach().float())
            while sum(map(len, self._kept)) - len(self._kept[0]) >= self.rows:
                self._kept.popleft()
        if between_steps(trainer, batch_idx) and trainer.global_step % self.every == 0 and self._kept:
            self._look(trainer)

    def _look(self, trainer: Fit) -> None:
        device = self._kept[-1].device
        z = torch.cat([k.to(device) for k in self._kept])[-self.rows :]
        if len(z) < 8:  # too few rows to speak of directions
            return
        now = measures(z)
        self.log_to.add(trainer, trainer.global_step, now)
        problem = alarm(now, self.history, rows=len(z), dimension=z.shape[1])
        self.history.append(now["rankme"])
        if problem and trainer.global_step > self.warm_up:
            self.alarms.append(f"step {trainer.global_step}: {problem}")
            if len(self.alarms) == 1 and trainer.is_global_zero:  # once; the rest stands in summary.json
                warnings.warn(f"step {trainer.global_step}: {problem}", CollapseWarning, stacklevel=2)
