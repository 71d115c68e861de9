"""Which encoder a run leaves behind, chosen without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medssl.errors import ConfigError
from medssl.methods.base import Method
from medssl.training.monitor_set import count_views
from medssl.training.quality import RepresentationMonitor
from medssl.training.settings import KeepBest

__all__ = ["BestLook", "best_of", "score"]


def score(look: Mapping[str, float], by: KeepBest) -> float:
    """How good an exported encoder looks, higher is better; NaN where it cannot be told.

    Alignment is the mean squared distance of two views on the unit sphere, uniformity the logarithm of the mean of
    exp(-2 · squared distance) between recordings (Wang and Isola, ICML 2020); both are better when lower.

    Args:
        look: what ``RepresentationMonitor`` logged, with ``exported``.
        by: ``rankme``, ``rankme_centred`` or ``alignment_uniformity``.
    """
    if by == "alignment_uniformity":
        return -(look.get("quality_exported_alignment", math.nan) + look["quality_exported_uniformity"])
    return look[f"quality_exported_{by}"]


def best_of(looks: Sequence[Mapping[str, float]], by: KeepBest) -> Mapping[str, float] | None:
    """The look with the highest score, the first of equals; None where none can be told."""
    told = [look for look in looks if math.isfinite(score(look, by))]
    return max(told, key=lambda look: score(look, by)) if told else None


class BestLook:
    """Exports the encoder at every look that is better than all before.

    It remembers nothing by itself: the looks so far stand in the monitor, whose state is part of every checkpoint, so
    that a continued run chooses as an uninterrupted one.

    Args:
        by: see ``TrainSettings.keep_best``.
        monitor: makes the looks.
        export: writes the encoder of a step.
        method: what is looked at.

    Raises:
        ConfigError: the method has no views whose alignment could be measured.
    """

    def __init__(
        self, by: KeepBest, monitor: RepresentationMonitor, export: Callable[[int], None], method: Method
    ) -> None:
        if by == "alignment_uniformity" and not count_views(method):
            raise ConfigError(
                f"keep_best alignment_uniformity compares two or more views of a recording, which "
                f"{type(method).__name__} does not have here; choose rankme"
            )
        self.by, self.monitor, self.export = by, monitor, export
        monitor.on_look = self._looked

    @property
    def best(self) -> Mapping[str, float] | None:
        """The best look so far."""
        return best_of(self.monitor.history, self.by)

    def checkpointed(self, step: int) -> None:
        """After each checkpoint: until there is a look, the last encoder stands."""
        if self.best is None:
            self.export(step)

    def _looked(self, step: int) -> None:
        if self.best is not None and self.best["step"] == step:
            self.export(step)

    def facts(self) -> dict[str, Any]:
        """For summary.json."""
        best, looks = self.best, len(self.monitor.history)
        if best is None:
            return {"by": self.by, "step": None, "score": None, "looks": looks}
        return {"by": self.by, "step": int(best["step"]), "score": score(best, self.by), "looks": looks}
