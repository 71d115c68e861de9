"""What watches over a fit: checkpoints and exact continuation, non-finite gradients, polite stops."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from medssl.errors import TrainingError

__all__ = [
    "Checkpoints",
    "GradientGuard",
    "PoliteStop",
    "between_steps",
    "rng_state",
    "set_global_step",
    "set_rng_state",
]

Fit = lightning.Trainer
Module = lightning.LightningModule


def rng_state() -> dict[str, Any]:
    """State of every global random generator, as plain values and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what ``rng_state`` gave."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


class Checkpoints(Callback):
    """Writes ``last.ckpt`` every so many steps, and continues from one exactly.

    A checkpoint holds tensors and plain values only, so it is read with ``weights_only=True``. Lightning's own loop
    counters are left out: they describe the loop of the interrupted process, while the data order here depends on the
    number of optimiser steps alone. Checkpoints are written between optimiser steps, never inside an accumulation.

    Args:
        folder: ``RUN/checkpoints``.
        every: steps between two checkpoints.
        keep_every: steps between two that are kept for good; 0 keeps none.
        export: called after each checkpoint (exports the encoder).
    """

    def __init__(self, folder: Path, *, every: int, keep_every: int = 0, export: Callable[[int], None]) -> None:
        self.folder = folder
        self.every = every
        self.keep_every = keep_every
        self.export = export
        self._resumed_rng: dict[str, Any] | None = None
        self._saved_step = -1

    @property
    def last(self) -> Path:
        """Where the last checkpoint lies."""
        return self.folder / "last.ckpt"

    def on_save_checkpoint(self, trainer: Fit, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """Add the random states, drop the loop counters."""
        checkpoint.pop("loops", None)
        checkpoint["medssl"] = {"step": trainer.global_step, "rng": rng_state()}

    def on_load_checkpoint(self, trainer: Fit, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """Continue counting where the checkpoint stopped."""
        state = checkpoint["medssl"]
        set_global_step(trainer, int(state["step"]))
        self._resumed_rng = state["rng"]

    def on_train_start(self, trainer: Fit, pl_module: Module) -> None:
        """Random states last: building the loader and the model may have used the generators."""
        for config in trainer.lr_scheduler_configs:
            _respan(config.scheduler)
        if self._resumed_rng is not None:
            set_rng_state(self._resumed_rng)
            self._resumed_rng = None

    def on_train_batch_end(self, trainer: Fit, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save when it is time."""
        step = trainer.global_step
        due = step % self.every == 0 or (self.keep_every > 0 and step % self.keep_every == 0)
        if due and between_steps(trainer, batch_idx):
            self.save(trainer)

    def on_train_end(self, trainer: Fit, pl_module: Module) -> None:
        """The last step is always saved."""
        self.save(trainer)

    def save(self, trainer: Fit) -> None:
        """Replace ``last.ckpt`` by the present state, in one move."""
        step = trainer.global_step
        if step == self._saved_step:
            return
        temporary = self.folder / ".last.ckpt.part"
        self.folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            if self.keep_every and step % self.keep_every == 0:
                kept = self.folder / f"step-{step:08d}.ckpt"
                kept.unlink(missing_ok=True)
                kept.hardlink_to(temporary)
            temporary.replace(self.last)
            self.export(step)
        self._saved_step = step


def set_global_step(trainer: Fit, step: int) -> None:
    """Let a fresh trainer count on from ``step``."""
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.ready = step
    loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.manual_optimization.optim_step_progress.total.ready = step
    loop.manual_optimization.optim_step_progress.total.completed = step
    loop._batches_that_stepped = step


def between_steps(trainer: Fit, batch_idx: int) -> bool:
    """Whether the optimiser has just stepped, so that no gradient is pending."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def _respan(scheduler: Any) -> None:
    """Learning rates as the present schedule has them, which differs from the checkpoint's when steps were added."""
    if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        for group, base, factor in zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


class GradientGuard(Callback):
    """Clips gradients, and leaves out a step whose gradient is not finite.

    bfloat16 on a CPU gives such a gradient about once in 200 steps; left in, it destroys the weights and the
    optimiser's moments. The step is counted but changes nothing. With float16 the loss scaler does this by itself.

    Args:
        clip: largest norm; 0 leaves gradients as they are.
        max_bad_share: stop when more than this share of the last 100 steps were left out.
    """

    def __init__(self, *, clip: float, max_bad_share: float) -> None:
        self.clip = clip
        self.max_bad_share = max_bad_share
        self.skipped = 0
        self.norm: torch.Tensor | None = None
        self._recent: deque[bool] = deque(maxlen=100)

    def state_dict(self) -> dict[str, Any]:
        """Counts, for the checkpoint."""
        return {"skipped": self.skipped, "recent": [bool(b) for b in self._recent]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts, from the checkpoint."""
        self.skipped = int(state_dict["skipped"])
        self._recent = deque(state_dict["recent"], maxlen=100)

    def on_before_optimizer_step(self, trainer: Fit, pl_module: Module, optimizer: torch.optim.Optimizer) -> None:
        """Look at the gradients, clip them or drop them."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            return
        norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        self.norm = norm.detach()
        bad = not bool(torch.isfinite(norm))
        if trainer.world_size > 1:  # all ranks must take the same decision
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        self._recent.append(bad)
        if bad:
            self.skipped += 1
            self._stop_if_frequent(trainer)
            if not scaled:  # the scaler needs to see them; it leaves the step out itself
                for p in params:
                    p.grad = None
        elif self.clip:
            torch.nn.utils.clip_grads_with_norm_(params, self.clip, norm)

    def _stop_if_frequent(self, trainer: Fit) -> None:
        most = max(1, round(self.max_bad_share * 100))
        if sum(self._recent) > most:
            raise TrainingError(
                f"{sum(self._recent)} of the last {len(self._recent)} steps (up to step {trainer.global_step}) had a "
                "gradient that is not finite; lower the learning rate, or train with --trainer.precision 32-true"
            )


class PoliteStop(Callback):
    """SIGTERM, SIGUSR1 or Ctrl-C: finish the step, write a checkpoint, leave. A second Ctrl-C leaves at once.

    Attributes:
        signal: number of the signal that came; None while there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What the process should return: 130 after Ctrl-C, 143 after SIGTERM and its like; 0 when not stopped."""
        if self.signal is None:
            return 0
        return 130 if self.signal == signal.SIGINT else 143

    def on_train_start(self, trainer: Fit, pl_module: Module) -> None:
        """Take the signals over for the time of the fit."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)
            if number is not None:
                self._before[number] = signal.signal(number, self._caught)

    def _caught(self, number: int, frame: Any) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number

    def on_train_batch_end(self, trainer: Fit, pl_module: Module, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Between two optimiser steps, see whether to stop."""
        if not between_steps(trainer, batch_idx):
            return
        stop = self.signal is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            self.signal = self.signal or (signal.SIGTERM if stop else None)
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Fit, pl_module: Module) -> None:
        """Give the signals back before the trainer gives its own back: the other way round its handler would stay, and
        with it the whole trainer."""
        for number, handler in self._before.items():
            with contextlib.suppress(ValueError):  # not the main thread any more
                signal.signal(number, handler)
        self._before = {}

    def on_exception(self, trainer: Fit, pl_module: Module, exception: BaseException) -> None:
        """See ``on_train_end``."""
        self.on_train_end(trainer, pl_module)
