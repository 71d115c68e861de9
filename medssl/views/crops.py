"""Cutting crops out of windows that are on the device already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["cut_bases", "cut_crops", "foreground_share"]


def cut_crops(window: Tensor, starts: Tensor, crop: Sequence[int]) -> Tensor:
    """Crops at given places, by one indexing of a strided view: no loop over the batch.

    Args:
        window: (B, C, Z, Y, X).
        starts: (B, S, 3) int64 first voxels, each from 0 to the window's size less ``crop``.
        crop: size (z, y, x).

    Returns:
        (B * S, C, *crop), volume-major.
    """
    strided = window
    for axis, size in enumerate(crop):
        strided = strided.unfold(axis + 2, size, 1)
    row = torch.arange(len(window), device=window.device)[:, None]
    z, y, x = starts.unbind(-1)
    return strided[row, :, z, y, x].flatten(0, 1)


def cut_bases(window: Tensor, crop: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The window cut into the tiles of a grid, x fastest.

    Args:
        window: (B, C, Z, Y, X) of exactly ``grid * crop`` voxels.
        crop: size of a tile (z, y, x).
        grid: tiles along z, y, x; n is their product.

    Returns:
        (B, n, C, *crop).
    """
    (z, y, x), (gz, gy, gx) = crop, grid
    b, c = window.shape[:2]
    tiles = window.reshape(b, c, gz, z, gy, y, gx, x)
    return tiles.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, gz * gy * gx, c, z, y, x)


def foreground_share(crops: Tensor, background: Tensor, tolerance: Tensor) -> Tensor:
    """Share of voxels of each crop that differ from the background in any channel.

    Args:
        crops: (B, S, C, Z, Y, X).
        background: (B, C) value of what lies outside the body.
        tolerance: (B,) largest difference that still counts as background.

    Returns:
        (B, S) in [0, 1].
    """
    apart = (crops - background[:, None, :, None, None, None]).abs() > tolerance.view(-1, 1, 1, 1, 1, 1)
    return apart.any(2).float().mean((-3, -2, -1))
