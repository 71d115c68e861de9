"""SparK: nothing leaks from hidden voxels, gaps are filled, the decoder can be handed on, encoders it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import collate, signal, signal_encoder, volume

from medssl.encoders.resenc import ResEnc
from medssl.errors import ConfigError
from medssl.heads.decoder import Decoder
from medssl.methods.spark import SparK
from medssl.objectives.masked_reconstruction import random_mask
from medssl.views.corruption import enlarged
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation

STILL = VolumeAugmentation(
    flip=(0.0, 0.0, 0.0), affine=0, blur=0, coarse=0, noise=0, brightness=0, contrast=0, gamma=0
)  # fmt: skip


def convolutions(channels: int = 1, dims: int = 3) -> ResEnc:
    return ResEnc(channels, features=(4, 8), blocks=(1, 1), strides=(1, 4), dims=dims)


def method(kind: str = "volume", **options: Any) -> SparK:
    torch.manual_seed(0)
    if kind == "signal":
        return SparK(convolutions(2, 1), SignalViews((64,), count=1), **options)
    return SparK(convolutions(), VolumeViews((8, 8, 8), count=1, augmentation=STILL), **options)


def batch_of(of: SparK, count: int = 2) -> dict[str, Any]:
    read = volume if of.views.kind == "volume" else signal
    return collate([of.draw(read(i), np.random.default_rng(i)) for i in range(count)], seed=0)  # type: ignore[arg-type]


def decoded(of: SparK, batch: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """All that the decoder is given in a step, and the loss."""
    given: list[Tensor] = []
    handle = of.decoder.register_forward_pre_hook(lambda module, inputs: given.extend([inputs[0], *inputs[1]]))
    of.generator.manual_seed(7)
    total = of.loss(batch).total
    handle.remove()
    return given, total


def hidden_by(of: SparK, rows: int) -> Tensor:
    return random_mask(rows, of.grid, of.mask_ratio, torch.Generator().manual_seed(7))


@pytest.mark.parametrize("sparse", [True, False])
def test_hidden_voxels_change_nothing_that_the_decoder_sees(sparse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    of = method(sparse=sparse)
    monkeypatch.setattr(of, "rows", lambda batch: (batch["rows"], None))
    rows = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = enlarged(hidden_by(of, 2), of.input_size)
    (one, loss), (two, other) = (
        decoded(of, {"rows": r}) for r in (rows, torch.where(hidden, 5 * torch.rand_like(rows), rows))
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert loss != other  # it is what is to be told


def test_gaps_hold_one_learned_vector_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    of = method()
    monkeypatch.setattr(of, "rows", lambda batch: (batch["rows"], None))
    rows = torch.rand(2, 1, 8, 8, 8)
    (_, *maps), _ = decoded(of, {"rows": rows})
    for each, token in zip(maps, of.mask_tokens, strict=True):
        gaps = enlarged(hidden_by(of, 2), each.shape[2:]).expand_as(each)
        assert torch.equal(each[gaps], token.expand_as(each)[gaps])
    assert len(of.mask_tokens) == len(of.encoder.channels)


def test_the_decoder_is_that_of_fine_tuning() -> None:
    of = method()
    assert of.decoder_exported is of.decoder
    fresh = Decoder(of.encoder, 1)
    fresh.load_state_dict(of.decoder.state_dict())


@pytest.mark.parametrize("kind", ["volume", "signal"])
def test_a_step(kind: str) -> None:
    of = method(kind)
    of.generator.manual_seed(7)
    losses = of.loss(batch_of(of))
    losses.total.backward()
    assert losses.total.isfinite() and losses.embeddings is not None and losses.embeddings.shape == (2, 8)
    assert set(losses.terms) == {"reconstruction", "explained", "left_out"}
    assert of.mask_tokens[0].grad is not None and of.mask_tokens[0].grad.abs().sum() > 0


def test_pooled_features_are_the_mean_of_what_is_visible() -> None:
    of = method()
    visible = ~hidden_by(of, 2)
    shown = torch.rand(2, 1, 8, 8, 8).masked_fill(~enlarged(visible, (8, 8, 8)), 0)
    maps, pooled = of._encode(shown, visible)
    wanted = torch.stack([m[:, v].mean(1) for m, v in zip(maps[-1], visible, strict=True)])
    torch.testing.assert_close(pooled, wanted)


def test_blocks_of_ordinary_convolutions_may_have_any_size() -> None:
    of = SparK(signal_encoder(), SignalViews((128,), count=1), sparse=False, block=16, mask_ratio=0.75)
    assert of.grid == (8,) and not hasattr(of, "mask_tokens")
    of.generator.manual_seed(7)
    assert of.loss(batch_of(of)).total.isfinite()


def test_air_is_left_out() -> None:
    of, reader = method(), volume(0)
    reader.data[:] = 0
    of.generator.manual_seed(7)
    losses = of.loss(collate([of.draw(reader, np.random.default_rng(0))], seed=0))
    assert losses.total == 0 and losses.terms["left_out"] == 1


def test_what_does_not_fit_is_refused() -> None:
    views = VolumeViews((8, 8, 8), count=1)
    with pytest.raises(ConfigError, match=r"ResNet1d has BatchNorm1d.*choose ResEnc"):
        SparK(signal_encoder(), SignalViews((128,), count=1))
    with pytest.raises(ConfigError, match="no multiple"):
        SparK(convolutions(), views, block=2)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        SparK(convolutions(), views, mask_ratio=0.0)
    with pytest.raises(ConfigError, match="more than one patch"):
        SparK(convolutions(), views, block=8)
    with pytest.raises(ConfigError, match="single cell"):
        SparK(convolutions(), views, mask_ratio=0.9)
