"""Dense: what the teacher and the student see, which maps are compared, reconstruction, settings that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import collate, info, signal, signal_encoder, volume, volume_encoder

from medssl.errors import ConfigError
from medssl.methods.dense import CellHead, Dense
from medssl.methods.patch_decoder import PatchDecoder, hidden_l1
from medssl.objectives.base import Given, LossOutput, Objective
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.masked_momentum import MaskedMomentum
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


class Recorder(Objective):
    """Keeps what it is given."""

    family = "dense"
    takes = "maps"
    momentum = 0.9
    needs = frozenset({"targets"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Tensor, Given]] = []

    def compute(self, views: torch.Tensor, given: Given) -> LossOutput:
        self.seen.append((views, given))
        return LossOutput(views.square().mean(), {})


class MaskRecorder(Recorder):
    """Also hides cells."""

    needs = frozenset({"targets", "mask"})


def method(kind: str = "volume", **options: Any) -> Dense:
    torch.manual_seed(0)
    settings = {"projector": (16, 8)} | options
    if kind == "volume":
        return Dense(volume_encoder(), VolumeViews((8, 8, 8)), **settings)
    return Dense(signal_encoder(), SignalViews((128,)), **settings)


def loss(of: Dense, size: int = 3) -> Any:
    read = volume if of.views.kind == "volume" else signal
    samples = [of.draw(read(i), np.random.default_rng(i)) for i in range(size)]  # type: ignore[arg-type]
    of.generator.manual_seed(7)
    return of.loss(collate(samples, seed=0))


@pytest.mark.parametrize(
    ("kind", "options", "grid"),
    [
        ("volume", {}, (4, 4, 4)),
        ("volume", {"level": 0}, (8, 8, 8)),
        ("volume", {"level": 0, "cells": 5}, (5, 5, 5)),
        ("signal", {}, (32,)),
        ("signal", {"cells": 100}, (32,)),
        ("signal", {"cells": 6}, (6,)),
    ],
)
def test_the_maps_that_are_compared(kind: str, options: dict[str, Any], grid: tuple[int, ...]) -> None:
    of = method(kind, **({"cells": 64} | options), objective=Recorder())
    losses = loss(of)
    views, given = of.objective.seen[0]
    assert views.shape == (2, 3, 8, *grid)
    assert given.targets is not None and given.targets.shape == views.shape and not given.targets.requires_grad
    torch.testing.assert_close(losses.embeddings, views.detach().flatten(3).mean(-1).flatten(0, 1))


@pytest.mark.parametrize("level", [0, -1])
def test_every_weight_of_the_encoder_learns_whatever_the_level(level: int) -> None:
    of = method(level=level, objective=MaskedMomentum(prototypes=8))
    loss(of).total.backward()
    assert all(p.grad is not None for p in of.encoder.parameters())
    stages = of.encoder.stages
    assert all(any(p.grad.any() for p in stage.parameters()) for stage in stages)


def test_the_teacher_sees_views_without_changes_of_intensity() -> None:
    of = method("signal", objective=Recorder())
    seen: dict[str, torch.Tensor] = {}
    for name, module in (("student", of.encoder), ("teacher", of.teacher_encoder)):
        module.register_forward_pre_hook(lambda _, x, name=name: seen.__setitem__(name, x[0]))
    samples = [of.draw(signal(i), np.random.default_rng(i)) for i in range(3)]  # type: ignore[arg-type]
    batch = collate(samples, seed=0)
    of.generator.manual_seed(7)
    of.loss(batch)
    augmented, clean = of.views.aligned(batch, torch.Generator().manual_seed(7))
    assert torch.equal(seen["student"], augmented.flatten(0, 1)) and torch.equal(seen["teacher"], clean.flatten(0, 1))


def test_the_student_does_not_see_what_is_hidden() -> None:
    of = method("signal", objective=MaskRecorder(), cells=32, hidden=(0.5, 0.5))
    seen: dict[str, torch.Tensor] = {}
    of.encoder.register_forward_pre_hook(lambda _, x: seen.__setitem__("student", x[0]))
    samples = [of.draw(signal(i), np.random.default_rng(i)) for i in range(3)]  # type: ignore[arg-type]
    batch = collate(samples, seed=0)
    of.generator.manual_seed(7)
    of.loss(batch)
    augmented = of.views.aligned(batch, torch.Generator().manual_seed(7))[0].flatten(0, 1)
    mask = of.objective.seen[0][1].mask
    assert mask is not None and mask.shape == (2, 3, 32) and mask.float().mean() == 0.5
    hidden = mask.flatten(0, 1).unsqueeze(1).repeat_interleave(4, -1).expand_as(augmented)
    assert torch.equal(seen["student"][~hidden], augmented[~hidden])
    assert (seen["student"][hidden] != augmented[hidden]).float().mean() > 0.9


def test_share_and_size_of_what_is_hidden_can_be_set() -> None:
    def masks(**options: Any) -> torch.Tensor:
        of = method("signal", objective=MaskRecorder(), cells=32, **options)
        loss(of)
        mask: torch.Tensor = of.objective.seen[0][1].mask
        return mask

    assert masks(hidden=(0.25, 0.25)).float().mean() == 0.25
    assert not torch.equal(masks(reach=0.0), masks(reach=3.0))


def test_reconstruction_is_added_with_its_weight() -> None:
    parts = {}
    for weight in (0.0, 1.0, 2.0):
        of = method(objective=MaskedMomentum(prototypes=8, reconstruction=weight))
        assert hasattr(of, "decoder") is (weight > 0)
        torch.manual_seed(1)
        if weight:
            torch.nn.init.normal_(of.decoder.layers[2].bias)
        losses = loss(of)
        parts[weight] = losses.total.item(), losses.terms.get("reconstruction", torch.zeros(())).item()
    assert parts[1.0][0] == pytest.approx(parts[0.0][0] + parts[1.0][1], rel=1e-5)
    assert parts[2.0][0] == pytest.approx(parts[0.0][0] + 2 * parts[2.0][1], rel=1e-5)
    assert parts[1.0][1] > 0


@pytest.mark.parametrize(
    ("grid", "patch", "size"), [((5,), (4,), (18,)), ((3, 2), (2, 5), (6, 10)), ((2, 3, 2), (2, 1, 4), (4, 3, 7))]
)
def test_the_decoder_puts_each_cell_s_patch_in_its_place(
    grid: tuple[int, ...], patch: tuple[int, ...], size: tuple[int, ...]
) -> None:
    decoder = PatchDecoder(6, hidden=7, channels=2, patch=patch)
    maps = torch.randn(3, 6, *grid)
    found = decoder(maps, size)
    assert found.shape == (3, 2, *size)
    for cell in np.ndindex(*grid):
        values = decoder.layers(maps[(slice(None), slice(None), *cell)]).view(3, *patch, 2).movedim(-1, 1)
        place = tuple(slice(c * p, min(s, (c + 1) * p)) for c, p, s in zip(cell, patch, size, strict=True))
        kept = tuple(slice(0, s.stop - s.start) for s in place)
        torch.testing.assert_close(
            found[(slice(None), slice(None), *place)], values[(slice(None), slice(None), *kept)]
        )  # fmt: skip


def test_reconstruction_counts_hidden_parts_only() -> None:
    found, wanted = torch.zeros(1, 2, 4), torch.tensor([[[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 100.0]]])
    hidden = torch.tensor([[[True, True, False, False]]])
    assert hidden_l1(found, wanted, hidden).item() == pytest.approx(3 / 4)
    assert hidden_l1(found, wanted, ~hidden & hidden).item() == 0


def test_the_head_treats_every_cell_alike() -> None:
    head = CellHead(6, 8, 4, cells=9).eval()
    maps = torch.randn(2, 6, 3, 5)
    found = head(maps)
    assert found.shape == (2, 4, 3, 5)
    torch.testing.assert_close(found[1, :, 2, 4], head.head(maps[1:, :, 2, 4])[0])
    assert CellHead(6, 8, 4, cells=2).eval()(maps).shape == (2, 4, 2, 2)


def test_settings_that_do_not_fit_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="dense family"):
        method(objective=InfoNCE())
    with pytest.raises(ConfigError, match="no level 2"):
        method(level=2)
    with pytest.raises(ConfigError, match="teacher"):
        method(momentum=0.0)
    with pytest.raises(ConfigError, match="hides shares"):
        method(hidden=(0.0, 0.5))
    with pytest.raises(ConfigError, match="raise the batch size"):
        loss(method(), size=1)


def test_maps_of_a_single_cell_are_refused_before_training() -> None:
    of = method("signal", objective=Recorder())
    of.check(info("signal", 2))
    of.encoder.strides = ((128,),)
    with pytest.raises(ConfigError, match="single cell"):
        of.check(info("signal", 2))
