"""Segmentation over every kind of encoder, and prediction of whole volumes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.slice_wise import SliceWise
from medssl.encoders.swin_unetr import SwinUNETREncoder
from medssl.encoders.ts2vec import TS2Vec
from medssl.encoders.vit import ViT
from medssl.errors import ConfigError
from medssl.heads.decoder import Decoder, finer_strides
from medssl.heads.losses import dice_and_cross_entropy
from medssl.heads.segmentation import UNKNOWN, SegmentationHead
from medssl.views.base import Views

ENCODERS: dict[str, tuple[type[Encoder], dict[str, Any], tuple[int, ...]]] = {
    "unet": (ResEnc, {"size": "tiny"}, (16, 16, 24)),
    "anisotropic": (
        ResEnc,
        {"features": (4, 8, 8), "blocks": (1, 1, 1), "strides": (1, (1, 2, 2), 2)},
        (4, 16, 24),
    ),
    "strided stem": (ResEnc, {"features": (4, 8), "blocks": (1, 1), "strides": ((1, 2, 2), 2)}, (4, 16, 24)),
    "swin": (SwinUNETREncoder, {"feature_size": 12, "window": 3}, (32, 32, 64)),
    "tokens": (ViT, {"size": (16, 16, 16), "patch": 8, "width": 24, "depth": 1, "heads": 2}, (16, 16, 24)),
    "tokens of thick slices": (
        ViT,
        {"size": (4, 16, 16), "patch": (2, 8, 8), "width": 24, "depth": 1, "heads": 2},
        (4, 16, 24),
    ),
    "slice by slice": (
        SliceWise,
        {"encoder": ResEnc(dims=2, features=(4, 8, 8), blocks=(1, 1, 1), strides=(2, 2, 2))},
        (3, 16, 24),
    ),
    "2-D": (ResEnc, {"size": "tiny", "dims": 2}, (16, 24)),
    "signal of full length": (TS2Vec, {"width": 4, "out_dim": 8, "depth": 2}, (33,)),
    "strided signal of odd length": (ResNet1d, {"widths": (4, 8), "kernel": 3}, (33,)),
}


@pytest.mark.parametrize("name", sorted(ENCODERS))
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_decoder_fits_every_encoder(name: str, deep_supervision: bool) -> None:
    kind, arguments, size = ENCODERS[name]
    head = SegmentationHead(kind(**arguments), ("background", "a", "b"), deep_supervision=deep_supervision)
    x, y = torch.randn(2, 1, *size), torch.randint(0, 3, (2, 1, *size))
    assert head(x).shape == (2, 3, *size)
    loss, parts = head.criterion(x, y)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert set(parts) == {"dice_loss", "cross_entropy"}
    unused = [n for n, p in head.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused


def test_added_levels_halve_the_stride() -> None:
    assert finer_strides((1, 1, 1)) == []
    assert finer_strides((4, 16, 16)) == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]
    assert finer_strides((1, 3)) == [(1, 1)]


def test_channels_of_the_decoder_can_be_chosen() -> None:
    encoder = ResEnc(1, "tiny")
    decoder = Decoder(encoder, 2, channels=(4, 8, 8))
    assert [level.merge.conv.out_channels for level in decoder.levels.values()] == [4, 8, 8]
    with pytest.raises(ConfigError, match=r"2 entries but .* has 3 levels"):
        SegmentationHead(encoder, decoder_channels=(4, 8))


def balls(n: int, size: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy volumes with a bright ball (class 1) and a dark one (class 2) somewhere."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in size), indexing="ij"))
    x, y = rng.normal(0, 0.2, (n, 1, *size)), np.zeros((n, 1, *size), np.int64)
    for i in range(n):
        for label, level in ((1, 1.0), (2, -1.0)):
            centre = rng.uniform(3, np.array(size) - 3).reshape(3, 1, 1, 1)
            inside = ((grid - centre) ** 2).sum(0) < 9
            x[i, 0][inside] += level
            y[i, 0][inside] = label
    return torch.from_numpy(x).float(), torch.from_numpy(y)


@pytest.fixture(scope="module")
def trained() -> SegmentationHead:
    torch.manual_seed(0)
    head = SegmentationHead(
        ResEnc(1, features=(8, 16), blocks=(1, 1), strides=(1, 2)), ("background", "bright", "dark"), crop=(16, 16, 16)
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for step in range(50):
        optimizer.zero_grad()
        head.criterion(*balls(2, (16, 16, 16), seed=step))[0].backward()
        optimizer.step()
    return head.eval()


def dice(prediction: Tensor, truth: Tensor, label: int) -> float:
    p, t = prediction == label, truth == label
    return float(2 * (p & t).sum() / (p.sum() + t.sum()))


@pytest.mark.parametrize("size", [(16, 16, 16), (10, 21, 13), (30, 18, 25)], ids=["crop", "smaller", "larger"])
def test_predicts_whole_volumes_of_any_size(trained: SegmentationHead, size: tuple[int, int, int]) -> None:
    x, y = balls(1, size, seed=1000)
    p = trained.predict_volume(x[0], fill=0.0)
    assert p.shape == (3, *size) and p.dtype == torch.float32
    torch.testing.assert_close(p.sum(0), torch.ones(size))
    labels = p.argmax(0)
    assert dice(labels, y[0, 0], 1) > 0.8
    assert dice(labels, y[0, 0], 2) > 0.8


def test_one_window_is_the_plain_forward_pass(trained: SegmentationHead) -> None:
    x, _ = balls(1, (16, 16, 16), seed=7)
    with torch.no_grad():
        plain = trained.probabilities(trained(x))[0]
    torch.testing.assert_close(trained.predict_volume(x[0]), plain, rtol=1e-4, atol=1e-5)


def test_mirroring_averages_over_all_eight_mirror_images(trained: SegmentationHead) -> None:
    x, _ = balls(1, (16, 16, 16), seed=8)
    trained.mirror = True
    try:
        p = trained.predict_volume(x[0])
        flipped = trained.predict_volume(x[0].flip(2, 3))
    finally:
        trained.mirror = False
    torch.testing.assert_close(p, flipped.flip(2, 3), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(p, trained.predict_volume(x[0]), atol=1e-5)


def test_prediction_needs_a_window_the_encoder_can_take(trained: SegmentationHead) -> None:
    with pytest.raises(ConfigError, match="multiple of"):
        trained.predict_volume(torch.zeros(1, 20, 20, 20), size=(15, 16, 16))
    with pytest.raises(ConfigError, match="channels"):
        trained.predict_volume(torch.zeros(2, 20, 20, 20))
    with pytest.raises(ConfigError, match="needs a window"):
        SegmentationHead(ResEnc(1, "tiny")).predict_volume(torch.zeros(1, 20, 20, 20))


class Mirrors(Views):
    """Mirrors image and mask along the last axis."""

    def __init__(self) -> None:
        self.size, self.count, self.kind = (16, 16, 16), 1, "volume"

    def draw(self, reader: Any, rng: np.random.Generator) -> dict[str, Any]:
        raise NotImplementedError

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.flip(-1)

    def augment_pair(self, x: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x.flip(-1), mask.flip(-1)


def test_image_and_mask_are_augmented_alike_and_only_in_training() -> None:
    torch.manual_seed(0)
    head = SegmentationHead(ResEnc(1, "tiny"), augmentation=Mirrors())
    x, y = torch.randint(0, 9, (1, 1, 1, 16, 16, 16)), torch.randint(0, 2, (1, 1, 16, 16, 16))
    fields = {
        "input_scale": torch.ones(1, 1),
        "input_offset": torch.zeros(1, 1),
        "input_range": torch.tensor([[0.0, 9.0]]),
    }
    augmented, _ = head.loss({"x": x, "y": y, **fields})
    by_hand, _ = head.criterion(x[:, 0].float().flip(-1), y.flip(-1))
    plain, _ = head.eval().loss({"x": x, "y": y, **fields})
    torch.testing.assert_close(augmented, by_hand)
    assert not torch.allclose(plain, augmented)


class ImageOnly(Mirrors):
    augment_pair = property()  # type: ignore[assignment]


def test_an_augmentation_for_images_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="ImageOnly cannot augment an image with its mask"):
        SegmentationHead(ResEnc(1, "tiny"), augmentation=ImageOnly())


@pytest.mark.parametrize(("arguments", "message"), [({"classes": ("a",)}, "background"), ({"overlap": 1.0}, "overlap")])
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationHead(ResEnc(1, "tiny"), **arguments)


def test_balanced_voxels_fade_over_the_training() -> None:
    """At the first step a small class pulls harder than in the mean over voxels, at the last one no longer."""
    torch.manual_seed(0)
    head = SegmentationHead(ResEnc(1, features=(4, 8), blocks=(1, 1), strides=(1, 2)), ("background", "a", "b"))
    x, y = balls(2, (16, 16, 16), seed=0)

    def loss(balance: float, step: int | None) -> float:
        head.voxel_balance = balance
        trainer = None if step is None else SimpleNamespace(max_steps=10, global_step=step)
        head._trainer = trainer  # type: ignore[assignment]
        return float(head.criterion(x, y)[0].detach())

    plain = loss(0.0, 0)
    first, middle, last = (loss(0.5, step) for step in (0, 5, 10))
    assert first != pytest.approx(plain) and middle not in (pytest.approx(first), pytest.approx(plain))
    assert middle == pytest.approx(loss(0.25, 0)), "half of it is left after half of the steps"
    assert last == pytest.approx(plain) and loss(0.5, None) == pytest.approx(plain)


@pytest.mark.parametrize("encoder", ["tokens of thick slices", "anisotropic"])
def test_frames_that_nobody_annotated_count_for_nothing(encoder: str) -> None:
    """The loss is that of the annotated frames as images of their own, whatever the others show."""
    kind, options, size = ENCODERS[encoder]
    head = SegmentationHead(kind(**options), ("background", "a", "b"), single_frames=True, voxel_balance=0.5).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((2, 1, *size), generator=generator)
    y = torch.full((2, 1, *size), UNKNOWN, dtype=torch.uint8)
    y[0, 0, 1], y[1, 0, 3] = torch.randint(0, 3, (2, *size[1:]), generator=generator, dtype=torch.uint8)
    loss, _ = head.criterion(x, y)
    logits = head(x)
    chosen = torch.stack([logits[0, :, 1], logits[1, :, 3]])
    labels = torch.stack([y[0, 0, 1], y[1, 0, 3]]).long()
    expected = sum(dice_and_cross_entropy(chosen, labels))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())


def test_single_frames_and_deep_supervision_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="deep_supervision off"):
        SegmentationHead(ResEnc(size="tiny"), single_frames=True, deep_supervision=True)
