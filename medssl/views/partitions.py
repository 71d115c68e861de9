"""Slices (or blocks of slices) of a volume by their relative place along the axial axis, and their augmentation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medssl.views.rows import uniform

__all__ = ["SliceParameters", "apply_slice_intensity", "apply_zoom", "draw_slice_parameters", "partition_bounds"]

CEILING = 1.5  # of the input range above its lower end; published


class SliceParameters(NamedTuple):
    """How each of N slices is changed.

    Attributes:
        window: (N, 2) place of the window in the plane (y, x), 0 to 1 of what it leaves free.
        brightness: (N,) added, as a share of the input range.
        contrast: (N,) factor of the distance from the slice's mean.
    """

    window: Tensor
    brightness: Tensor
    contrast: Tensor


def partition_bounds(slices: int, parts: int, *, whole: bool = True) -> NDArray[np.int64]:
    """First and past-the-last slice of every part, (parts, 2).

    Args:
        slices: number of slices, at least ``parts``.
        parts: number of parts.
        whole: the parts share all slices, as evenly as they can. False: all have ⌊slices / parts⌋ and the last slices
            belong to none, as in the released code of Chaitanya et al. (2020).

    >>> partition_bounds(7, 3).tolist(), partition_bounds(7, 3, whole=False).tolist()
    ([[0, 3], [3, 5], [5, 7]], [[0, 2], [2, 4], [4, 6]])
    """
    length, spare = divmod(slices, parts)
    lengths = np.full(parts, length, np.int64)
    if whole:
        lengths[:spare] += 1
    stops = np.cumsum(lengths)
    return np.stack([stops - lengths, stops], 1)


def draw_slice_parameters(n: int, generator: torch.Generator, *, brightness: float, contrast: float) -> SliceParameters:
    """Random parameters of N slices, each for itself.

    Args:
        n: N.
        generator: on the device of the slices.
        brightness: largest shift, as a share of the input range.
        contrast: largest departure of the factor from 1.
    """
    return SliceParameters(
        uniform((n, 2), 0, 1, generator),
        uniform(n, -brightness, brightness, generator),
        uniform(n, 1 - contrast, 1 + contrast, generator),
    )


def apply_zoom(x: Tensor, parameters: SliceParameters, fraction: float) -> Tensor:
    """A window of the plane, enlarged linearly to the plane's size; the axial axis is left alone.

    Args:
        x: (N, C, Z, Y, X), float.
        parameters: N of them.
        fraction: edge of the window as a share of the plane's; 1 changes nothing.
    """
    if fraction == 1:
        return x
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = fraction
    # the window's middle, on a plane from -1 to 1; affine_grid counts (x, y)
    theta[:, :, 2] = ((2 * parameters.window - 1) * (1 - fraction)).flip(1)
    planes = x.flatten(1, 2).float()
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    return functional.grid_sample(planes, grid, padding_mode="border", align_corners=False).view_as(x)


def apply_slice_intensity(x: Tensor, parameters: SliceParameters, input_range: Tensor) -> Tensor:
    """Brightness, then contrast about the mean, then clipped to the input range, half of it longer at the upper end.

    Args:
        x: (N, C, Z, Y, X), float.
        parameters: N of them.
        input_range: (N, 2) lowest and highest network input.
    """
    low, high = (input_range[:, i].view(-1, 1, 1, 1, 1).to(x) for i in (0, 1))
    shift, factor = (p.view(-1, 1, 1, 1, 1).to(x) for p in (parameters.brightness, parameters.contrast))
    brighter = x + shift * (high - low)
    mean = brighter.mean((2, 3, 4), keepdim=True)
    return torch.clamp((brighter - mean) * factor + mean, low, low + CEILING * (high - low))
