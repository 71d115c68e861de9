"""Global and local contrast as a whole: what is read, what is compared, what each stage trains and leaves behind."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from toys import ToyReader, collate, info, volume, volume_encoder

from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.slice_wise import SliceWise
from medssl.errors import CohortError, ConfigError
from medssl.methods.global_local_contrast import GlobalLocalContrast
from medssl.objectives.global_local import global_domain
from medssl.views.volume_augment import VolumeAugmentation


def image_encoder(**options: Any) -> ResEnc:
    return ResEnc(1, dims=2, **({"features": (4, 8), "blocks": (1, 1), "strides": (1, 2)} | options))


def method(encoder: Any = None, **options: Any) -> GlobalLocalContrast:
    torch.manual_seed(0)
    settings = {"size": (1, 8, 8), "projector": (16, 8), "decoder_blocks": 1} | options
    return GlobalLocalContrast(encoder or image_encoder(), **settings)


def numbered(depth: int, row: int = 0) -> ToyReader:
    """A volume whose every voxel is the number of its slice, without a body."""
    data = np.broadcast_to(np.arange(depth, dtype=np.int16)[None, :, None, None], (1, depth, 12, 12)).copy()
    return ToyReader(data, row=row)


def drawn(of: GlobalLocalContrast, reader: ToyReader, seed: int = 0) -> np.ndarray:
    return of.draw(reader, np.random.default_rng(seed))["x"]  # type: ignore[arg-type]


def batch(of: GlobalLocalContrast, size: int = 3, seed: int = 0) -> dict[str, Any]:
    samples = [of.draw(volume(i), np.random.default_rng([seed, i])) for i in range(size)]  # type: ignore[arg-type]
    return collate(samples, seed=seed)


def step(of: GlobalLocalContrast, given: dict[str, Any]) -> torch.Tensor:
    of.generator.manual_seed(given["seed"])
    return of.loss(given).total


def test_one_slice_of_each_part_in_order_and_all_slices_sometimes() -> None:
    of = method(partitions=3)
    seen = [drawn(of, numbered(11), seed)[:, 0, 0, 0, 0].tolist() for seed in range(60)]
    parts = [set(part.tolist()) for part in np.array_split(np.arange(11), 3)]
    assert all(z in part for slices in seen for z, part in zip(slices, parts, strict=True))
    assert {z for slices in seen for z in slices} == set(range(11))


def test_parts_are_parts_of_the_body() -> None:
    reader = numbered(30)
    reader.points = np.array([[10, 2, 2], [17, 9, 9]])
    seen = np.stack([drawn(method(), reader, seed)[:, 0, 0, 0, 0] for seed in range(40)])
    assert [sorted(set(column)) for column in seen.T] == [[10, 11], [12, 13], [14, 15], [16, 17]]
    reader.points = np.array([[10, 2, 2], [12, 9, 9]])  # thinner than four parts: the volume is divided
    assert np.stack([drawn(method(), reader, seed) for seed in range(40)]).max() > 25


def test_random_slices_lie_anywhere_but_never_twice() -> None:
    of = method(global_loss="random")
    seen = np.stack([drawn(of, numbered(9), seed)[:, 0, 0, 0, 0] for seed in range(60)])
    assert all(len(set(slices)) == 4 for slices in seen.tolist())
    assert set(seen[:, 0]) - {0, 1, 2}, "the first is not bound to the first part"


def test_blocks_start_in_their_part_and_lie_inside() -> None:
    of = method(volume_encoder(), size=(4, 8, 8))
    reader = numbered(16)
    for seed in range(30):
        x = drawn(of, reader, seed)
        assert x.shape == (4, 1, 4, 8, 8)
        first = x[:, 0, 0, 0, 0]
        assert (x[:, 0, :, 0, 0] == first[:, None] + np.arange(4)).all()
        assert all(low <= z < high for z, (low, high) in zip(first, ((0, 4), (4, 7), (7, 10), (10, 13)), strict=True))


def test_slices_of_any_plane_are_taken_from_one_place() -> None:
    reader = volume(0, (6, 5, 30))
    reader.points = None
    x = drawn(method(), reader)
    assert x.shape == (4, 1, 1, 8, 8)
    assert len({start[1:] for start, _ in reader.reads}) == 1


def seen_by(of: GlobalLocalContrast, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    rows: list[torch.Tensor] = []
    real = of.embed
    monkeypatch.setattr(of, "embed", lambda x: (rows.append(x), real(x))[1])
    step(of, given)
    return rows[0]


@pytest.mark.parametrize(("loss", "members", "originals"), [("domain", 2, 1), ("negatives", 3, 1), ("random", 2, 0)])
def test_members_of_every_slice(loss: str, members: int, originals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    of = method(global_loss=loss)
    given = batch(of)
    clean = (given["x"].float() / 1000).flatten(0, 1)
    rows = seen_by(of, given, monkeypatch).unflatten(0, (members, 12))
    assert torch.allclose(rows[0], clean) == bool(originals)
    views = rows[originals:]
    assert all(not torch.allclose(view, clean) for view in views)
    if len(views) > 1:
        assert not torch.equal(views[0], views[1])


def test_every_slice_has_its_own_change_of_intensity(monkeypatch: pytest.MonkeyPatch) -> None:
    of = method(crop=1.0, contrast=0.0)
    given = batch(of)
    clean = (given["x"].float() / 1000).flatten(0, 1)
    shifts = (seen_by(of, given, monkeypatch)[12:] - clean).flatten(1).median(1).values
    assert len(shifts.unique()) == 12


def test_the_loss_is_that_of_the_embeddings_in_their_order() -> None:
    of = method()
    given = batch(of)
    of.generator.manual_seed(0)
    losses = of.loss(given)
    z = losses.embeddings.view(2, 3, 4, -1).transpose(0, 1)  # members, volumes, parts
    torch.testing.assert_close(losses.total, global_domain(z, temperature=0.1))


def test_an_image_encoder_is_exported_for_volumes() -> None:
    inner = image_encoder()
    of = method(inner)
    assert isinstance(of.exported, SliceWise) and of.exported.encoder is inner and of.decoder_exported is None
    assert of.input_size == (1, 8, 8)
    assert not isinstance(method(volume_encoder(), size=(4, 8, 8)).exported, SliceWise)


def test_the_second_stage_leaves_the_encoder_as_it_is() -> None:
    of = method(stage="decoder").train()
    assert not of.encoder.training and of.decoder.training
    before = {k: v.clone() for k, v in of.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in of.parameters() if p.requires_grad], lr=0.1)
    step(of, batch(of)).backward()
    assert all(p.grad is None for p in of.encoder.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in of.decoder.levels.parameters() if p.ndim > 1)
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in of.encoder.state_dict().items())
    assert of.decoder_exported is of.decoder


def views(of: GlobalLocalContrast) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network sees in the second stage."""
    seen: list[torch.Tensor] = []
    of.encoder.register_forward_hook(lambda _module, given, _output: seen.append(given[0]))
    step(of, batch(of))
    first, second = seen[0].chunk(2)
    return first, second


