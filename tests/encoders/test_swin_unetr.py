"""The Swin encoder equals the encoder inside MONAI's SwinUNETR."""

from __future__ import annotations

import pytest
import torch

from medssl.encoders.swin_unetr import SwinUNETREncoder
from medssl.errors import ConfigError


def test_weights_and_maps_are_those_of_monai() -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR

    torch.manual_seed(0)
    whole = SwinUNETR(1, 2, feature_size=12, window_size=3, use_v2=True).eval()
    encoder = SwinUNETREncoder(feature_size=12, window=3).eval()
    shared = {k: v for k, v in whole.state_dict().items() if not k.startswith(("decoder", "out."))}
    encoder.load_state_dict(shared)  # strict: not one key more or less

    x = torch.randn(1, 1, 32, 32, 64)
    with torch.no_grad():
        features = encoder(x)
        hidden = whole.swinViT(x, whole.normalize)
        torch.testing.assert_close(features.maps[0], whole.encoder1(x))
        torch.testing.assert_close(features.maps[2], whole.encoder3(hidden[1]))
        torch.testing.assert_close(features.maps[4], hidden[3])
        torch.testing.assert_close(features.maps[5], whole.encoder10(hidden[4]))


def test_pooled_is_voco_s_embedding_of_24_f() -> None:
    encoder = SwinUNETREncoder(feature_size=12, window=3).eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 1, 32, 32, 64))
    five = [m.mean((2, 3, 4)) for i, m in enumerate(features.maps) if i != 4]
    torch.testing.assert_close(features.pooled, torch.cat(five, 1))
    assert encoder.out_dim == 24 * 12


def test_base_has_the_published_size() -> None:
    """53.2 M parameters in 145 tensors for F = 48."""
    encoder = SwinUNETREncoder()
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 53.2
    assert len(encoder.state_dict()) == 145


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 12"):
        SwinUNETREncoder(feature_size=20)
    with pytest.raises(ConfigError, match="single voxel"):
        SwinUNETREncoder(feature_size=12).check_input(1, (32, 32, 32))
    with pytest.raises(ConfigError, match="multiple of"):
        SwinUNETREncoder(feature_size=12).check_input(1, (48, 64, 64))
