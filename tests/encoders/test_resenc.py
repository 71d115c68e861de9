"""The residual encoder: presets, anisotropic strides, the names of the released weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medssl.encoders.blocks import InstanceNorm
from medssl.encoders.resenc import PRESETS, ResEnc
from medssl.errors import ConfigError


def test_large_is_resenc_l() -> None:
    """102.3 M parameters with its decoder, of which 90.3 M are the encoder's."""
    with torch.device("meta"):
        encoder = ResEnc(1, "large")
    assert encoder.channels == (32, 64, 128, 256, 320, 320)
    assert encoder.divisor == (32, 32, 32)
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 90.3


@pytest.mark.parametrize("size", sorted(PRESETS))
def test_skip_projections_stand_where_the_released_weights_have_them(size: str) -> None:
    with torch.device("meta"):
        names = set(ResEnc(1, size).state_dict())  # type: ignore[arg-type]
    assert {"stem.convs.0.conv.weight", "stem.convs.0.norm.bias", "stages.0.blocks.0.conv1.conv.bias"} <= names
    assert {"stages.1.blocks.0.skip.1.conv.weight", "stages.1.blocks.0.skip.1.norm.weight"} <= names
    assert "stages.1.blocks.0.skip.1.conv.bias" not in names


def test_instance_norm_equals_torch_s_own() -> None:
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(3), nn.InstanceNorm3d(3, affine=True)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    x = 5 + 3 * torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_thick_slices_can_be_kept() -> None:
    encoder = ResEnc(1, features=(4, 8, 16), blocks=(1, 1, 1), strides=(1, (1, 2, 2), 2))
    assert encoder.strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    maps = encoder(torch.randn(1, 1, 4, 16, 16)).maps
    assert [tuple(m.shape[2:]) for m in maps] == [(4, 16, 16), (4, 8, 8), (2, 4, 4)]


def test_pool_all_concatenates_the_means_of_all_stages() -> None:
    encoder = ResEnc(1, "tiny", pool="all")
    features = encoder(torch.randn(2, 1, 16, 16, 16))
    assert encoder.out_dim == 16 + 32 + 64 + 128
    torch.testing.assert_close(features.pooled, torch.cat([m.mean((2, 3, 4)) for m in features.maps], 1))


@pytest.mark.parametrize("dims", [1, 2])
def test_fewer_axes(dims: int) -> None:
    encoder = ResEnc(2, "tiny", dims=dims)
    assert encoder(torch.randn(1, 2, *(16,) * dims)).maps[-1].shape == (1, 128, *(2,) * dims)


def test_every_residual_block_starts_as_its_skip() -> None:
    encoder = ResEnc(1, features=(4,), blocks=(2,), strides=(1,))
    x = torch.randn(1, 1, 8, 8, 8)
    twice = 0.01**2  # the activation's slope below 0, after each of the two blocks
    torch.testing.assert_close(encoder(x).maps[0], nn.functional.leaky_relu(encoder.stem(x), twice))


def test_a_crop_that_shrinks_to_one_voxel_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least"):
        ResEnc(1, "tiny").check_input(1, (8, 8, 8))


def test_unknown_preset_and_uneven_overrides_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        ResEnc(1, "smal")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one entry a stage"):
        ResEnc(1, features=(4, 8))