def test_views_of_the_second_stage_keep_their_places() -> None:
    first, second = views(method(stage="decoder", brightness=0.0, contrast=0.0))
    assert torch.equal(first, second), "without changes of intensity both views are the slice itself"


def spread(first: torch.Tensor, second: torch.Tensor) -> float:
    """How much two views differ once brightness and contrast are taken out, as instance norm does."""
    one, other = ((x - x.mean((2, 3, 4), True)) / x.std((2, 3, 4), keepdim=True) for x in (first, second))
    return float((one - other).abs().mean())


def test_further_changes_of_intensity_are_more_than_brightness_and_contrast() -> None:
    assert spread(*views(method(stage="decoder", brightness=0.05))) < 1e-3
    strong = VolumeAugmentation(gamma=1.0, gamma_power=(0.5, 2.0), blur=0.0, coarse=0.0, noise=0.0)
    assert spread(*views(method(stage="decoder", brightness=0.05, intensity=strong))) > 0.03


@pytest.mark.parametrize("blocks", [1, 2])
def test_only_the_blocks_asked_for_are_trained(blocks: int) -> None:
    encoder = image_encoder(features=(4, 8, 8), blocks=(1, 1, 1), strides=(1, 2, 2))
    of = method(encoder, stage="decoder", size=(1, 16, 16), decoder_blocks=blocks)
    assert len(of.decoder.levels) == blocks
    step(of, batch(of)).backward()
    assert all(p.grad is not None for p in of.parameters() if p.requires_grad)


def test_thin_volumes_are_refused() -> None:
    of = method()
    with pytest.raises(CohortError, match=r"recording R0 has 3 slices, but .* need at least 4"):
        drawn(of, numbered(3))
    blocks = method(volume_encoder(), size=(4, 8, 8))
    with pytest.raises(CohortError, match="need at least 7"):
        drawn(blocks, numbered(6))
    manifest = pd.DataFrame({"recording": ["a", "b", "c"], "shape": [[9, 9, 9], [3, 9, 9], [2, 9, 9]]})
    with pytest.raises(CohortError, match=r"recording b has 3 slices.*2 recordings"):
        of.prepare(SimpleNamespace(manifest=manifest), batch=4)  # type: ignore[arg-type]
    of.prepare(SimpleNamespace(manifest=manifest[:1]), batch=4)  # type: ignore[arg-type]


def test_a_cohort_of_one_has_no_other_volume() -> None:
    one = replace(info("volume", 1), n_recordings=1)
    with pytest.raises(ConfigError, match="this cohort holds 1; choose a loss"):
        method().check(one)
    method(global_loss="negatives").check(one)


@pytest.mark.parametrize("options", [{}, {"stage": "decoder", "local_loss": "domain"}])
def test_a_batch_of_one_has_no_other_volume(options: dict[str, Any]) -> None:
    of = method(**options)
    with pytest.raises(ConfigError, match="raise the batch size"):
        step(of, batch(of, 1))
    with pytest.raises(ConfigError, match="raise the batch size"):
        of.prepare(SimpleNamespace(manifest=pd.DataFrame()), batch=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitions": 1}, "at least 2 partitions"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"crop": 1.5}, "crop of at most 1"),
        ({"contrast": 1.0}, "below 1"),
        ({"size": (4, 8, 8)}, "2-D encoder and slices"),
        ({"size": (8, 8)}, "2-D encoder and slices"),
        ({"encoder": ResNet1d(1, (4, 8))}, "ResNet1d with 1 axes"),
        ({"stage": "decoder", "decoder_blocks": 2}, "has 1 blocks"),
        ({"stage": "decoder", "size": (1, 6, 8)}, "use more decoder blocks"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(**options)


def test_embeddings_for_the_monitor() -> None:
    rows = torch.randn(5, 1, 1, 8, 8)
    assert method().embed(rows).shape == (5, 8)
    regions = method(stage="decoder").embed(rows)
    assert regions.shape[:2] == (5, 128) and regions.ndim == 3
