"""An encoder of one channel on signals of any montage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, InputSpec, load_encoder, save_encoder, with_channels
from medssl.encoders.per_channel import PerChannel
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError
from medssl.training.contract import match_input


def small(channels: int = 1) -> TS2Vec:
    torch.manual_seed(0)
    return TS2Vec(channels, 6, out_dim=5, depth=2)


def test_features_are_those_of_every_channel_by_itself() -> None:
    inner = small().eval()
    x = torch.randn(3, 4, 30)
    with torch.no_grad():
        each = [inner(x[:, c : c + 1]) for c in range(4)]
        pooled = torch.stack([f.pooled for f in each])
        mean = PerChannel(inner, 4)(x)
        torch.testing.assert_close(mean.pooled, pooled.mean(0))
        torch.testing.assert_close(mean.maps[0], torch.stack([f.maps[0] for f in each]).mean(0))
        joined = PerChannel(inner, 4, pool="concat")(x)
        torch.testing.assert_close(joined.pooled, torch.cat(list(pooled), dim=1))
        torch.testing.assert_close(joined.maps[0], torch.cat([f.maps[0] for f in each], dim=1))
        mixed = PerChannel(inner, 4, pool="concat", maps="mean")
        assert mixed(x).maps[0].shape == (3, 5, 30)
        assert (mixed.out_dim, mixed.channels) == (20, (5,))


def test_attention_begins_as_the_mean_and_learns_which_channel_counts() -> None:
    torch.manual_seed(0)
    encoder = PerChannel(ResNet1d(1, (4, 8)), 3, pool="attention")
    x = torch.randn(8, 3, 32)
    x[:, 1] *= 10  # the one that tells
    torch.testing.assert_close(encoder.eval().attention(x), torch.full((8, 3), 1 / 3))
    optimiser = torch.optim.SGD(encoder.score.parameters(), lr=5.0)  # type: ignore[union-attr]
    with torch.no_grad():
        target = encoder.encoder(x[:, 1:2]).pooled
    for _ in range(30):
        optimiser.zero_grad()
        (encoder(x).pooled - target).square().mean().backward()
        optimiser.step()
    weights = encoder.attention(x)
    torch.testing.assert_close(weights.sum(1), torch.ones(8))
    assert (weights[:, 1] > 0.6).all()


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_order_and_number_of_channels_are_free(pool: str) -> None:
    encoder = PerChannel(small(), 4, pool=pool).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 30)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x[:, [2, 0, 3, 1]]).pooled, encoder(x).pooled)
        assert encoder(x[:, :1]).pooled.shape == encoder(torch.randn(2, 64, 30)).pooled.shape == (2, 5)
    assert encoder.any_channels
    encoder.check_input(64, (30,))


@pytest.mark.parametrize(("pool", "maps"), [("concat", None), ("mean", "concat")])
def test_concatenated_channels_are_these_only(pool: str, maps: str | None) -> None:
    encoder = PerChannel(small(), 4, pool=pool, maps=maps)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="built for 4 channels"):
        encoder.check_input(5, (30,))


def test_the_inner_encoder_is_of_one_channel_whatever_a_configuration_says() -> None:
    """The command line and ``with_channels`` set ``in_channels`` everywhere."""
    written = with_channels(spec(PerChannel(small(), 1, pool="attention")), 7)
    encoder = build(written, Encoder)  # type: ignore[type-abstract]
    assert isinstance(encoder, PerChannel)
    assert (encoder.in_channels, encoder.encoder.in_channels) == (7, 1)
    assert spec(encoder)["init_args"]["encoder"]["init_args"]["in_channels"] == 1
    assert build(spec(encoder), Encoder)(torch.randn(2, 7, 30)).pooled.shape == (2, 5)  # type: ignore[type-abstract]


def test_weights_travel_between_montages(tmp_path: Path) -> None:
    trained = PerChannel(small(), 2, pool="attention")
    save_encoder(trained, tmp_path, InputSpec("signal", ("Fp1", "Fp2"), (30,)), {})
    again, _ = load_encoder(tmp_path)
    x = torch.randn(2, 19, 30)
    with torch.no_grad():
        assert torch.equal(again.eval()(x).pooled, trained.eval()(x).pooled)
    wider = PerChannel(small(), 19, pool="attention")
    wider.load_state_dict(trained.state_dict(), strict=True)


def test_a_cohort_of_another_montage_is_taken_as_it_stands() -> None:
    inputs = InputSpec("signal", ("Fp1", "Fp2"), (30,), rate_hz=100.0)
    cohort: Any = SimpleNamespace(kind="signal", channels=("C3", "C4", "Cz"), rate_hz=100.0, spacing_mm=None)
    with pytest.raises(ConfigError, match="lacks Fp1, Fp2"):
        match_input(inputs, cohort)
    matched = match_input(inputs, cohort, any_channels=True)
    assert (matched.channels, matched.names) == (None, ("C3", "C4", "Cz"))
    assert matched.notes == ("trained on channels Fp1, Fp2, used on C3, C4, Cz",)


def test_layers_keep_the_order_of_the_encoder_and_end_with_the_attention() -> None:
    encoder = PerChannel(ResNet1d(1, (4, 8)), pool="attention")
    groups = [[name for name, _ in group] for group in encoder.layers()]
    assert groups[-1] == ["score.weight"]
    assert all(name.startswith("encoder.stem.") for name in groups[0])
    assert len(groups) == len(encoder.encoder.layers()) + 1


def test_what_it_cannot_wrap_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes 3 axes"):
        PerChannel(ResEnc(1, "tiny"))
    with pytest.raises(ConfigError, match="mean, attention or concat"):
        PerChannel(small(), pool="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a multiple"):
        PerChannel(ResNet1d(1, (4, 8))).check_input(1, (1,))
