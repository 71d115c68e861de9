"""Transformations that a pretext task tells apart: flips and turns of volumes, orders of segments."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.errors import ConfigError

__all__ = ["distant_permutations", "flip", "rotate", "rotations_of_a_cube"]


def rotate(rows: Tensor, permutations: list[tuple[int, ...]], which: Tensor, flips: Tensor) -> Tensor:
    """Axes permuted, then flipped, each row in its own way and all rows at once.

    Args:
        rows: (N, C, Z, Y, X).
        permutations: of the three axes; those that are drawn must keep the size.
        which: (N,) place among ``permutations``.
        flips: (N, 3) booleans.
    """
    out = rows
    for place, axes in enumerate(permutations):
        if axes != (0, 1, 2):
            turned = rows.permute(0, 1, *(2 + a for a in axes))
            out = torch.where((which == place).view(-1, 1, 1, 1, 1), turned, out)
    return flip(out, (0, 1, 2), flips)


def flip(rows: Tensor, axes: tuple[int, ...], flips: Tensor) -> Tensor:
    """Rows (N, C, *size) flipped along the ``axes`` that ``flips`` (N, len(axes)), booleans, names for each."""
    for i, axis in enumerate(axes):
        chosen = flips[:, i].view(-1, *(1,) * (rows.ndim - 1))
        rows = torch.where(chosen, rows.flip(2 + axis), rows)
    return rows


def rotations_of_a_cube(about: tuple[int, ...] | None = None) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Rotations of a cube as pairs (permutation of the axes, which of them is flipped after it), the identity first.

    Args:
        about: only turns about one of these axes; None for all 24.

    >>> [len(rotations_of_a_cube(about)) for about in ((0,), (0, 1, 2), None)]
    [4, 10, 24]
    """
    found = []
    for axes in itertools.permutations(range(3)):
        odd = sum(axes[i] > axes[j] for i, j in itertools.combinations(range(3), 2)) % 2
        for flips in itertools.product((False, True), repeat=3):
            proper = sum(flips) % 2 == odd  # else it would mirror
            if proper and (about is None or any(axes[a] == a and not flips[a] for a in about)):
                found.append((axes, flips))
    return found


def distant_permutations(length: int, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Permutations that differ in many places: each next one has the largest Hamming distance to its nearest before it.

    Args:
        length: 2 to 9.
        count: 2 to ``length!``.
        seed: decides among equals.

    Returns:
        (count, length), the identity first.

    Raises:
        ConfigError: out of range.

    >>> distant_permutations(3, 3).tolist()[0]
    [0, 1, 2]
    """
    if not 2 <= length <= 9:
        raise ConfigError(f"orders of 2 to 9 segments can be told apart, not of {length}")
    flat = itertools.chain.from_iterable(itertools.permutations(range(length)))
    every = np.fromiter(flat, dtype=np.int8).reshape(-1, length)
    if not 2 <= count <= len(every):
        raise ConfigError(f"{length} segments have 2 to {len(every)} orders to tell apart, not {count}")
    rng = np.random.default_rng(seed)
    nearest, chosen = np.full(len(every), length), [0]
    while len(chosen) < count:
        nearest = np.minimum(nearest, (every != every[chosen[-1]]).sum(1))
        chosen.append(int(rng.choice(np.flatnonzero(nearest == nearest.max()))))
    return every[chosen].astype(np.int64)
