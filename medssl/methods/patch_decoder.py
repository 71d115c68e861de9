"""Getting the input back from a feature map, where it was hidden."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medssl.objectives.masked_reconstruction import unpatchify

__all__ = ["PatchDecoder", "hidden_l1"]


class PatchDecoder(nn.Module):
    """A light decoder: two linear layers a cell give the values of the cell's patch, (N, D, *grid) → (N, C, *size).

    Args:
        width: D.
        hidden: features between the layers.
        channels: C of the input.
        patch: input samples a cell along each axis, the map's stride.
    """

    def __init__(self, width: int, *, hidden: int, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.patch = patch
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, channels * math.prod(patch)))

    def forward(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Patches side by side; a last patch that reaches beyond ``size`` is cut.

        Args:
            maps: (N, D, *grid).
            size: of the input, at most grid times patch.
        """
        cells = self.layers(maps.movedim(1, -1).flatten(1, -2))
        whole = unpatchify(cells, maps.shape[2:], self.patch)
        for axis, length in enumerate(size, start=2):
            whole = whole.narrow(axis, 0, length)
        return whole


def hidden_l1(found: Tensor, wanted: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error over what was hidden.

    Args:
        found: (N, C, *size).
        wanted: like ``found``; no gradient.
        hidden: (N, 1, *size) booleans.

    Returns:
        Scalar; 0 where nothing was hidden.
    """
    error = torch.where(hidden, (found - wanted.detach()).abs(), 0.0).sum()
    return error / (hidden.sum() * found.shape[1]).clamp_min(1)
