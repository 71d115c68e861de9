"""MaskedAutoencoder: what the encoder sees, every kind of recording, background, settings that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import collate, signal, signal_encoder, video, volume

from medssl.encoders.video_vit import VideoViT
from medssl.encoders.vit import ViT
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.masked_autoencoder import MASK_RATIOS, MaskedAutoencoder, TokenDecoder
from medssl.objectives.masked_reconstruction import patchify
from medssl.views.base import Batch, Sample, Views
from medssl.views.clip import ClipViews
from medssl.views.clip_augment import ClipAugmentation
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation

SMALL = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
STILL = VolumeAugmentation(
    flip=(0.0, 0.0, 0.0), affine=0, blur=0, coarse=0, noise=0, brightness=0, contrast=0, gamma=0
)  # fmt: skip

STEADY = ClipAugmentation(affine=0, gain=0, tgc=0, gamma=0, speckle=0)


def vit(channels: int, size: tuple[int, ...], patch: int | tuple[int, ...] = 4) -> ViT:
    return ViT(channels, size, patch=patch, width=16, depth=1, heads=2)


def method(kind: str = "volume", **options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    views: Any = VolumeViews((8, 8, 8), count=1, augmentation=STILL)
    if kind == "signal":
        views = SignalViews((128,), count=1)
    encoder = vit(1, (8, 8, 8)) if kind == "volume" else vit(2, (128,), 8)
    return MaskedAutoencoder(encoder, views, **SMALL, **options)


def of_clips(size: tuple[int, int, int] = (4, 16, 16), *, encoder: Any = None, **options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    views = ClipViews(size, count=1, crop="whole", augmentation=STEADY)
    chosen = encoder or VideoViT(1, size, patch=(2, 4, 4), width=16, depth=1, heads=2)
    return MaskedAutoencoder(chosen, views, **{"mask_kind": "tube", **SMALL, **options})


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
    assert of.ratio_of(of.views) == MASK_RATIOS["video" if size[0] == 4 else "image"]
    losses = loss(of, batch_of(of, [volume(0), volume(1)]))
    losses.total.backward()
    assert losses.total.isfinite() and losses.embeddings is not None and losses.embeddings.shape == (2, 16)


def test_the_ratio_follows_the_kind() -> None:
    for of, ratio in ((method(), 0.8), (method("signal"), 0.5), (method(mask_ratio=0.6), 0.6)):
        assert of.ratio_of(of.views) == ratio


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


def test_clips_hide_tubes_and_the_decoder_gets_patches_alone() -> None:
    """Nine cells of ten are hidden, the same in all frames; the class token is not decoded."""
    of, given = of_clips(), []
    of.decoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
    losses = loss(of, batch_of(of, [video(0), video(1)]))
    assert of.ratio_of(of.views) == 0.9 and losses.total.isfinite()
    encoded, places, *_ = given[0]
    assert of.encoder.leading == 1 and encoded.shape == (2, 2, 16) and places.shape == (2, 2)
    assert torch.equal(places[:, 0] % 16, places[:, 1] % 16) and (places[:, 1] - places[:, 0] == 16).all()
    assert losses.embeddings is not None and losses.embeddings.shape == (2, 16)


def test_what_lies_outside_the_sector_and_what_is_the_same_all_over_is_left_out() -> None:
    reader = video(0, (8, 16, 16))
    reader.data[:] = np.random.default_rng(0).integers(40, 250, reader.data.shape)
    reader.data[..., :4] = 0  # black
    reader.data[..., 12:] = 255  # saturated
    of, told = of_clips(), of_clips(target="raw")
    for which, columns in ((of, [0, 1, 1, 0]), (told, [0, 1, 1, 1])):
        _, counted = which.rows(batch_of(which, [reader]))
        assert counted is not None
        assert torch.equal(counted.view(2, 4, 4).float(), torch.tensor(columns).float().expand(2, 4, 4))


def test_what_lengthens_a_view_to_whole_patches_has_no_error() -> None:
    of = of_clips((3, 14, 16), mask_ratio=0.5, mask_kind="random", ignore_background=False)
    assert of.grid == (2, 4, 4)
    rows, counted = of.rows(batch_of(of, [video(0), video(1)]))
    assert rows.shape == (2, 1, 4, 16, 16) and counted is None
    assert torch.equal(rows[:, :, 3], rows[:, :, 2]) and torch.equal(rows[..., 14, :], rows[..., 13, :])
    hidden = torch.ones(2, 32, dtype=torch.bool)
    own = torch.zeros(2, 1, 4, 16, 16)
    own[:, :, :3, :14] = 1
    own = patchify(own, of.patch)
    prediction = torch.randn(2, 32, 32)
    error, terms = of.score(prediction, rows, hidden, None)
    assert torch.equal(of.score(prediction + 100 * (1 - own), rows, hidden, None)[0], error)
    assert not torch.equal(of.score(prediction + 0.1 * own, rows, hidden, None)[0], error)
    some = torch.arange(32).expand(2, 32) < 16
    half = of.score(prediction, rows, hidden, some)[0]
    torch.testing.assert_close(half, of.score(prediction, rows, some, None)[0])
    assert terms["explained"].isfinite()


def test_images_are_clips_of_one_frame() -> None:
    of = of_clips((1, 16, 16), mask_kind="random")
    assert of.ratio_of(of.views) == 0.75 and of.grid == (1, 4, 4)
    losses = loss(of, batch_of(of, [video(0), video(1)]))
    losses.total.backward()
    assert losses.total.isfinite() and losses.total > 0


def test_volumes_are_hidden_from_the_same_encoder() -> None:
    encoder = VideoViT(1, (8, 8, 8), patch=(2, 4, 4), width=16, depth=1, heads=2, class_token=False)
    of = MaskedAutoencoder(encoder, VolumeViews((8, 8, 8), count=1), **SMALL)
    assert of.ratio_of(of.views) == 0.8 and loss(of, batch_of(of, [volume(0)])).total.isfinite()


def test_an_encoder_that_takes_whole_patches_alone_is_not_lengthened() -> None:
    with pytest.raises(ConfigError, match="multiple of it"):
        of_clips((3, 16, 16), encoder=vit(1, (4, 16, 16), (2, 4, 4)))


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
    with pytest.raises(ConfigError, match="choose ViT, VideoViT for video, or SparK"):
        MaskedAutoencoder(signal_encoder(), SignalViews((128,), count=1))
    with pytest.raises(ConfigError, match="1 spatial axes but the views give 3"):
        MaskedAutoencoder(vit(1, (128,)), VolumeViews((8, 8, 8)))
    with pytest.raises(ConfigError, match="multiple of it"):
        MaskedAutoencoder(vit(1, (8, 8, 8)), VolumeViews((8, 8, 10)))
    with pytest.raises(ConfigError, match="tubes run through all frames"):
        MaskedAutoencoder(vit(2, (128,)), SignalViews((128,)), mask_kind="tube")
    with pytest.raises(ConfigError, match="ignore_background"):
        MaskedAutoencoder(vit(1, (8, 8)), Frames((8, 8)))
