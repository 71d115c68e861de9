"""VoCo as a whole: what it reads, what it leaves out, its variants, and that it learns positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import ToyReader, collate, info, volume, volume_encoder

from medssl.adapters.recording import Ids, Recording
from medssl.cohort.volumes import VolumePreparation
from medssl.encoders.base import Features
from medssl.encoders.resenc import ResEnc
from medssl.encoders.swin_unetr import SwinUNETREncoder
from medssl.errors import CohortError, ConfigError
from medssl.methods.position_contrast import embedded
from medssl.methods.voco import VoCo
from medssl.objectives.voco import position_chance


def method(**options: Any) -> VoCo:
    torch.manual_seed(0)
    return VoCo(volume_encoder(), **({"crop": (8, 8, 8), "projector": (32, 16)} | options))


def batch(of: VoCo, readers: list[ToyReader], seed: int = 0) -> dict[str, Any]:
    samples = [of.draw(r, np.random.default_rng([seed, i])) for i, r in enumerate(readers)]  # type: ignore[arg-type]
    return collate(samples, seed=seed)


def step(of: VoCo, drawn: dict[str, Any]) -> dict[str, float]:
    of.generator.manual_seed(drawn["seed"])
    losses = of.loss(drawn)
    losses.total.backward()
    return {"total": losses.total.item(), **{k: v.item() for k, v in losses.terms.items()}}


def test_reads_one_window_of_the_grid() -> None:
    reader = volume(0, (20, 40, 40))
    sample = method(crops=3).draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]
    assert sample["x"].shape == (1, 1, 8, 24, 24) and sample["starts"].shape == (3, 3)
    assert len(reader.reads) == 1, "one access to the store"
    start, size = reader.reads[0]
    assert all(s >= 0 and s + e <= n for s, e, n in zip(start, size, reader.shape, strict=True))


@pytest.mark.parametrize("shape", [(3, 5, 7), (8, 10, 30), (1, 1, 1), (9, 60, 60)])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_volumes_of_any_size_are_trained_on(shape: tuple[int, int, int], fit: str) -> None:
    of = method(fit=fit)
    terms = step(of, batch(of, [volume(i, shape) for i in range(2)]))
    assert np.isfinite(list(terms.values())).all()


@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 5, 7), (40, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("spacing", [(5.0, 0.7, 0.7), (1.0, 1.0, 2.5)])
def test_crops_in_millimetres_of_volumes_of_any_size_and_spacing(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    readers = [volume(i, shape) for i in range(2)]
    for reader in readers:
        reader.spacing_mm, reader.points = spacing, None  # an empty foreground besides
    of = method(crop_mm=(6.0, 6.0, 6.0))
    terms = step(of, batch(of, readers))
    assert np.isfinite(list(terms.values())).all()


def test_crops_in_millimetres_show_the_same_tissue_at_every_spacing() -> None:
    """A ramp along each axis, in mm: the windows of a fine and of a coarse scan must look alike."""
    seen = []
    for spacing in ((1.0, 1.0, 1.0), (4.0, 0.5, 0.5)):
        shape = tuple(round(n / s) for n, s in zip((16, 48, 48), spacing, strict=True))
        reader = volume(0, shape)  # type: ignore[arg-type]
        centres = [s * (np.arange(n) + 0.5) for n, s in zip(shape, spacing, strict=True)]
        z, y, x = np.meshgrid(*centres, indexing="ij")
        reader.data[0], reader.points, reader.spacing_mm = 10 * (z + y + x), None, spacing
        of = method(crop_mm=(16.0, 16.0, 16.0))
        sample = of.draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]
        assert sample["x"].shape == (1, 1, 8, 24, 24)
        seen.append(sample["x"].astype(float))
    # the ends of the axes are voxel centres, which lie up to half a coarse voxel (2 mm) from the edge
    assert np.abs(seen[0] - seen[1]).max() <= 30


def test_quarter_turns_need_equal_scales() -> None:
    turned = method(turn=1.0, flip=0.0, shift=0.0, crop_mm=(8.0, 8.0, 16.0))
    rows = torch.arange(4 * 512.0).view(4, 1, 8, 8, 8)
    moved, _ = turned.augment(rows, torch.ones(4))
    assert torch.equal(moved, rows.flip(-1, -2)), "half turns only"


def test_settings_in_millimetres_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave one of the two out"):
        method(crop_mm=(8.0, 8.0, 8.0), fit="resize")
    with pytest.raises(ConfigError, match="three positive numbers"):
        method(crop_mm=(8.0, 0.0, 8.0))
    unknown = volume(0)
    unknown.spacing_mm = None
    with pytest.raises(CohortError, match="no voxel size"):
        method(crop_mm=(8.0, 8.0, 8.0)).draw(unknown, np.random.default_rng(0))  # type: ignore[arg-type]


def test_nan_of_a_file_is_gone_before_a_crop_is_drawn() -> None:
    data = volume(0).data[0].astype(np.float32)
    data[2, 3, 4] = np.nan
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    recording = Recording(
        data=data, axes="zyx", affine=affine, spacing_mm=(1.0, 1.0, 1.0), ids=Ids("P0", "R0"), labels={},
        source="scan", source_sha256="0" * 64,
    )  # fmt: skip
    prepared = VolumePreparation(intensity="mr")(recording)
    reader = volume(0)
    reader.data = prepared.image
    assert np.issubdtype(prepared.image.dtype, np.integer)
    of = method()
    assert np.isfinite(list(step(of, batch(of, [reader, volume(1)])).values())).all()


def test_swin_is_described_by_the_maps_of_the_released_code() -> None:
    """24 F features: the transformer's state at stride 16 is no part of them."""
    of = VoCo(SwinUNETREncoder(feature_size=12, window=3), crop=(32, 32, 64), projector=(16, 8))
    assert of.head.layer1[0].in_features == 24 * 12
    maps = [torch.full((2, c, 1, 1, 2), float(i)) for i, c in enumerate(of.encoder.channels)]
    found = embedded(of.encoder, Features(torch.empty(0), maps))
    assert found.shape == (2, 24 * 12) and 4.0 not in found


