"""Weights of positive pairs: a plug-in for every objective that has one loss a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from medssl.configurable import Configurable

__all__ = ["PairWeighting"]


class PairWeighting(nn.Module, Configurable, ABC):
    """Decides how much each pair of the batch counts.

    What it remembers of samples between steps stands in buffers, so that it is checkpointed and survives ``resume``.
    """

    def remember(self, samples: int) -> None:
        """Make the memory of single recordings; called once before training.

        Args:
            samples: rows that ``index`` counts.
        """

    def plan(self, calls: int) -> None:
        """Learn how long the training is; called before the first step, and when a run is continued or extended.

        Args:
            calls: how often ``forward`` is called in the whole training, in each process.
        """

    def logs(self) -> dict[str, Tensor]:
        """Named scalars of the last batch for the run's metrics. Default: none."""
        return {}

    @abstractmethod
    def forward(self, losses: Tensor, index: Tensor) -> Tensor:
        """Weights of the pairs of one batch.

        Args:
            losses: (N,) un-weighted losses of the pairs, detached, float32; NaN for samples the objective left out.
            index: (N,) int64 stable dataset rows.

        Returns:
            (N,) weights ≥ 0, without gradient. The loss is ``(1/N) Σ wᵢ Lᵢ``: divided by the number of pairs, not by
            the weights, so that doubt lowers the step.
        """
