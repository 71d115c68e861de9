"""Telling hidden patches of an input from the visible ones: patches, masks, targets and the error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.base import full_precision, promoted

__all__ = [
    "Target",
    "hidden_error",
    "padded",
    "patch_targets",
    "patchify",
    "random_mask",
    "unpatchify",
    "visible_cells",
]

Target = Literal["token", "token_channel", "raw"]
"""A patch standardised over all its values (MAE), over those of each channel (VideoMAE), or as it is."""


def padded(x: Tensor, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The input, each axis lengthened at its end to a multiple of the patch by repeating the edge.

    Args:
        x: (B, C, *size).
        patch: edges of a patch.

    Returns:
        (B, C, *longer), and (*longer) booleans that are True where ``x`` itself lies.

    >>> padded(torch.tensor([[[1.0, 2.0, 3.0]]]), (2,))
    (tensor([[[1., 2., 3., 3.]]]), tensor([ True,  True,  True, False]))
    """
    size = x.shape[2:]
    longer = [(s + p - 1) // p * p for s, p in zip(size, patch, strict=True)]
    valid = torch.ones(longer, dtype=torch.bool, device=x.device)
    for axis, (old, new) in enumerate(zip(size, longer, strict=True)):
        place = torch.arange(new, device=x.device)
        x = x.index_select(axis + 2, place.clamp_max(old - 1))
        valid &= (place < old).view(-1, *(1,) * (len(size) - axis - 1))
    return x, valid


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """An input as rows of patches, without overlap.

    Args:
        x: (B, C, *size), each axis a multiple of the patch.
        patch: P, edges of a patch; one to three axes or more.

    Returns:
        (B, L, ΠP · C): patches in raster order, in each its places in raster order, the channel fastest.

    >>> patchify(torch.arange(8.0).view(1, 2, 4), (2,))
    tensor([[[0., 4., 1., 5.],
             [2., 6., 3., 7.]]])
    """
    axes = len(patch)
    split = [n for size, p in zip(x.shape[2:], patch, strict=True) for n in (size // p, p)]
    cut = x.reshape(*x.shape[:2], *split)  # (B, C, grid₁, P₁, grid₂, P₂, …)
    order = (0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1)
    return cut.permute(order).reshape(len(x), math.prod(split[::2]), -1)


def unpatchify(tokens: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """What ``patchify`` came from: (B, L, ΠP · C) → (B, C, *size).

    Args:
        tokens: as ``patchify`` gives them.
        grid: patches along each axis; L is their product.
        patch: edges of a patch.
    """
    axes = len(grid)
    cut = tokens.reshape(len(tokens), *grid, *patch, -1)
    order = (0, 1 + 2 * axes, *(place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)))
    whole: Tensor = cut.permute(order).flatten(2).unflatten(2, [g * p for g, p in zip(grid, patch, strict=True)])
    return whole


def visible_cells(grid: Sequence[int], ratio: float, *, group: Sequence[int] | None = None) -> int:
    """How many of the L cells ``random_mask`` leaves visible: ⌊L (1 - ratio)⌋, at least 1 and at most L - 1.

    Groups that fill the grid are counted instead of cells, so that none is hidden in part.

    >>> visible_cells((14, 14), 0.75), visible_cells((8, 14, 14), 0.9, group=(8, 1, 1))
    (49, 152)
    """
    group = group or (1,) * len(grid)
    fits = all(g % edge == 0 for g, edge in zip(grid, group, strict=True))
    unit = math.prod(group) if fits else 1
    count = math.prod(grid) // unit
    kept = math.floor(count * (1 - ratio) + 1e-9)  # 10 cells at 0.9 are 1, whatever 1 - 0.9 is in binary
    return unit * min(max(kept, 1), count - 1)


def random_mask(
    n: int, grid: Sequence[int], ratio: float, generator: torch.Generator, *, group: Sequence[int] | None = None
) -> Tensor:
    """Masks that hide the same number of cells in each row, those with the largest uniform noise (He et al., 2022).

    Args:
        n: rows.
        grid: cells along each axis, two or more in all.
        ratio: share of hidden cells; see ``visible_cells``.
        generator: of the noise; the masks are made on its device.
        group: cells along each axis that are hidden together. (1, …): each for itself; (frames, 1, 1): tubes, the
            same in all frames (VideoMAE, 2022); (2, 2, 2): blocks. Where groups do not fill the grid, those at its end
            are smaller and one may be hidden in part.

    Returns:
        (n, *grid) booleans, True where hidden.

    >>> random_mask(1, (3, 2), 0.5, torch.Generator().manual_seed(0), group=(3, 1)).int()
    tensor([[[0, 1],
             [0, 1],
             [0, 1]]], dtype=torch.int32)
    """
    edges = tuple(group or (1,) * len(grid))
    groups = [-(-g // edge) for g, edge in zip(grid, edges, strict=True)]
    # places in the order of the noise: equal noise of two groups would let their cells mix
    noise = torch.rand(n, math.prod(groups), generator=generator, device=generator.device)
    rank = noise.argsort(1).argsort(1).view(n, *groups)
    for axis, (length, edge) in enumerate(zip(grid, edges, strict=True), start=1):
        rank = rank.repeat_interleave(edge, axis).narrow(axis, 0, length)
    place = rank.flatten(1).argsort(stable=True, dim=1).argsort(1)
    hidden: Tensor = place >= visible_cells(grid, ratio, group=group)
    return hidden.view(n, *grid)


def patch_targets(
    tokens: Tensor, *, channels: int = 1, target: Target = "token", min_token_std: float = 0.02
) -> Tensor:
    """What is to be told of each patch, in at least float32, without gradient.

    ``token``: (x - mean) / max(√(var + 1e-6), min) over all values of a patch (mae_st). ``token_channel``:
    (x - mean) / max(√var + 1e-6, min) over the values of each channel (VideoMAE). Variances are unbiased. ``raw``: x.

    Args:
        tokens: (B, L, P · C), the channel fastest.
        channels: C.
        target: see above.
        min_token_std: smallest standard deviation that is brought to 1, in units of the input: noise of patches that
            show nothing (air, a lead that fell off) is not blown up. Published: 0.
    """
    with full_precision(tokens.device):
        x = promoted(tokens.detach())
        if target == "raw":
            return x
        values = x.unsqueeze(-1) if target == "token" else x.unflatten(-1, (-1, channels))
        correction = min(1, values.shape[-2] - 1)  # a single value has no spread
        variance, mean = torch.var_mean(values, dim=-2, keepdim=True, correction=correction)
        spread = (variance + 1e-6).sqrt() if target == "token" else variance.sqrt() + 1e-6
        return ((values - mean) / spread.clamp_min(min_token_std)).flatten(-2)


def hidden_error(prediction: Tensor, target: Tensor, hidden: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error over what was hidden: Σ h w (p - t)² / Σ h w, over patches and their values.

    Without weights this is MAE's error, the mean within a patch and then over hidden patches. What is visible, or has
    no weight, has no gradient.

    Args:
        prediction: (B, L, V).
        target: (B, L, V); no gradient.
        hidden: (B, L) booleans.
        weights: (B, L), or (B, L, V) for single values, from 0: what does not count (padding, air) has 0.

    Returns:
        Scalar, at least float32; 0 where nothing counts.
    """
    with full_precision(prediction.device):
        error = functional.mse_loss(promoted(prediction), promoted(target.detach()), reduction="none")
        if weights is None or weights.ndim == 2:
            error = error.mean(-1, keepdim=True)
        share = hidden.unsqueeze(-1).to(error.dtype)
        if weights is not None:
            share = share * (weights.unsqueeze(-1) if weights.ndim == 2 else weights)
        total = torch.where(share > 0, share * error, 0.0).sum()
        return total / share.sum().clamp_min(1e-12)
