"""Augmentation of ultrasound clips: each transform by itself, and what it must leave alone."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.views.clip import ClipViews
from medssl.views.clip_augment import ClipAugmentation, apply_spatial, draw_parameters

NOTHING = ClipAugmentation(flip=0.0, affine=0.0, gain=0.0, tgc=0.0, gamma=0.0, speckle=0.0)
INTENSITIES = ("gain", "tgc", "gamma", "speckle")
STRENGTHS: dict[str, tuple[str, Any]] = {
    "affine.rotation_deg": ("rotation_deg", 45.0),
    "affine.scale": ("scale", (0.5, 0.6)),
    "gain.gain_factor": ("gain_factor", (0.2, 0.3)),
    "tgc.tgc_factor": ("tgc_factor", (0.2, 0.3)),
    "gamma.gamma_power": ("gamma_power", (3.0, 4.0)),
    "speckle.speckle_sd": ("speckle_sd", 0.9),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(x: Tensor, settings: ClipAugmentation, seed: int = 0) -> Tensor:
    return ClipViews((4, 12, 16), augmentation=settings).augment(x, generator(seed))


def clips(n: int = 4) -> Tensor:
    """A bright sector in black, of the range of network input that is centred at 0."""
    x = 0.2 + 0.8 * torch.rand(n, 2, 4, 12, 16, generator=generator(7))
    x[..., :3] = x[..., -3:] = 0
    return (x - 0.5) / 0.25


def test_nothing_switched_on_changes_nothing() -> None:
    assert torch.equal(augmented(clips(), NOTHING), clips())


@pytest.mark.parametrize("name", ["flip", "affine", *INTENSITIES])
def test_each_transform_acts_on_every_clip_for_itself(name: str) -> None:
    x = clips(1).expand(6, -1, -1, -1, -1).clone()
    found = augmented(x, replace(NOTHING, **{name: 1.0}))
    assert found.shape == x.shape and torch.isfinite(found).all()
    assert all(not torch.equal(a, b) for a, b in zip(found, x, strict=True))
    assert name == "flip" or len({round(float(row.sum()), 4) for row in found}) > 1, "strengths differ by clip"


@pytest.mark.parametrize("name", ["flip", "affine", "gain", "tgc", "gamma"])
def test_all_frames_of_a_clip_are_treated_alike(name: str) -> None:
    still = clips()[:, :, :1].expand(-1, -1, 4, -1, -1).clone()
    found = augmented(still, replace(NOTHING, **{name: 1.0}))
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found))


@pytest.mark.parametrize("name", sorted(STRENGTHS))
def test_each_strength_changes_the_result(name: str) -> None:
    settings = replace(NOTHING, **{name.split(".")[0]: 1.0})
    option, value = STRENGTHS[name]
    assert not torch.equal(augmented(clips(), settings), augmented(clips(), replace(settings, **{option: value})))


def test_every_setting_is_tried_above() -> None:
    tried = {"flip", "affine", *INTENSITIES} | {option for option, _ in STRENGTHS.values()}
    assert {f.name for f in fields(ClipAugmentation)} == tried


def test_by_default_nothing_is_mirrored() -> None:
    assert not draw_parameters(500, ClipAugmentation(), generator())["flip"].any()


@pytest.mark.parametrize("name", INTENSITIES)
def test_what_lies_outside_the_sector_stays_black_and_values_stay_in_range(name: str) -> None:
    x = clips()
    strong = replace(NOTHING, **{name: 1.0}, gain_factor=(2.0, 3.0), tgc_factor=(2.0, 3.0), speckle_sd=3.0)
    found = augmented(x, strong)
    torch.testing.assert_close(found[x == -2], x[x == -2], atol=1e-5, rtol=0)
    assert found.min() >= -2 - 1e-5 and found.max() <= x.max() + 1e-5


def test_gain_multiplies_what_is_above_black() -> None:
    x = clips()
    found = augmented(x, replace(NOTHING, gain=1.0, gain_factor=(0.5, 0.5)))
    torch.testing.assert_close(found + 2, 0.5 * (x + 2), atol=1e-5, rtol=1e-5)


def test_compensation_over_depth_is_one_factor_a_row_that_runs_smoothly() -> None:
    x = torch.ones(3, 1, 2, 51, 8)
    x[..., 0] = 0
    found = augmented(x, replace(NOTHING, tgc=1.0, tgc_factor=(0.3, 0.9)))
    factors = found[:, 0, 0, :, 1]
    assert torch.equal(found[..., 1:], factors.view(3, 1, 1, 51, 1).expand(-1, -1, 2, -1, 7))
    assert factors.min() >= 0.3 and factors.max() <= 0.9 and factors.std(1).min() > 0.01
    bends = factors.diff(dim=1).diff(dim=1).abs() > 1e-5
    assert bends.sum(1).max() <= 4, "straight lines between six sliders"
    wanted = draw_parameters(3, replace(NOTHING, tgc=1.0, tgc_factor=(0.3, 0.9)), generator())["tgc"]
    torch.testing.assert_close(factors[:, ::10], wanted)


def test_speckle_is_stronger_where_the_echo_is_and_differs_from_frame_to_frame() -> None:
    x = torch.zeros(8, 1, 2, 32, 32)
    x[..., 8:20, :] = 0.2
    x[..., 20:, :] = 0.5
    x[..., 0, 0] = 1
    found = augmented(x, replace(NOTHING, speckle=1.0, speckle_sd=0.2))
    weak, strong = (found[..., rows, 1:].std((1, 2, 3, 4)) for rows in (slice(8, 20), slice(20, 32)))
    torch.testing.assert_close(strong / weak, torch.full((8,), 2.5), atol=0.3, rtol=0)
    assert not torch.equal(found[:, :, 0], found[:, :, 1])


@pytest.mark.parametrize("size", [(9, 9), (9, 21)])
def test_rotation_by_a_right_angle_keeps_angles_in_any_frame(size: tuple[int, int]) -> None:
    x = torch.zeros(1, 1, 2, *size)
    x[..., size[1] // 2] = 1  # a line down the middle
    parameters = draw_parameters(1, NOTHING, generator())
    parameters["rotation"][0] = math.pi / 2
    found = apply_spatial(x, parameters)[0, 0, 1]
    assert (found[4] > 0.99).sum() >= 9 and found[:3].max() < 0.01, "now a line across, as thin as before"


def test_scale_enlarges_things_about_the_centre() -> None:
    x = torch.zeros(1, 1, 2, 16, 24)
    x[..., 6:10, 10:14] = 1
    parameters = draw_parameters(1, NOTHING, generator())
    parameters["scale"][0] = 1.5
    assert apply_spatial(x, parameters).sum().item() == pytest.approx(x.sum().item() * 1.5**2, rel=0.05)


def test_constant_clips_stay_finite() -> None:
    everything = replace(NOTHING, **dict.fromkeys(("affine", *INTENSITIES), 1.0))
    assert torch.isfinite(augmented(torch.zeros(3, 1, 4, 12, 16), everything)).all()
