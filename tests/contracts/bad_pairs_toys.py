"""Losses of pairs with planted noisy and faulty ones, and a miner that is fed with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medssl.objectives.bad_pairs import BadPairMiner

N, EPOCHS = 120, 6


def table(epochs: int = EPOCHS) -> Tensor:
    """(epochs, N) losses; the first 10 pairs are noisy, the next 10 faulty."""
    losses = 3 + 0.3 * torch.randn(epochs, N, generator=torch.Generator().manual_seed(0))
    losses[:, :10] -= 2
    losses[:, 10:20] += 2
    return losses


def miner(**options: Any) -> BadPairMiner:
    """One with low thresholds and a warm-up of two epochs."""
    made = BadPairMiner(**{"warmup": 2, "noisy": 1.5, "faulty": 1.5} | options)
    made.remember(N)
    return made


def feed(to: BadPairMiner, losses: Tensor, *, seed: int = 0, first: int = 0, rank: int = 0, world: int = 1) -> Tensor:
    """Weights (epochs, N), NaN for pairs of other processes, which get batches of 5 each in an order of each epoch."""
    found = torch.full(losses.shape, torch.nan)
    for epoch, row in enumerate(losses, start=first):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(100 * seed + epoch))
        for batch in order.split(5 * world):
            mine = batch[rank::world]
            found[epoch - first, mine] = to(row[mine], mine)
    return found
