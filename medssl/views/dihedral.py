"""Flips and quarter turns of volumes, exact and batched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["apply_dihedral", "draw_dihedral"]


def draw_dihedral(
    n: int, generator: torch.Generator, *, flip: Sequence[float], turn: float, square: bool
) -> dict[str, Tensor]:
    """Independent flips of each axis and a quarter turn in the (y, x) plane, for n rows.

    Args:
        n: rows.
        generator: on the device of the data.
        flip: probability for z, y, x.
        turn: probability of a turn.
        square: y and x have one size, so that 90° and 270° are possible; otherwise every turn is one of 180°.

    Returns:
        ``flip`` (n, 3) booleans and ``turn`` (n,) int64 quarter turns, 0 to 3.
    """
    device = generator.device
    chance = torch.tensor(list(flip), device=device)
    flips = torch.rand(n, 3, generator=generator, device=device) < chance
    turned = torch.rand(n, generator=generator, device=device) < turn
    quarter = torch.randint(1, 4, (n,), generator=generator, device=device)
    if not square:
        quarter = torch.full_like(quarter, 2)
    return {"flip": flips, "turn": torch.where(turned, quarter, 0)}


def apply_dihedral(x: Tensor, flip: Tensor, turn: Tensor) -> Tensor:
    """Flip each row, then turn it counter-clockwise in the (y, x) plane (from y towards x, as ``torch.rot90``).

    A turn is a transposition with further flips, so that all rows take four masked copies whatever was drawn.

    Args:
        x: (N, C, Z, Y, X).
        flip: (N, 3) booleans for z, y, x.
        turn: (N,) quarter turns.
    """
    # rot90(k=1) = transpose, then flip y; k=2 = flip y and x; k=3 = transpose, then flip x
    odd = turn % 2 == 1
    flip_z = flip[:, 0]
    # flips before a transposition change axes after it
    flip_y = torch.where(odd, flip[:, 2], flip[:, 1]) ^ (turn == 1) ^ (turn == 2)
    flip_x = torch.where(odd, flip[:, 1], flip[:, 2]) ^ (turn == 3) ^ (turn == 2)
    if x.shape[-1] == x.shape[-2]:
        x = torch.where(_rows(odd, x), x.transpose(-1, -2), x)
    for axis, chosen in ((-3, flip_z), (-2, flip_y), (-1, flip_x)):
        x = torch.where(_rows(chosen, x), x.flip(axis), x)
    return x


def _rows(chosen: Tensor, x: Tensor) -> Tensor:
    return chosen.view(-1, *(1,) * (x.ndim - 1))