def test_resized_window_shows_the_whole_body() -> None:
    reader = volume(0, (9, 50, 31))
    reader.data[:] = np.linspace(0, 1000, 50).astype(np.int16)[:, None]
    reader.points = None
    x = method(fit="resize").draw(reader, np.random.default_rng(0))["x"]  # type: ignore[arg-type]
    assert x.dtype == np.int16
    along = x[0, 0, 4, :, 12]
    assert along[0] == 0 and along[-1] == 1000 and (np.diff(along) > 0).all()


def test_body_that_fits_is_centred_in_the_window() -> None:
    reader = volume(0, (30, 60, 60))
    reader.points = np.array([[10, 20, 20], [14, 39, 35]])
    (start, size), _ = (method().draw(reader, np.random.default_rng(0)), reader.reads)[1][0], None  # type: ignore[arg-type]
    assert start == ((10 + 15 - 8) // 2, (20 + 40 - 24) // 2, (20 + 36 - 24) // 2) and size == (8, 24, 24)


def test_empty_bases_are_left_out_and_counted() -> None:
    readers = [volume(i, (8, 8, 24)) for i in range(2)]  # a third of the window; the rest is padding
    of = method()
    drawn = batch(of, readers)
    terms = step(of, drawn)
    assert terms["empty_bases"] == pytest.approx(6 / 9)
    everything = method(mask_empty_bases=False)
    other = step(everything, drawn)
    assert other["empty_bases"] == 0
    assert other["reg"] != terms["reg"]


def test_volume_that_is_empty_altogether_costs_nothing() -> None:
    readers = [volume(i) for i in range(2)]
    for reader in readers:
        reader.data[:] = 0
    of = method()
    terms = step(of, batch(of, readers))
    assert terms["total"] == 0 and all(torch.isfinite(p.grad).all() for p in of.parameters() if p.grad is not None)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_teacher_starts_elsewhere_follows_slowly_and_gets_no_gradient(variant: str) -> None:
    of = method(variant=variant, teacher_momentum=0.75)
    student, teacher = of.head.layer1[0].weight, of.teacher_head.layer1[0].weight
    before = teacher.detach().clone()
    assert not torch.equal(before, student)
    step(of, batch(of, [volume(0), volume(1)]))
    torch.testing.assert_close(teacher.detach(), 0.75 * before + 0.25 * student.detach())
    assert teacher.grad is None
    of.eval()
    kept = teacher.detach().clone()
    step(of, batch(of, [volume(0), volume(1)]))
    assert torch.equal(teacher, kept)


def test_agreement_across_volumes_needs_two(capsys: pytest.CaptureFixture[str]) -> None:
    of = method(variant="v2")
    assert "inter" in step(of, batch(of, [volume(0), volume(1)]))
    assert "inter" not in step(of, batch(of, [volume(0)]))
    of.prepare(SimpleNamespace(), batch=1)  # type: ignore[arg-type]
    assert "one volume a batch" in capsys.readouterr().err
    of.prepare(SimpleNamespace(), batch=2)  # type: ignore[arg-type]
    assert not capsys.readouterr().err


def test_feature_dropout_drops_features_or_by_request_whole_rows() -> None:
    drawn_by = method(variant="v2", flip=0, turn=0, shift=0)
    drawn = batch(drawn_by, [volume(0), volume(1)])
    results = [
        step(method(variant="v2", flip=0, turn=0, shift=0, feature_dropout=p, reference_row_dropout=rows), drawn)[
            "intra"
        ]
        for p, rows in ((0.0, False), (0.5, False), (0.5, True))
    ]
    assert len(set(results)) == 3


def test_every_augmentation_changes_the_step() -> None:
    neutral = {"flip": 0.0, "turn": 0.0, "shift": 0.0}
    drawn = batch(method(**neutral), [volume(0), volume(1)])
    plain = step(method(**neutral), drawn)["total"]
    assert plain == step(method(**neutral), {**drawn, "seed": 9})["total"], "nothing is random then"
    for name, value in (("flip", 1.0), ("turn", 1.0), ("shift", 0.5)):
        assert step(method(**{**neutral, name: value}), drawn)["total"] != plain


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 base crops"):
        method(grid=(1, 1, 1))
    with pytest.raises(ConfigError, match="three positive numbers"):
        method(crop=(8, 8))
    with pytest.raises(ConfigError, match="multiple of"):
        method(crop=(8, 8, 9)).check(info("volume", 1))
    method(crop=(8, 8, 9), encoder_size=(8, 8, 8)).check(info("volume", 1))


def gratings(row: int) -> ToyReader:
    """Nine regions, each with its own texture, in the same places in every patient."""
    place = np.stack(np.meshgrid(*map(np.arange, (8, 24, 24)), indexing="ij"), -1)
    waves = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]
    )
    wave = waves[place[..., 1] // 8 * 3 + place[..., 2] // 8]
    rng = np.random.default_rng(row)
    texture = np.sin(np.pi / 2 * (wave * place).sum(-1) + rng.uniform(0, 6)) + rng.normal(0, 0.1, place.shape[:-1])
    return ToyReader((500 + 300 * texture).clip(20, 1000).astype(np.int16)[None], row=row, patient=f"P{row}")


@pytest.mark.slow
def test_learns_where_crops_lie() -> None:
    torch.manual_seed(0)
    encoder = ResEnc(1, features=(16, 32), blocks=(1, 1), strides=(2, 2))
    of = VoCo(encoder, crop=(8, 8, 8), crops=4, projector=(128, 64), flip=0, turn=0, shift=0)
    readers, steps = [gratings(row) for row in range(4)], 400
    optimizer = torch.optim.AdamW(of.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    accuracy = []
    for position in range(steps):
        optimizer.zero_grad()
        accuracy.append(step(of, batch(of, readers, seed=position))["position_accuracy"])
        optimizer.step()
        schedule.step()
    assert accuracy[0] < 0.7
    # what is missing to 1 are crops that lie almost half and half over two bases
    assert np.mean(accuracy[-50:]) > 0.9 > 3 * position_chance((1, 3, 3))
