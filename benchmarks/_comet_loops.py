"""COMET's losses and masks as they are published: whole similarity matrices, and loops over samples and pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["four_levels", "hidden_segments", "id_level", "observation_level", "over_scales", "sample_level"]

Level = Callable[[Tensor, Tensor], Tensor]


def _both_directions(views: Tensor, half: int) -> Tensor:
    """Of (G, 2N, D), one view before the other: all similarities, then without the diagonal, then their logs."""
    similarity = torch.matmul(views, views.transpose(1, 2))
    below = torch.tril(similarity, diagonal=-1)[:, :, :-1]  # the diagonal goes by pushing the upper half to the left
    above = torch.triu(similarity, diagonal=1)[:, :, 1:]
    losses = -functional.log_softmax(below + above, dim=-1)
    place = torch.arange(half, device=views.device)
    return (losses[:, place, half + place - 1].mean() + losses[:, half + place, place].mean()) / 2


def sample_level(one: Tensor, other: Tensor) -> Tensor:
    """Samples told apart at each step, from (T, 2B, 2B) similarities."""
    if len(one) == 1:
        return one.new_tensor(0.0)
    return _both_directions(torch.cat([one, other], dim=0).transpose(0, 1), len(one))


def observation_level(one: Tensor, other: Tensor) -> Tensor:
    """Steps told apart in each sample, from (B, 2T, 2T) similarities."""
    if one.shape[1] == 1:
        return one.new_tensor(0.0)
    return _both_directions(torch.cat([one, other], dim=1), one.shape[1])


def over_scales(level: Level, one: Tensor, other: Tensor) -> Tensor:
    """Mean over lengths T, T/2, … above 1."""
    total, scales = one.new_tensor(0.0), 0
    while one.shape[1] > 1:
        total, scales = total + level(one, other), scales + 1
        one = functional.max_pool1d(one.transpose(1, 2), kernel_size=2).transpose(1, 2)
        other = functional.max_pool1d(other.transpose(1, 2), kernel_size=2).transpose(1, 2)
    return total / scales


def id_level(one: Tensor, other: Tensor, ids: list[str], temperature: float = 0.1) -> Tensor:
    """Samples of one id drawn together, pair by pair."""
    first = functional.normalize(functional.normalize(one, dim=1).reshape(len(one), -1), dim=1)
    second = functional.normalize(functional.normalize(other, dim=1).reshape(len(one), -1), dim=1)
    similarity = first @ second.T / temperature
    upper, lower = [], []
    for r in range(len(ids)):
        for c in range(len(ids)):
            if r < c and ids[r] == ids[c]:
                upper.append(torch.logsumexp(similarity[r], 0) - similarity[r, c])
            if r > c and ids[r] == ids[c]:
                lower.append(torch.logsumexp(similarity[:, c], 0) - similarity[r, c])
    parts = [torch.stack(part).mean() for part in (upper, lower) if part]
    return torch.stack(parts).mean() if parts else one.new_tensor(0.0)


def four_levels(one: Tensor, other: Tensor, patients: list[str], trials: list[str]) -> Tensor:
    """All of them, with the weights that the released code comes to."""
    ids = id_level(one, other, patients) + id_level(one, other, trials)
    return ids + 0.25 * (over_scales(sample_level, one, other) + over_scales(observation_level, one, other))


def hidden_segments(n: int, steps: int, random: np.random.Generator, segments: int = 5, share: float = 0.1) -> Tensor:
    """(n, steps) steps that are kept, sample by sample and segment by segment."""
    kept, length = torch.full((n, steps), True), int(share * steps)
    for i in range(n):
        for _ in range(segments):
            start = int(random.integers(steps - length + 1))
            kept[i, start : start + length] = False
    return kept
