"""Progress of a fit: rate, time left, loss, and how much of the time went into waiting for data."""

from __future__ import annotations

from contextlib import ExitStack

from lightning.pytorch.callbacks import Callback

from medssl.progress import Progress, track
from medssl.training.callbacks import Fit, Module, between_steps
from medssl.training.metrics_log import MetricsLog

__all__ = ["FitProgress", "wait_hint"]


def wait_hint(share: float, workers: int) -> str:
    """Which knob to turn when ``share`` of the time goes into waiting for data; empty when all is well.

    >>> wait_hint(0.5, 2)
    'waits for data 50 % of the time: raise workers above 2'
    """
    if share < 0.2:
        return ""
    knob = "set workers to 2 or more" if workers == 0 else f"raise workers above {workers}"
    return f"waits for data {share:.0%} of the time: {knob}".replace("%", " %")


class FitProgress(Callback):
    """A bar on a terminal, a line every few seconds elsewhere.

    Args:
        log: where loss and data wait are known.
        what: the word in front, e.g. ``"pre-training"``.
        workers: reading processes, for the hint.
    """

    def __init__(self, log: MetricsLog, *, what: str, workers: int) -> None:
        self.log_from = log
        self.what = what
        self.workers = workers
        self._stack = ExitStack()
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Fit, pl_module: Module) -> None:
        """Start the bar at the present step."""
        if not trainer.is_global_zero:
            return
        done = trainer.global_step
        what = f"{self.what} from step {done}" if done else self.what
        self._bar = self._stack.enter_context(track(trainer.max_steps - done, what, unit="steps"))

    def on_train_batch_end(
        self, trainer: Fit, pl_module: Module, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """One step further."""
        if self._bar is None or not between_steps(trainer, batch_idx):
            return
        latest = self.log_from.latest
        if not latest:
            self._bar.advance()
            return
        wait = latest.get("data_wait", 0.0)
        parts = [f"loss {latest['loss']:.4g}"] if "loss" in latest else []
        parts.append(wait_hint(wait, self.workers) or f"data wait {wait:.0%}")
        if latest.get("skipped"):
            parts.append(f"{latest['skipped']:.0f} steps skipped")
        self._bar.advance(note=", ".join(parts))

    def teardown(self, trainer: Fit, pl_module: Module, stage: str) -> None:
        """Close the bar, also after an error."""
        self._stack.close()
        self._bar = None
