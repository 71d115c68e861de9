"""The vision transformer and its position table."""

from __future__ import annotations

import pytest
import torch

from medssl.encoders.vit import ViT, resize_positions
from medssl.errors import ConfigError


def test_equals_monai_at_the_size_it_was_built_for() -> None:
    torch.manual_seed(0)
    encoder = ViT(1, (16, 16, 24), patch=8, width=24, depth=2, heads=3).eval()
    x = torch.randn(2, 1, 16, 16, 24)
    with torch.no_grad():
        features = encoder(x)
        tokens, _ = encoder.vit(x)
    torch.testing.assert_close(features.maps[0].flatten(2).transpose(1, 2), tokens)
    torch.testing.assert_close(features.pooled, tokens.mean(1))


def test_positions_of_a_linear_ramp_stay_a_ramp() -> None:
    """Token centres of a grid twice as fine lie at quarter steps; the border repeats the outermost value."""
    ramp = torch.arange(4.0).view(1, 4, 1)
    fine = resize_positions(ramp, (4,), (8,))[0, :, 0]
    torch.testing.assert_close(fine, torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))


def test_a_table_keeps_its_axis_order() -> None:
    grid = (2, 3, 4)
    table = torch.arange(24.0).view(1, 24, 1)
    assert resize_positions(table, grid, grid) is table
    up = resize_positions(table, grid, (4, 3, 4)).view(4, 3, 4)
    torch.testing.assert_close(up[0], table.view(grid)[0])
    torch.testing.assert_close(up[-1], table.view(grid)[-1])


def test_two_axes() -> None:
    encoder = ViT(3, (32, 32), patch=16, width=12, depth=1, heads=2)
    assert encoder(torch.randn(1, 3, 32, 48)).maps[0].shape == (1, 12, 2, 3)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of the patch"):
        ViT(1, (20, 20, 20), patch=16)
    with pytest.raises(ConfigError, match="single patch"):
        ViT(1, (32, 32, 32), patch=16, width=12, depth=1, heads=2).check_input(1, (16, 16, 16))


def test_one_axis() -> None:
    encoder = ViT(2, (40,), patch=8, width=12, depth=1, heads=2)
    assert encoder(torch.randn(3, 2, 64)).maps[0].shape == (3, 12, 8)
    with pytest.raises(ConfigError, match="1 to 3 axes"):
        ViT(1, (4, 4, 4, 4), patch=2)


def test_some_tokens_can_be_encoded_alone() -> None:
    """All of them give the map; a few do not depend on the others."""
    torch.manual_seed(0)
    encoder = ViT(1, (16, 16), patch=4, width=12, depth=2, heads=2).eval()
    x = torch.randn(2, 1, 16, 16)
    tokens = encoder.tokens(x)
    torch.testing.assert_close(encoder.encode(tokens).mean(1), encoder(x).pooled)
    x[:, :, 8:] = 0
    torch.testing.assert_close(encoder.tokens(x)[:, :8], tokens[:, :8])
    assert encoder.encode(tokens[:, :8]).shape == (2, 8, 12)
