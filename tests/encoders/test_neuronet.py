"""NeuroNet's encoder: frames, published sizes, places of the map, and frames that are too short."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medssl.encoders.neuronet import FrameNet, NeuroNet, frame_codes
from medssl.errors import ConfigError


def small(channels: int = 1, *, frame: int = 300, step: int = 37) -> NeuroNet:
    torch.manual_seed(0)
    return NeuroNet(channels, frame, step=step, width=8, depth=1, heads=2).eval()


def weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_thirty_seconds_give_73_frames_without_the_last_samples() -> None:
    of, x = small(), torch.arange(3000.0).view(1, 1, 3000)
    frames = of.frames(x)
    assert frames.shape == (1, 73, 1, 300) and of.frame_count(3000) == 73
    assert frames[0, :, 0, 0].tolist() == [37.0 * i for i in range(73)]
    assert float(frames.max()) == 2963 and frames.data_ptr() == x.data_ptr()
    assert small(frame=500, step=50).frame_count(3000) == 51
    assert small(frame=400, step=100).frame_count(3000) == 27


def test_sizes_of_the_convolutional_network_are_the_published_ones() -> None:
    assert weights(FrameNet(1, 300)) == 243_456
    assert weights(small().tokenizer) == 197_120
    assert [small(frame=f).token_dim for f in (300, 400, 500)] == [256, 832, 1472]


def test_frames_do_not_see_each_other_before_the_transformer() -> None:
    of, x = small(), torch.randn(2, 1, 600)
    with torch.no_grad():
        tokens = of.tokens(x)
        each = [of.tokenizer(of.backbone(x[..., s : s + 300])) for s in range(0, 301, 37)]
        torch.testing.assert_close(tokens, torch.stack(each, 1), rtol=1e-4, atol=1e-5)


def test_the_map_lines_up_with_the_signal() -> None:
    """Place j covers samples 37 j to 37 j + 36; frame f has its middle at 37 f + 150."""
    of, x = small(), torch.randn(1, 1, 700)
    with torch.no_grad():
        features = of(x)
        tokens = of.encode(of.tokens(x))[:, 1:]
    count, places = tokens.shape[1], features.maps[0].shape[2]
    assert (count, places) == (11, 19)
    for j in range(places):
        middle = 37 * j + 18.5
        nearest = min(range(count), key=lambda f: abs(37 * f + 150 - middle))
        torch.testing.assert_close(features.maps[0][0, :, j], tokens[0, nearest])
    torch.testing.assert_close(features.pooled, tokens.mean(1))


def test_some_frames_are_encoded_with_their_own_places() -> None:
    of, x = small(), torch.randn(2, 1, 700)
    with torch.no_grad():
        tokens = of.tokens(x)
        every = torch.arange(11).expand(2, -1)
        torch.testing.assert_close(of.encode(tokens, every), of.encode(tokens))
        order = torch.tensor([3, 7, 0]).expand(2, -1)
        few = of.encode(tokens, order)
        assert few.shape == (2, 4, 8)
        torch.testing.assert_close(of.encode(tokens, order.flip(1))[:, 1:].flip(1), few[:, 1:])
        shifted = tokens.roll(1, 1)  # the same tokens at other places
        assert not torch.allclose(of.encode(shifted, order + 1)[:, 1:], few[:, 1:], atol=1e-4)


def test_codes_of_places() -> None:
    codes = frame_codes(5, 16).double()
    assert (codes[:, :4] == 0).all() and (codes[:, 4:8] == 1).all()
    f = torch.arange(5.0).double().unsqueeze(1) / 10_000 ** (torch.arange(4.0).double() / 4)
    torch.testing.assert_close(codes[:, 8:], torch.cat([f.sin(), f.cos()], 1), rtol=0, atol=1e-7)


def test_channels_share_one_stem() -> None:
    assert small(3).backbone.stem[0].weight.shape == (32, 3, 7)
    assert small(3)(torch.randn(2, 3, 400)).pooled.shape == (2, 8)


def test_frames_that_leave_nothing_are_refused() -> None:
    assert NeuroNet(1, 289, width=8, depth=1).backbone(torch.randn(1, 1, 289)).shape[1] == 64 * 7
    for frame in (288, 200, 1):
        with pytest.raises(ConfigError, match=r"too short.*289"):
            NeuroNet(1, frame)
    with pytest.raises(ConfigError, match="300"):
        small().check_input(1, (299,))


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="T and B"):
        NeuroNet(size="L")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of 4"):
        NeuroNet(width=10, heads=2)
    with pytest.raises(ConfigError, match="step"):
        NeuroNet(step=0, width=8)
