"""Concatenated: what each encoder contributes, and what it asks of an input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, InputSpec, load_encoder, save_encoder
from medssl.encoders.concatenated import Concatenated
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.tst import TST
from medssl.encoders.vit import ViT
from medssl.errors import ConfigError


def both() -> Concatenated:
    torch.manual_seed(0)
    return Concatenated((ResNet1d(2, (4, 8), blocks=1), ResNet1d(2, (8, 16), blocks=1))).eval()


def test_every_encoder_contributes_a_part_of_unit_length_and_the_last_its_maps() -> None:
    encoder, x = both(), torch.randn(3, 2, 40)
    found = encoder(x)
    first, last = (part(x) for part in encoder.encoders)
    assert found.pooled.shape == (3, 24) and encoder.out_dim == 24
    torch.testing.assert_close(found.pooled[:, :8], first.pooled / first.pooled.norm(dim=1, keepdim=True))
    torch.testing.assert_close(found.pooled[:, 8:], last.pooled / last.pooled.norm(dim=1, keepdim=True))
    assert all(torch.equal(a, b) for a, b in zip(found.maps, last.maps, strict=True))
    assert (encoder.channels, encoder.strides) == (encoder.encoders[1].channels, encoder.encoders[1].strides)


def test_an_encoder_that_says_nothing_contributes_zeros_and_finite_gradients() -> None:
    encoder = both()
    with torch.no_grad():
        for parameter in encoder.encoders[0].parameters():
            parameter.zero_()
    pooled = encoder(torch.randn(2, 2, 40)).pooled
    pooled.sum().backward()
    assert not pooled[:, :8].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_sizes_must_suit_every_encoder() -> None:
    encoder = Concatenated((ViT(size=(12, 12, 12), patch=6, width=12, depth=1, heads=2), ResEnc(1, "tiny")))
    assert encoder.divisor == (24, 24, 24) and encoder.minimum == (16, 16, 16)
    encoder.check_input(1, (24, 48, 24))
    for size in ((16, 16, 16), (12, 12, 12), (24, 24, 28)):
        with pytest.raises(ConfigError, match="multiple"):
            encoder.check_input(1, size)
    fixed = Concatenated((ResNet1d(2, (4,), blocks=1), TST(2, length=37, width=8, heads=2, max_tokens=10)))
    fixed.check_input(2, (37,))
    with pytest.raises(ConfigError, match="TST"):
        fixed.check_input(2, (40,))


def test_encoders_of_other_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="with 2 channels, 1 axes, ResNet1d with 3"):
        Concatenated((ResNet1d(2, (4,)), ResNet1d(3, (4,))))
    with pytest.raises(ConfigError, match="ResEnc with 1 channels, 3 axes"):
        Concatenated((ResNet1d(1, (4,)), ResEnc(1, "tiny")))
    with pytest.raises(ConfigError, match="at least one"):
        Concatenated(())


def test_layers_equally_far_from_the_output_go_together() -> None:
    shallow, deep = ResEnc(1, features=(4, 8), blocks=(1, 1), strides=(1, 2)), ResEnc(1, "tiny")
    encoder = Concatenated((shallow, deep))
    few, many = len(shallow.layers()), len(deep.layers())
    assert few < many == len(encoder.layers())
    last = [name for name, _ in encoder.layers()[-1]]
    assert {f"encoders.0.{name}" for name, _ in shallow.layers()[-1]} <= set(last)
    assert all(name.startswith("encoders.1.") for name, _ in encoder.layers()[0])
    named = dict(encoder.named_parameters())
    assert all(named[name] is parameter for group in encoder.layers() for name, parameter in group)


def test_it_is_built_again_from_what_is_written_even_inside_itself(tmp_path: Path) -> None:
    encoder = Concatenated((both(), ResNet1d(2, (4,), blocks=1)))
    again = build(json.loads(json.dumps(spec(encoder))), Encoder)  # type: ignore[type-abstract]
    assert isinstance(again, Concatenated) and isinstance(again.encoders[0], Concatenated)
    save_encoder(encoder, tmp_path, InputSpec("signal", ("a", "b"), (40,)), {})
    loaded, _ = load_encoder(tmp_path)
    x = torch.randn(2, 2, 40)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x).pooled, encoder.eval()(x).pooled)
