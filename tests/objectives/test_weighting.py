"""A pair weighting remembers samples in its state and changes the loss of those it doubts."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.weighting import PairWeighting


class Sceptic(PairWeighting):
    """Ignores samples whose loss was above the limit the last time."""

    doubted: Tensor

    def __init__(self, samples: int, *, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("doubted", torch.zeros(samples, dtype=torch.bool))

    def forward(self, losses: Tensor, index: Tensor) -> Tensor:
        weights = (~self.doubted[index]).float()
        self.doubted[index] = losses > self.limit
        return weights


def test_weighting_acts_on_the_rows_of_the_batch_and_is_checkpointed() -> None:
    views = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([7, 2, 5, 0])
    weighting, objective = Sceptic(9, limit=-1.0), InfoNCE()

    def loss(by: Sceptic) -> float:
        return float(objective(views, index=index, weights=functools.partial(by, index=index)).loss)

    assert loss(weighting) == float(objective(views).loss)
    restored = Sceptic(9, limit=-1.0)
    restored.load_state_dict(weighting.state_dict())
    assert restored.doubted.nonzero().flatten().tolist() == [0, 2, 5, 7]
    assert loss(restored) == 0
