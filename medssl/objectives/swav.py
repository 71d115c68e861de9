"""SwAV: assignments to prototypes of one view, predicted from another."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from medssl.errors import ConfigError
from medssl.objectives.assignment import (
    assign,
    assignment_logs,
    new_prototypes,
    prediction_loss,
    refuse_shares,
    still,
)
from medssl.objectives.base import Family, Given, LossOutput, Objective, positive
from medssl.objectives.gather import gather_views
from medssl.objectives.pairs import unit

__all__ = ["SwAV", "pushed"]

ASSIGNING = 2  # views whose assignments are predicted


def pushed(queue: Tensor, newest: Tensor) -> Tensor:
    """First in, first out: (A, L, D) with the newest (A, M, D) in front and as many of the oldest gone.

    >>> pushed(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[9.0]]])).flatten()
    tensor([9., 1., 2.])
    """
    return torch.cat([newest, queue], dim=1)[:, : queue.shape[1]]


class SwAV(Objective):
    """SwAV: cluster assignment of a view, prototypes used equally, predicted from the other views (2020).

    ``prediction_loss`` of the assignments of the first two views (``sinkhorn``); prototypes are unit vectors that are
    trained along. Caron et al., *Unsupervised learning of visual features by contrasting cluster assignments*, NeurIPS
    2020. Without a teacher, and without negatives.

    A loss that stays at log K (``loss_of_uniform`` 1) means collapse: lower epsilon, freeze the prototypes longer. Far
    fewer recordings a batch than prototypes leave prototypes empty: use a queue, or fewer prototypes; accumulating
    gradients does not help. One recording and no queue teach nothing.

    Args:
        prototypes: K; about ten times the clusters that are expected. 3000 for ImageNet.
        epsilon: of the assignments; 0.05, or 0.03 where it collapses.
        iterations: of Sinkhorn-Knopp.
        temperature: of the predictions.
        queue: embeddings of earlier steps that are assigned along, a view; 3840 at batch 256; 0 for none.
        queue_start: share of the training after which the queue is used, once it is full.
        frozen: share of the training at the start in which prototypes do not move.
    """

    family: ClassVar[Family] = "clustering"

    queue: Tensor
    filled: Tensor

    def __init__(
        self,
        *,
        prototypes: int = 300,
        epsilon: float = 0.05,
        iterations: int = 3,
        temperature: float = 0.1,
        queue: int = 0,
        queue_start: float = 0.075,
        frozen: float = 0.005,
    ) -> None:
        super().__init__()
        positive("SwAV", epsilon=epsilon, iterations=iterations, temperature=temperature)
        refuse_shares("SwAV", queue_start=queue_start, frozen=frozen)
        if prototypes < 2 or queue < 0:
            raise ConfigError(f"SwAV takes 2 or more prototypes and a queue of 0 or more, not {prototypes} and {queue}")
        self.count, self.queue_size = prototypes, queue
        self.epsilon, self.iterations, self.temperature = epsilon, iterations, temperature
        self.queue_start, self.frozen = queue_start, frozen

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        self.prototypes: nn.Parameter = new_prototypes(self.count, width)
        if self.queue_size:
            self.register_buffer("queue", torch.zeros(ASSIGNING, self.queue_size, width))
            self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``prediction_loss``."""
        queue = self.queue if self._uses_queue(given.progress) else None
        embeddings = unit(views)
        prototypes = unit(still(self.prototypes, given.progress < self.frozen))
        scores = embeddings @ prototypes.T
        earlier = None if queue is None else queue @ prototypes.detach().T  # assigned anew with these prototypes
        q = assign(scores[:ASSIGNING], epsilon=self.epsilon, iterations=self.iterations, earlier=earlier)
        if self.queue_size and self.training:
            self._push(embeddings[:ASSIGNING].detach())
        loss = prediction_loss(scores, q, temperature=self.temperature)
        return LossOutput(loss, assignment_logs(loss.detach(), scores, q))

    def _uses_queue(self, progress: float) -> bool:
        return bool(self.queue_size) and progress >= self.queue_start and int(self.filled) >= self.queue_size

    @torch.no_grad()
    def _push(self, embeddings: Tensor) -> None:
        joined = gather_views(embeddings).views.to(self.queue.dtype)
        # a step that overflowed is skipped by training; what it left here would spread over every later assignment
        self.queue.copy_(pushed(self.queue, joined.nan_to_num(0.0, 0.0, 0.0)))
        self.filled.copy_((self.filled + joined.shape[1]).clamp_max(self.queue_size))
