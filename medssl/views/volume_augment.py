"""Augmentation of volumes on the device: parameters are drawn apart from being applied, all rows at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medssl.views.dihedral import apply_dihedral, draw_dihedral
from medssl.views.resolution import apply_along, blur_matrix, coarse_matrix
from medssl.views.rows import chosen, column, on_rows, seeded_noise, seeds, sometimes, uniform

__all__ = ["STYLE", "VolumeAugmentation", "apply_intensity", "apply_spatial", "draw_parameters"]

Parameters = dict[str, Tensor]
STYLE = ("blur_sd", "coarse", "noise_sd", "brightness", "contrast", "gamma")
"""Parameters of ``draw_parameters`` that change how things look, not where they are."""


@dataclass(frozen=True)
class VolumeAugmentation:
    """What is done to a crop, and how strongly. A plain name is the probability; strengths follow it.

    Attributes:
        flip: probability of a flip along z, y, x. In RAS orientation x is left-right.
        turn: probability of a turn by 90°, 180° or 270° in the (y, x) plane.
        affine: probability of a rotation with scaling, in one interpolation.
        rotation_deg: largest rotation about z, y, x.
        scale: smallest and largest size of things, log-uniform.
        blur: probability of Gaussian smoothing.
        blur_sd: smallest and largest standard deviation in voxels.
        coarse: probability of a loss of resolution.
        coarse_factor: smallest and largest factor by which voxels grow.
        noise: probability of Gaussian noise.
        noise_sd: largest standard deviation, as a share of the crop's own.
        brightness: probability of a multiplication.
        brightness_factor: smallest and largest factor.
        contrast: probability of stretching about the mean, kept within the crop's range.
        contrast_factor: smallest and largest factor.
        gamma: probability of a power law over the crop's range.
        gamma_power: smallest and largest exponent, log-uniform.
    """

    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)
    turn: float = 0.0
    affine: float = 0.3
    rotation_deg: tuple[float, float, float] = (15.0, 15.0, 15.0)
    scale: tuple[float, float] = (0.8, 1.25)
    blur: float = 0.2
    blur_sd: tuple[float, float] = (0.5, 1.0)
    coarse: float = 0.15
    coarse_factor: tuple[float, float] = (1.0, 2.0)
    noise: float = 0.15
    noise_sd: float = 0.2
    brightness: float = 0.15
    brightness_factor: tuple[float, float] = (0.75, 1.25)
    contrast: float = 0.15
    contrast_factor: tuple[float, float] = (0.75, 1.25)
    gamma: float = 0.3
    gamma_power: tuple[float, float] = (0.7, 1.5)


def draw_parameters(shape: tuple[int, ...], settings: VolumeAugmentation, generator: torch.Generator) -> Parameters:
    """Random parameters for every row; a neutral value where a transform is not applied.

    Args:
        shape: of the batch, (N, C, Z, Y, X).
        settings: probabilities and strengths.
        generator: on the device of the batch.

    Returns:
        ``flip`` (N, 3), ``turn`` (N,), ``rotation`` (N, 3) radians about z, y, x, ``scale``, ``blur_sd``, ``coarse``,
        ``noise_sd``, ``brightness``, ``contrast``, ``gamma`` (N,), and the scalar ``noise_seed``. They are all that
        is needed to replay the views.
    """
    n, g = shape[0], generator

    def log_uniform(bounds: tuple[float, float]) -> Tensor:
        low, high = torch.tensor(bounds).log().tolist()
        return uniform(n, low, high, g).exp()

    moved = chosen(n, settings.affine, g)
    angle = torch.deg2rad(torch.tensor(settings.rotation_deg, device=g.device))
    return {
        **draw_dihedral(n, g, flip=settings.flip, turn=settings.turn, square=shape[-1] == shape[-2]),
        "rotation": torch.where(moved[:, None], uniform((n, 3), -1, 1, g) * angle, 0.0),
        "scale": torch.where(moved, log_uniform(settings.scale), 1.0),
        "blur_sd": sometimes(settings.blur, uniform(n, *settings.blur_sd, g), 0.0, g),
        "coarse": sometimes(settings.coarse, uniform(n, *settings.coarse_factor, g), 1.0, g),
        "noise_sd": sometimes(settings.noise, uniform(n, 0, settings.noise_sd, g), 0.0, g),
        "brightness": sometimes(settings.brightness, uniform(n, *settings.brightness_factor, g), 1.0, g),
        "contrast": sometimes(settings.contrast, uniform(n, *settings.contrast_factor, g), 1.0, g),
        "gamma": sometimes(settings.gamma, log_uniform(settings.gamma_power), 1.0, g),
        "noise_seed": seeds(g),
    }


def apply_spatial(x: Tensor, parameters: Parameters, *, nearest: bool = False) -> Tensor:
    """Flips, turns, rotation and scaling; what comes from outside repeats the edge.

    Args:
        x: (N, C, Z, Y, X).
        parameters: of ``draw_parameters``; the same for an image and its mask.
        nearest: for labels; their type is kept.
    """
    x = apply_dihedral(x, parameters["flip"], parameters["turn"])
    rotation, scale = parameters["rotation"], parameters["scale"]
    moved = (scale != 1) | (rotation != 0).any(-1)

    def sample(rows: Tensor, places: Tensor) -> Tensor:
        theta = _theta(rotation[places], scale[places], x.shape[2:])
        grid = functional.affine_grid(theta, list(rows.shape), align_corners=False)
        mode = "nearest" if nearest else "bilinear"
        moved_rows = functional.grid_sample(rows.float(), grid, mode=mode, padding_mode="border", align_corners=False)
        return moved_rows.to(x.dtype)

    return on_rows(x, moved, sample)


def apply_intensity(x: Tensor, parameters: Parameters) -> Tensor:
    """Blur and coarseness, noise, brightness, contrast, gamma; each row with its own strength.

    Args:
        x: (N, C, Z, Y, X), float.
        parameters: of ``draw_parameters``.
    """
    p = parameters
    x = on_rows(x, (p["blur_sd"] > 0) | (p["coarse"] > 1), lambda r, i: _blur(r, p["blur_sd"][i], p["coarse"][i]))
    x = on_rows(x, p["noise_sd"] > 0, lambda r, i: _noise(r, p["noise_sd"][i], p["noise_seed"]))
    x = on_rows(x, p["brightness"] != 1, lambda r, i: r * column(p["brightness"][i], r))
    x = on_rows(x, p["contrast"] != 1, lambda r, i: _contrast(r, p["contrast"][i]))
    return on_rows(x, p["gamma"] != 1, lambda r, i: _gamma(r, p["gamma"][i]))


def _theta(rotation: Tensor, scale: Tensor, size: torch.Size) -> Tensor:
    """(N, 3, 4) for ``affine_grid``: from output to input, in its normalised (x, y, z) coordinates."""
    matrix = _rotation(rotation) / scale.view(-1, 1, 1)
    half = torch.tensor(list(size), dtype=matrix.dtype, device=matrix.device) / 2
    normalised = matrix * half / half.unsqueeze(1)  # angles stay angles in crops that are no cubes
    return functional.pad(normalised.flip(1, 2), (0, 1))


def _rotation(angles: Tensor) -> Tensor:
    """(N, 3) radians about z, y, x → (N, 3, 3) acting on (z, y, x)."""
    cos, sin = angles.cos(), angles.sin()
    whole = torch.eye(3, device=angles.device, dtype=angles.dtype).expand(len(angles), 3, 3)
    for about, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
        step = torch.eye(3, device=angles.device, dtype=angles.dtype).repeat(len(angles), 1, 1)
        step[:, i, i] = step[:, j, j] = cos[:, about]
        step[:, i, j], step[:, j, i] = -sin[:, about], sin[:, about]
        whole = whole @ step
    return whole


def _blur(x: Tensor, sd: Tensor, factor: Tensor) -> Tensor:
    along_z, along_y, along_x = (
        (coarse_matrix(factor, length) @ blur_matrix(sd, length)).to(x.dtype) for length in x.shape[2:]
    )
    return apply_along(x, (along_z, along_y, along_x))


def _noise(x: Tensor, sd: Tensor, seed: Tensor) -> Tensor:
    return x + seeded_noise(x, seed) * column(sd, x) * x.std((1, 2, 3, 4), keepdim=True)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    axes = (2, 3, 4)
    mean = x.mean(axes, keepdim=True)
    stretched = (x - mean) * column(factor, x) + mean
    return torch.minimum(torch.maximum(stretched, x.amin(axes, keepdim=True)), x.amax(axes, keepdim=True))


def _gamma(x: Tensor, power: Tensor) -> Tensor:
    low, high = x.amin((2, 3, 4), keepdim=True), x.amax((2, 3, 4), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((x - low) / span).clamp(0, 1).pow(column(power, x)) * span + low
