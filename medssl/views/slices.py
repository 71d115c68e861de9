"""Slices of volumes: which are read, and views of whole volumes that differ in one transform each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.views.placement import foreground_box, window_start
from medssl.views.volume_augment import VolumeAugmentation, draw_parameters

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["SINGLE", "draw_single_transforms", "one_of_each_part", "read_slices", "spread_slices"]

FAR_APART = 16  # times as many slices as are wanted: then each is read for itself

SINGLE = VolumeAugmentation(
    affine=1.0, rotation_deg=(10.0, 10.0, 10.0), scale=(0.9, 1.1), blur=1.0, blur_sd=(0.0, 2.0), coarse=1.0,
    coarse_factor=(1.5, 4.0), noise=1.0, noise_sd=0.25, brightness=0.0, contrast=0.0, gamma=1.0,
    gamma_power=(0.74, 1.35),
)  # fmt: skip
"""Strengths of the transforms of which ``draw_single_transforms`` takes one: about TorchIO's defaults."""

TRANSFORMS: tuple[tuple[str, ...], ...] = (
    ("flip",), ("rotation", "scale"), ("coarse",), ("noise_sd",), ("blur_sd",), ("gamma",)
)  # fmt: skip
NEUTRAL = {"flip": 0, "rotation": 0, "scale": 1, "coarse": 1, "noise_sd": 0, "blur_sd": 0, "gamma": 1}


def spread_slices(depth: int, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which slices stand for a whole volume.

    Of a thicker one every (depth / count)-th, from a random first one; a thinner one is whole, in the middle.

    Args:
        depth: slices of the volume.
        count: slices wanted.
        rng: drawn from once.

    Returns:
        (count,) places, some outside the volume where it is thinner, and (count,) whether they lie inside.
    """
    first = rng.random()
    if depth >= count:
        places = np.floor((np.arange(count) + first) * depth / count).astype(np.int64)
    else:
        places = np.arange(count, dtype=np.int64) - (count - depth) // 2
    return places, (places >= 0) & (places < depth)


def one_of_each_part(depth: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,) places: one slice of each of ``count`` equal parts of a volume."""
    return np.floor((np.arange(count) + rng.random(count)) * depth / count).astype(np.int64)


def read_slices(
    reader: Reader, places: NDArray[np.int64], plane: Sequence[int], rng: np.random.Generator
) -> NDArray[Any]:
    """Slices of a volume, cut or padded in their plane: over the body, see ``window_start``.

    Args:
        reader: of the volume.
        places: (n,) rising; what lies outside the volume is filled.
        plane: size (y, x).
        rng: drawn from for the start in the plane.

    Returns:
        (C, n, *plane) stored integers.
    """
    extent = int(places[-1] - places[0]) + 1
    start = window_start(reader.shape, (reader.shape[0], *plane), foreground_box(reader), rng)[1:].tolist()
    if extent > FAR_APART * len(places):
        return np.concatenate([reader.read([int(p), *start], [1, *plane]) for p in places], axis=1)
    block = reader.read([int(places[0]), *start], [extent, *plane])
    return block[:, places - places[0]]


def draw_single_transforms(
    shape: tuple[int, ...], generator: torch.Generator, settings: VolumeAugmentation = SINGLE
) -> dict[str, Tensor]:
    """Parameters of two views of each volume, each changed by one transform alone, the second by another one.

    Flip, rotation with scaling, loss of resolution, noise, blur, gamma.

    Args:
        shape: (B, C, Z, Y, X) of the volumes.
        generator: on their device.
        settings: strengths.

    Returns:
        As ``draw_parameters`` for 2 B rows, those of the first view in front.
    """
    batch = shape[0]
    parameters = draw_parameters((2 * batch, *shape[1:]), settings, generator)
    keys = torch.rand(batch, len(TRANSFORMS), generator=generator, device=generator.device)
    chosen = keys.argsort(1)[:, :2].T.flatten()
    for number, names in enumerate(TRANSFORMS):
        for name in names:
            value = parameters[name]
            kept = (chosen == number).view(-1, *(1,) * (value.ndim - 1))
            parameters[name] = torch.where(kept, value, torch.full_like(value, NEUTRAL[name]))
    return parameters
