"""MaskedAutoencoder: what the encoder sees, every kind of recording, background, settings that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import collate, signal, signal_encoder, volume

from medssl.encoders.vit import ViT
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.masked_autoencoder import MASK_RATIOS, MaskedAutoencoder, TokenDecoder
from medssl.objectives.masked_reconstruction import patchify
from medssl.views.base import Batch, Sample, Views
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation

SMALL = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
STILL = VolumeAugmentation(
    flip=(0.0, 0.0, 0.0), affine=0, blur=0, coarse=0, noise=0, brightness=0, contrast=0, gamma=0
)  # fmt: skip


def vit(channels: int, size: tuple[int, ...], patch: int | tuple[int, ...] = 4) -> ViT:
    return ViT(channels, size, patch=patch, width=16, depth=1, heads=2)


def method(kind: str = "volume", **options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    views: Any = VolumeViews((8, 8, 8), count=1, augmentation=STILL)
    if kind == "signal":
        views = SignalViews((128,), count=1)
    encoder = vit(1, (8, 8, 8)) if kind == "volume" else vit(2, (128,), 8)
    return MaskedAutoencoder(encoder, views, **SMALL, **options)


def batch_of(of: Any, readers: list[Any]) -> dict[str, Any]:
    return collate([of.draw(r, np.random.default_rng(i)) for i, r in enumerate(readers)], seed=0)


def loss(of: Any, batch: Batch) -> Losses:
    of.generator.manual_seed(7)
    losses: Losses = of.loss(batch)
    return losses


class Frames(Views):
    """Noise of any shape: images and clips, of which there are no cohorts yet."""

    kind = "video"

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size, self.count = size, 1

    def draw(self, reader: Any, rng: np.random.Generator) -> Sample:
        """One view."""
        return {**reader.input_fields(), "x": rng.integers(0, 1000, (1, 1, *self.size)).astype(np.int16)}

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """As it is."""
        return x


@pytest.mark.parametrize(("size", "patch"), [((8, 12), (4, 4)), ((4, 8, 8), (2, 4, 4)), ((1, 8, 8), (1, 4, 4))])
def test_images_and_video_differ_in_their_patches_alone(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    of = MaskedAutoencoder(vit(1, size, patch), Frames(size), ignore_background=False, mask_kind="random", **SMALL)
    assert of.mask_ratio == MASK_RATIOS["video" if size[0] == 4 else "image"]
    losses = loss(of, batch_of(of, [volume(0), volume(1)]))
    losses.total.backward()
    assert losses.total.isfinite() and losses.embeddings is not None and losses.embeddings.shape == (2, 16)


def test_the_ratio_follows_the_kind() -> None:
    assert method().mask_ratio == 0.8 and method("signal").mask_ratio == 0.5
    assert method(mask_ratio=0.6).mask_ratio == 0.6


def test_the_encoder_sees_visible_patches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    of, seen = method(mask_ratio=0.5), []
    encode = of.encoder.encode
    monkeypatch.setattr(of.encoder, "encode", lambda tokens: seen.append(tokens) or encode(tokens))
    loss(of, batch_of(of, [volume(0), volume(1)]))
    assert [t.shape for t in seen] == [(2, 4, 16)]


def test_hidden_values_do_not_reach_the_prediction() -> None:
    """What is hidden only appears in the target: with the same mask the decoder is given the same."""
    of, given = method(mask_ratio=0.5), []
    of.decoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
    batch = batch_of(of, [volume(0)])
    loss(of, batch)
    places = given[0][1][0].tolist()
    x = batch["x"].clone()
    hidden = torch.ones(8, dtype=torch.bool)
    hidden[places] = False
    cells = hidden.view(2, 2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)
    x[..., cells] = 777
    changed = loss(of, {**batch, "x": x})
    assert torch.equal(given[0][0], given[1][0]) and torch.equal(given[0][1], given[1][1])
    assert changed.terms["explained"] == 0 or changed.total != loss(of, batch).total


def test_the_decoder_puts_patches_back_where_they_lie() -> None:
    torch.manual_seed(0)
    decoder = TokenDecoder(6, 5, (4,), hidden=8, depth=1, heads=2)
    decoder.positions.zero_()
    encoded, places = torch.randn(1, 2, 6), torch.tensor([[1, 3]])
    told = decoder(encoded, places)
    assert told.shape == (1, 4, 5)
    torch.testing.assert_close(told[0, 0], told[0, 2])  # both a mask token, and places are not told apart
    swapped = decoder(encoded.flip(1), places.flip(1))
    torch.testing.assert_close(swapped, told)


def test_air_and_padding_are_left_out() -> None:
    of, readers = method(mask_ratio=0.5), [volume(0), volume(1)]
    readers[0].data[:, :, :, :12] = 0  # half of the volume is outside the body
    readers[1].data[:] = 0
    batch = batch_of(of, readers)
    batch["x"][0] = torch.from_numpy(readers[0].data[:, :8, :8, 8:16]).unsqueeze(0)
    of.generator.manual_seed(7)
    _, counted = of.rows(batch)
    assert counted is not None
    assert counted[0].view(2, 2, 2)[..., 1].all() and not counted[0].view(2, 2, 2)[..., 0].any()
    assert not counted[1].any()
    losses = loss(of, batch)
    assert 0.5 <= losses.terms["left_out"] <= 1 and losses.total.isfinite()
    assert loss(method(mask_ratio=0.5, ignore_background=False), batch).terms["left_out"] == 0


def test_nothing_but_air_is_no_error_and_no_gradient() -> None:
    of, reader = method(), volume(0)
    reader.data[:] = 0
    losses = loss(of, batch_of(of, [reader]))
    losses.total.backward()
    assert losses.total == 0 and losses.terms["left_out"] == 1
    assert all(p.grad is None or (p.grad == 0).all() for p in of.parameters())


def test_a_signal_at_rest_counts_but_its_padding_does_not() -> None:
    of = MaskedAutoencoder(
        vit(2, (128,), 8), SignalViews((128,), count=1, augmentation=SignalAugmentation()), **SMALL
    )  # fmt: skip
    short = signal(0, length=64)
    short.data[:] = np.array([[1], [0]])  # a thousandth of the unit
    of.generator.manual_seed(7)
    _, counted = of.rows(batch_of(of, [short]))
    assert counted is not None and int(counted.sum()) == 8


def test_every_view_is_reconstructed() -> None:
    views = VolumeViews((8, 8, 8), count=3)
    of = MaskedAutoencoder(vit(1, (8, 8, 8)), views, **SMALL)
    losses = loss(of, batch_of(of, [volume(0), volume(1)]))
    assert losses.embeddings is not None and losses.embeddings.shape == (6, 16)
    assert set(losses.terms) == {"reconstruction", "explained", "left_out"}
    assert losses.terms["reconstruction"] == losses.total


def test_explained_is_relative_to_telling_the_same_everywhere() -> None:
    of = method(mask_ratio=0.5, target="raw", ignore_background=False)
    rows = torch.rand(2, 1, 8, 8, 8)
    tokens = patchify(rows, (4, 4, 4))
    hidden = torch.ones(2, 8, dtype=torch.bool)
    assert of.score(tokens, rows, hidden, None)[1]["explained"] == 1
    constant = tokens.mean().expand_as(tokens)
    assert of.score(constant, rows, hidden, None)[1]["explained"].abs() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, "between 0 and 1"),
        ({"mask_kind": "stripe"}, "random, tube or block"),
        ({"mask_kind": "block", "block": 2}, "hides all of a grid"),
        ({"mask_kind": "block", "block": (1, 2)}, "one integer"),
        ({"target": "patch"}, "token_channel"),
        ({"min_token_std": -1.0}, "min_token_std"),
        ({"decoder_heads": 5}, "multiple of its heads"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MaskedAutoencoder(vit(1, (8, 8, 8)), VolumeViews((8, 8, 8), count=1), **{**SMALL, **options})


def test_encoders_and_views_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="choose ViT, or SparK"):
        MaskedAutoencoder(signal_encoder(), SignalViews((128,), count=1))
    with pytest.raises(ConfigError, match="1 spatial axes but the views give 3"):
        MaskedAutoencoder(vit(1, (128,)), VolumeViews((8, 8, 8)))
    with pytest.raises(ConfigError, match="multiple of it"):
        MaskedAutoencoder(vit(1, (8, 8, 8)), VolumeViews((8, 8, 10)))
    with pytest.raises(ConfigError, match="tubes run through all frames"):
        MaskedAutoencoder(vit(2, (128,)), SignalViews((128,)), mask_kind="tube")
    with pytest.raises(ConfigError, match="ignore_background"):
        MaskedAutoencoder(vit(1, (8, 8)), Frames((8, 8)))
