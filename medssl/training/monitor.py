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

from medssl.errors import TrainingError
from medssl.evaluation.representation import finite_rows, rankme, std_l2
from medssl.training.callbacks import Fit, Module, between_steps
from medssl.training.metrics_log import MetricsLog

__all__ = ["Alarms", "CollapseMonitor", "CollapseWarning", "alarm"]

ADVICE = "; lower the learning rate, strengthen the augmentation or enlarge the batch, and compare methods"


class CollapseWarning(UserWarning):
    """The embeddings look as if pre-training is failing."""


def alarm(now: Mapping[str, float], earlier: list[float], *, rows: int, dimension: int) -> str | None:
    """What is wrong with the embeddings, in plain words; None when nothing is.

    Thresholds: spread below 0.2/√D, RankMe below 5 % of what is possible, RankMe less than half of what it was within
    the last three looks, more than half of the variance in one direction, uniformity above -0.5.

    Args:
        now: ``rankme``, ``embedding_std``, ``top1_share``, and ``uniformity`` where it is known.
        earlier: RankMe of the last looks, oldest first.
        rows, dimension: N and D of the embedding set.
    """
    possible = min(rows, dimension)
    if now["embedding_std"] < 0.2 / math.sqrt(dimension):
        return f"the encoder gives nearly the same embedding for every recording (complete collapse){ADVICE}"
    if now["rankme"] < 0.05 * possible:
        return (
            f"the embeddings use about {now['rankme']:.1f} of {possible} possible directions (dimensional collapse)"
            f"{ADVICE}"
        )
    if earlier and now["rankme"] < 0.5 * max(earlier[-3:]):
        return f"the embeddings lost half of their directions ({max(earlier[-3:]):.1f} → {now['rankme']:.1f}){ADVICE}"
    if now["top1_share"] > 0.5:
        return f"one direction carries {now['top1_share']:.0%} of the embeddings' variance{ADVICE}"
    if now.get("uniformity", -math.inf) > -0.5:
        return f"all recordings crowd together on the sphere (uniformity {now['uniformity']:.2f}, above -0.5){ADVICE}"
    return None


class Alarms:
    """What the looks of one monitor found: the first is warned of, and the run may end when they do not stop.

    Args:
        warm_up: steps before the first alarm.
        fail: end the run after ``LIMIT`` looks in a row with an alarm.

    Attributes:
        said: all alarms, each with its step.
    """

    LIMIT = 3

    def __init__(self, *, warm_up: int = 50, fail: bool = False) -> None:
        self.warm_up, self.fail = warm_up, fail
        self.said: list[str] = []
        self.in_a_row = 0

    def hear(self, trainer: Fit, problem: str | None) -> None:
        """Take the outcome of a look; with several processes, all of them must call it at the same step.

        Raises:
            TrainingError: too many in a row, and the run is to end then.
        """
        step = trainer.global_step
        if step <= self.warm_up:
            return
        self.in_a_row = self.in_a_row + 1 if problem else 0
        if problem:
            self.said.append(f"step {step}: {problem}")
            if len(self.said) == 1 and trainer.is_global_zero:  # once; the rest stands in summary.json
                warnings.warn(self.said[0], CollapseWarning, stacklevel=2)
        if self.fail:
            self._end(trainer)

    def _end(self, trainer: Fit) -> None:
        end = self.in_a_row >= self.LIMIT
        if trainer.world_size > 1:  # no process may go on alone
            end = trainer.strategy.reduce_boolean_decision(end, all=False)
        if end:
            last = self.said[-1] if self.said else f"step {trainer.global_step}: seen by another process"
            raise TrainingError(
                f"the embeddings looked collapsed at {self.LIMIT} looks in a row ({last}); the last checkpoint is kept "
                "(--trainer.fail-on-collapse false goes on in spite of it)"
            )

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"said": list(self.said), "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``."""
        self.said, self.in_a_row = list(state["said"]), int(state["in_a_row"])


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
        fail: end the run after three looks in a row with an alarm.
    """

    def __init__(
        self, log: MetricsLog, *, every: int, rows: int = 512, warm_up: int = 50, fail: bool = False
    ) -> None:  # fmt: skip
        self.log_to = log
        self.every = every
        self.rows = rows
        self.history: list[float] = []
        self._alarms = Alarms(warm_up=warm_up, fail=fail)
        self._kept: deque[Tensor] = deque()

    @property
    def alarms(self) -> list[str]:
        """What was found, with the step."""
        return self._alarms.said

    def state_dict(self) -> dict[str, Any]:
        """The looks so far, and the embeddings waiting for the next."""
        return {
            "history": list(self.history), "alarms": list(self.alarms), "in_a_row": self._alarms.in_a_row,
            "kept": [z.cpu() for z in self._kept],
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.history = list(state_dict["history"])
        self._alarms.restore({"said": state_dict["alarms"], "in_a_row": state_dict.get("in_a_row", 0)})
        self._kept = deque(state_dict["kept"])

    def on_train_batch_end(self, trainer: Fit, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the newest embeddings; look at them when it is time."""
        embeddings = outputs.get("embeddings") if isinstance(outputs, Mapping) else None
        if embeddings is not None:
            self._kept.append(embeddings.detach().float())
            while sum(map(len, self._kept)) - len(self._kept[0]) >= self.rows:
                self._kept.popleft()
        if between_steps(trainer, batch_idx) and trainer.global_step % self.every == 0 and self._kept:
            self._look(trainer, alarms=bool(getattr(pl_module, "collapses", True)))

    def _look(self, trainer: Fit, *, alarms: bool) -> None:
        device = self._kept[-1].device
        z = torch.cat([k.to(device) for k in self._kept])[-self.rows :]
        if len(z) < 8:  # too few rows to speak of directions
            return
        now = measures(z)
        self.log_to.add(trainer, trainer.global_step, now)
        problem = alarm(now, self.history, rows=len(z), dimension=z.shape[1])
        self.history.append(now["rankme"])
        self._alarms.hear(trainer, problem if alarms else None)
