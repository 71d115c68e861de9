"""Crops of volumes: what is read, and each transform by itself."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import volume

from medssl.errors import CohortError, ConfigError
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation, apply_spatial, draw_parameters

NOTHING = VolumeAugmentation(
    flip=(0.0, 0.0, 0.0), turn=0.0, affine=0.0, blur=0.0, coarse=0.0, noise=0.0, brightness=0.0, contrast=0.0, gamma=0.0
)
ALONE: dict[str, dict[str, Any]] = {
    "flip": {"flip": (1.0, 0.0, 0.0)},
    "turn": {"turn": 1.0},
    "affine": {"affine": 1.0},
    "blur": {"blur": 1.0},
    "coarse": {"coarse": 1.0, "coarse_factor": (2.0, 2.0)},
    "noise": {"noise": 1.0},
    "brightness": {"brightness": 1.0},
    "contrast": {"contrast": 1.0},
    "gamma": {"gamma": 1.0},
}
STRENGTHS: dict[str, tuple[str, Any]] = {
    "affine.rotation_deg": ("rotation_deg", (0.0, 0.0, 45.0)),
    "affine.scale": ("scale", (0.5, 0.6)),
    "blur.blur_sd": ("blur_sd", (2.0, 3.0)),
    "coarse.coarse_factor": ("coarse_factor", (3.0, 4.0)),
    "noise.noise_sd": ("noise_sd", 3.0),
    "brightness.brightness_factor": ("brightness_factor", (3.0, 4.0)),
    "contrast.contrast_factor": ("contrast_factor", (0.1, 0.2)),
    "gamma.gamma_power": ("gamma_power", (3.0, 4.0)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(x: Tensor, settings: VolumeAugmentation, seed: int = 0) -> Tensor:
    return VolumeViews((8, 8, 8), augmentation=settings).augment(x, generator(seed))


def crops(n: int = 4) -> Tensor:
    return torch.rand(n, 2, 8, 10, 10, generator=generator(7))


def test_nothing_switched_on_changes_nothing() -> None:
    assert torch.equal(augmented(crops(), NOTHING), crops())


@pytest.mark.parametrize("name", sorted(ALONE))
def test_each_transform_acts_on_every_row_for_itself(name: str) -> None:
    x = crops(1).expand(6, -1, -1, -1, -1).clone()
    found = augmented(x, replace(NOTHING, **ALONE[name]))
    assert found.shape == x.shape and torch.isfinite(found).all()
    assert all(not torch.equal(a, b) for a, b in zip(found, x, strict=True))
    if name not in ("flip", "coarse"):
        assert len({round(float(row.sum() + 3 * row[0, 0].sum()), 4) for row in found}) > 1, "strengths differ by row"


@pytest.mark.parametrize("name", sorted(STRENGTHS))
def test_each_strength_changes_the_result(name: str) -> None:
    settings = replace(NOTHING, **ALONE[name.split(".")[0]])
    option, value = STRENGTHS[name]
    assert not torch.equal(augmented(crops(), settings), augmented(crops(), replace(settings, **{option: value})))


def test_every_setting_is_tried_above() -> None:
    tried = set(ALONE) | {option for option, _ in STRENGTHS.values()}
    assert {f.name for f in fields(VolumeAugmentation)} == tried


def test_probability_is_the_share_of_rows_changed() -> None:
    x = crops(1).expand(400, -1, -1, -1, -1)
    found = augmented(x, replace(NOTHING, brightness=0.25))
    changed = (found != x).flatten(1).any(1).float().mean()
    assert abs(changed - 0.25) < 0.08


@pytest.mark.parametrize(("about", "axes"), [(0, (3, 4)), (1, (2, 4)), (2, (2, 3))])
def test_rotation_by_a_right_angle_is_the_exact_quarter_turn(about: int, axes: tuple[int, int]) -> None:
    x = torch.rand(1, 1, 9, 9, 9)
    parameters = draw_parameters(tuple(x.shape), NOTHING, generator())
    parameters["rotation"][0, about] = torch.pi / 2
    found = apply_spatial(x, parameters)
    candidates = [torch.rot90(x, k, axes) for k in (1, 3)]
    assert min((found - c).abs().max().item() for c in candidates) < 1e-5


def test_rotation_keeps_angles_in_flat_crops() -> None:
    x = torch.zeros(1, 1, 3, 9, 21)
    x[..., 10] = 1  # a line along y, at the middle of x
    parameters = draw_parameters(tuple(x.shape), NOTHING, generator())
    parameters["rotation"][0, 0] = torch.pi / 2
    found = apply_spatial(x, parameters)[0, 0, 1]
    assert (found[4] > 0.99).sum() >= 9 and found[:3].max() < 0.01, "now a line along x, as thin as before"


def test_scale_enlarges_things_about_the_centre() -> None:
    x = torch.zeros(1, 1, 12, 12, 12)
    x[:, :, 4:8, 4:8, 4:8] = 1
    parameters = draw_parameters(tuple(x.shape), NOTHING, generator())
    parameters["scale"][0] = 1.5
    assert apply_spatial(x, parameters).sum().item() == pytest.approx(x.sum().item() * 1.5**3, rel=0.05)


def test_mask_moves_with_its_image_and_keeps_its_labels() -> None:
    image = torch.zeros(5, 1, 16, 16, 16)
    image[:, :, 3:11, 4:13, 6:12] = 1
    mask = (image > 0).to(torch.uint8) * 3
    settings = replace(NOTHING, affine=1.0, flip=(0.5, 0.5, 0.5), turn=0.5)
    views = VolumeViews((16, 16, 16), augmentation=settings)
    x, y = views.augment_pair(image, mask, generator(1))
    assert y.dtype == torch.uint8 and set(y.unique().tolist()) == {0, 3}
    inside, labelled = x > 0.5, y == 3
    dice = 2 * (inside & labelled).sum() / (inside.sum() + labelled.sum())
    assert dice > 0.95
    assert not torch.equal(y, mask)


def test_intensities_do_not_touch_the_mask() -> None:
    settings = replace(NOTHING, **dict.fromkeys(("blur", "coarse", "noise", "brightness", "contrast", "gamma"), 1.0))
    mask = torch.randint(0, 4, (4, 1, 8, 8, 8))
    x, y = VolumeViews((8, 8, 8), augmentation=settings).augment_pair(torch.rand(4, 1, 8, 8, 8), mask, generator())
    assert torch.equal(y, mask) and torch.isfinite(x).all()


def test_constant_crops_stay_finite() -> None:
    everything = VolumeAugmentation(
        affine=1.0, blur=1.0, coarse=1.0, noise=1.0, brightness=1.0, contrast=1.0, gamma=1.0, turn=1.0
    )
    assert torch.isfinite(augmented(torch.zeros(3, 1, 8, 8, 8), everything)).all()


def test_share_of_crops_about_the_body() -> None:
    reader = volume(0, (40, 40, 40))
    reader.points = np.array([[35, 35, 35]])
    about = []
    for share in (0.0, 0.5, 1.0):
        views = VolumeViews((8, 8, 8), count=1, foreground=share)
        starts = [views.draw(reader, np.random.default_rng(i))["starts"][0] for i in range(200)]  # type: ignore[arg-type]
        about.append(np.mean([((s <= 35) & (s + 8 > 35)).all() for s in starts]))
    assert about[0] < 0.1 and 0.4 < about[1] < 0.65 and about[2] == 1


def test_crops_in_millimetres() -> None:
    reader = volume(0, (20, 40, 40))
    reader.spacing_mm = (2.0, 1.0, 1.0)
    views = VolumeViews((8, 8, 8), size_mm=(16.0, 16.0, 16.0), foreground=0)
    sample = views.draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]
    assert sample["x"].shape == (2, 1, 8, 8, 8)
    assert {size for _, size in reader.reads} == {(8, 16, 16)}
    reader.spacing_mm = None
    with pytest.raises(CohortError, match="voxel size"):
        views.draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="three positive sizes"):
        VolumeViews((8, 8))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="min_overlap"):
        VolumeViews((8, 8, 8), min_overlap=2)
