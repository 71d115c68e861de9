"""A 2-D encoder on volumes: each slice is seen alone, and all that takes volume encoders takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medssl.encoders.base import InputSpec, load_encoder, save_encoder
from medssl.encoders.importing import load_weights
from medssl.encoders.resenc import ResEnc
from medssl.encoders.slice_wise import SliceWise
from medssl.errors import ConfigError
from medssl.heads.segmentation import SegmentationHead


def image_encoder() -> ResEnc:
    torch.manual_seed(0)
    return ResEnc(2, dims=2, features=(4, 8, 8), blocks=(1, 1, 1), strides=(1, 2, 2))


def test_a_slice_is_encoded_as_if_it_were_alone() -> None:
    inner = image_encoder()
    outer, x = SliceWise(inner), torch.randn(2, 2, 5, 8, 16)
    features = outer(x)
    assert [tuple(m.shape) for m in features.maps] == [(2, 4, 5, 8, 16), (2, 8, 5, 4, 8), (2, 8, 5, 2, 4)]
    alone = inner(x[1, :, 3][None])
    for whole, own in zip(features.maps, alone.maps, strict=True):
        torch.testing.assert_close(whole[1, :, 3], own[0])
    each = torch.stack([inner(x[:, :, z]).pooled for z in range(5)])
    torch.testing.assert_close(features.pooled, each.mean(0))


def test_any_number_of_slices_is_taken() -> None:
    outer = SliceWise(image_encoder())
    for depth in (1, 3):
        outer.check_input(2, (depth, 8, 8))
        assert outer(torch.randn(1, 2, depth, 8, 8)).maps[-1].shape == (1, 8, depth, 2, 2)
    with pytest.raises(ConfigError, match="multiple"):
        outer.check_input(2, (3, 8, 9))
    with pytest.raises(ConfigError, match="single voxel"):
        SliceWise(ResEnc(1, dims=2, features=(4, 8), blocks=(1, 1), strides=(1, 1))).check_input(1, (2, 1, 1))


def test_encoders_of_volumes_are_refused() -> None:
    with pytest.raises(ConfigError, match="ResEnc takes 3 axes"):
        SliceWise(ResEnc(1, "tiny"))


def test_it_is_segmented_with_and_exported_as_a_volume_encoder(tmp_path: Path) -> None:
    save_encoder(SliceWise(image_encoder()), tmp_path, InputSpec("volume", ("a", "b"), (4, 8, 8)), {})
    loaded, _ = load_encoder(tmp_path)
    head = SegmentationHead(loaded, crop=(4, 8, 8))
    logits = head(torch.randn(1, 2, 4, 8, 8))
    assert logits.shape == (1, 2, 4, 8, 8)
    assert head.predict_volume(torch.randn(2, 7, 8, 11)).shape == (2, 7, 8, 11)


def test_weights_of_the_inner_encoder_go_in_and_out_by_name() -> None:
    inner, other = SliceWise(image_encoder()), ResEnc(2, dims=2, features=(4, 8, 8), blocks=(1,) * 3, strides=(1, 2, 2))
    report = load_weights(other, inner.state_dict())
    assert report.share == 1
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), inner.parameters(), strict=True))
