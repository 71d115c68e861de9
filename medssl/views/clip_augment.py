"""Augmentation of ultrasound video on the device: parameters are drawn a clip, apart from being applied.

Nothing is done that an examination cannot do: no mirroring of the anatomy, no change of colours. What changes are the
hand that holds the probe, the gain and its course over depth, the grey map, and the speckle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medssl.views.rows import chosen, column, on_rows, seeded_noise, seeds, sometimes, uniform

__all__ = ["ClipAugmentation", "apply_intensity", "apply_spatial", "draw_parameters"]

Parameters = dict[str, Tensor]
SLIDERS = 6
"""Depths at which a scanner's time-gain compensation is set; straight lines between them."""


@dataclass(frozen=True)
class ClipAugmentation:
    """What is done to a clip, and how strongly. A plain name is the probability; strengths follow it.

    Depth runs down the image. Changes of intensity keep what is darkest in a clip as it is, so that what lies outside
    the sector stays black, and saturate at what is brightest.

    Attributes:
        flip: probability of a flip from left to right; it makes another anatomy of a heart.
        affine: probability of a rotation with scaling, in the plane.
        rotation_deg: largest rotation.
        scale: smallest and largest size of things, log-uniform.
        gain: probability of a multiplication.
        gain_factor: smallest and largest factor, log-uniform.
        tgc: probability of a gain that varies with depth, as of time-gain compensation.
        tgc_factor: smallest and largest factor at a depth, log-uniform.
        gamma: probability of a power law over the clip's range.
        gamma_power: smallest and largest exponent, log-uniform.
        speckle: probability of multiplicative noise.
        speckle_sd: its largest standard deviation.
    """

    flip: float = 0.0
    affine: float = 0.5
    rotation_deg: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    gain: float = 0.5
    gain_factor: tuple[float, float] = (0.75, 1.33)
    tgc: float = 0.5
    tgc_factor: tuple[float, float] = (0.75, 1.33)
    gamma: float = 0.3
    gamma_power: tuple[float, float] = (0.7, 1.5)
    speckle: float = 0.3
    speckle_sd: float = 0.2


def draw_parameters(n: int, settings: ClipAugmentation, generator: torch.Generator) -> Parameters:
    """Random parameters for every clip; a neutral value where a transform is not applied.

    Args:
        n: clips.
        settings: probabilities and strengths.
        generator: on the device of the batch.

    Returns:
        ``flip`` booleans, ``rotation`` in radians, ``scale``, ``gain``, ``gamma``, ``speckle_sd`` (n,), ``tgc``
        (n, depths) factors, and the scalar ``noise_seed``. They are all that is needed to replay the views.
    """
    g = generator

    def log_uniform(shape: int | tuple[int, ...], bounds: tuple[float, float]) -> Tensor:
        return uniform(shape, math.log(bounds[0]), math.log(bounds[1]), g).exp()

    moved = chosen(n, settings.affine, g)
    largest = math.radians(settings.rotation_deg)
    deep = chosen(n, settings.tgc, g).unsqueeze(1)
    return {
        "flip": chosen(n, settings.flip, g),
        "rotation": torch.where(moved, uniform(n, -largest, largest, g), 0.0),
        "scale": torch.where(moved, log_uniform(n, settings.scale), 1.0),
        "gain": sometimes(settings.gain, log_uniform(n, settings.gain_factor), 1.0, g),
        "tgc": torch.where(deep, log_uniform((n, SLIDERS), settings.tgc_factor), 1.0),
        "gamma": sometimes(settings.gamma, log_uniform(n, settings.gamma_power), 1.0, g),
        "speckle_sd": sometimes(settings.speckle, uniform(n, 0, settings.speckle_sd, g), 0.0, g),
        "noise_seed": seeds(g),
    }


def apply_spatial(x: Tensor, parameters: Parameters, *, nearest: bool = False) -> Tensor:
    """Flip, rotation and scaling in the plane, the same in all frames; what comes from outside repeats the edge.

    Args:
        x: (N, C, T, H, W).
        parameters: of ``draw_parameters``; the same for a clip and its mask.
        nearest: for labels; their type is kept.
    """
    x = on_rows(x, parameters["flip"], lambda rows, _: rows.flip(-1))
    rotation, scale = parameters["rotation"], parameters["scale"]

    def sample(rows: Tensor, places: Tensor) -> Tensor:
        flat = rows.flatten(1, 2).float()  # all frames of all channels move alike
        grid = functional.affine_grid(_theta(rotation[places], scale[places], x.shape[3:]), list(flat.shape), False)
        mode = "nearest" if nearest else "bilinear"
        moved = functional.grid_sample(flat, grid, mode=mode, padding_mode="border", align_corners=False)
        return moved.view_as(rows).to(x.dtype)

    return on_rows(x, (rotation != 0) | (scale != 1), sample)


def apply_intensity(x: Tensor, parameters: Parameters) -> Tensor:
    """Speckle, gain over depth, gain, gamma; each clip with its own strength.

    Args:
        x: (N, C, T, H, W), float.
        parameters: of ``draw_parameters``.
    """
    p = parameters
    x = on_rows(x, p["speckle_sd"] > 0, lambda r, i: _speckle(r, p["speckle_sd"][i], p["noise_seed"]))
    x = on_rows(x, (p["tgc"] != 1).any(1), lambda r, i: _multiplied(r, _over_depth(p["tgc"][i], r)))
    x = on_rows(x, p["gain"] != 1, lambda r, i: _multiplied(r, column(p["gain"][i], r)))
    return on_rows(x, p["gamma"] != 1, lambda r, i: _gamma(r, p["gamma"][i]))


def _theta(rotation: Tensor, scale: Tensor, size: torch.Size) -> Tensor:
    """(N, 2, 3) for ``affine_grid``: from output to input, in its normalised (x, y) coordinates."""
    height, width = size
    cos, sin, zero = rotation.cos() / scale, rotation.sin() / scale, torch.zeros_like(scale)
    across = height / width  # angles stay angles in frames that are no squares
    rows = [torch.stack([cos, -sin * across, zero], 1), torch.stack([sin / across, cos, zero], 1)]
    return torch.stack(rows, 1)


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    """What is darkest and brightest in each clip, (N, 1, 1, 1, 1)."""
    return x.amin((1, 2, 3, 4), keepdim=True), x.amax((1, 2, 3, 4), keepdim=True)


def _multiplied(x: Tensor, factor: Tensor) -> Tensor:
    """Times a factor of 0 or more, counted from the darkest; what would be brighter than the brightest is as bright."""
    low, high = _range(x)
    return torch.minimum(low + (x - low) * factor, high)


def _speckle(x: Tensor, sd: Tensor, seed: Tensor) -> Tensor:
    return _multiplied(x, (1 + seeded_noise(x, seed) * column(sd, x)).clamp_min(0))


def _gamma(x: Tensor, power: Tensor) -> Tensor:
    low, high = _range(x)
    span = (high - low).clamp_min(1e-6)
    return ((x - low) / span).clamp(0, 1).pow(column(power, x)) * span + low


def _over_depth(factors: Tensor, x: Tensor) -> Tensor:
    """(N, depths) factors at equal distances from top to bottom → (N, 1, 1, H, 1)."""
    along = functional.interpolate(factors.unsqueeze(1), size=x.shape[3], mode="linear", align_corners=True)
    return along.to(x.dtype).view(len(x), 1, 1, -1, 1)
