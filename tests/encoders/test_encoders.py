"""What every encoder promises, checked on every encoder there is. A new encoder adds one line to ``EXAMPLES``."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from medssl.configurable import build, discover, spec
from medssl.encoders.base import Encoder, InputSpec, load_encoder, save_encoder
from medssl.errors import CheckpointError, ConfigError


class Example(NamedTuple):
    """Small arguments, an input (C, *size) that fits them, and another size that fits too (None: the size is fixed).

    Encoders among the arguments are specifications, as in a config, so that every test has its own.
    """

    arguments: dict[str, Any]
    shape: tuple[int, ...]
    other: tuple[int, ...] | None


EXAMPLES = {
    "BrainGraph": Example({"in_channels": 6, "width": 8, "depth": 2, "dropout": 0.0}, (6, 40), (57,)),
    "BrainNetCNN": Example(
        {"in_channels": 6, "edge": (4, 4), "node": 8, "graph": 16, "out_dim": 8, "dropout": 0.0}, (6, 40), (57,)
    ),
    "Concatenated": Example(
        {
            "encoders": [
                {"class_path": "ResNet1d", "init_args": {"in_channels": 2, "widths": (4, 8)}},
                {"class_path": "TS2Vec", "init_args": {"in_channels": 2, "width": 8, "out_dim": 12, "depth": 3}},
            ]
        },
        (2, 48),
        (51,),
    ),
    "ConnectivityMLP": Example({"in_channels": 6, "widths": (16, 8), "dropout": 0.0}, (6, 40), (57,)),
    "FrameProjected": Example(
        {
            "encoder": {
                "class_path": "FrameResNet",
                "init_args": {"in_channels": 2, "width": 8, "blocks": 4, "out_dim": 16},
            },
            "inference": "all_encoders",
            "length": 48,
            "pool": "adaptive",
        },
        (2, 48),
        (51,),
    ),
    "FrameResNet": Example({"in_channels": 2, "width": 8, "blocks": 4, "out_dim": 16}, (2, 48), (51,)),
    "InceptionTime": Example({"in_channels": 2, "width": 4, "depth": 3, "kernel": 9}, (2, 40), (33,)),
    "NeuroNet": Example({"in_channels": 2, "frame": 300, "width": 8, "depth": 2, "heads": 2}, (2, 420), (311,)),
    "PerChannel": Example(
        {
            "encoder": {"class_path": "ResNet1d", "init_args": {"widths": (4, 8)}},
            "in_channels": 3,
            "pool": "attention",
            "maps": "concat",
        },
        (3, 48),
        (51,),
    ),
    "PositionFree": Example(
        {"encoder": {"class_path": "ResNet1d", "init_args": {"in_channels": 2, "widths": (8, 16)}}, "rounds": 2},
        (2, 48),
        (51,),
    ),
    "ResEnc": Example({"in_channels": 2, "size": "tiny"}, (2, 16, 16, 16), (16, 24, 16)),
    "ResNet1d": Example({"in_channels": 2, "widths": (8, 16)}, (2, 48), (51,)),
    "SliceTransformer": Example(
        {
            "encoder": {"class_path": "ResEnc", "init_args": {"in_channels": 2, "size": "tiny", "dims": 2}},
            "width": 16,
            "layers": 1,
            "hidden": 16,
            "pool": "volume",
        },
        (2, 3, 16, 16),
        (1, 24, 16),
    ),
    "SliceWise": Example(
        {"encoder": {"class_path": "ResEnc", "init_args": {"in_channels": 2, "size": "tiny", "dims": 2}}},
        (2, 3, 16, 16),
        (1, 24, 16),
    ),
    "SpatioTemporalGraph": Example(
        {"in_channels": 6, "window": 20, "stride": 4, "width": 8, "depth": 2, "dropout": 0.0},
        (6, 40),
        (57,),
    ),
    "SwinUNETREncoder": Example({"feature_size": 12, "window": 3}, (1, 32, 32, 64), (64, 32, 32)),
    "TS2Vec": Example({"in_channels": 3, "width": 8, "out_dim": 12, "depth": 3}, (3, 40), (17,)),
    "TST": Example({"in_channels": 2, "length": 37, "width": 8, "heads": 2, "max_tokens": 10}, (2, 37), None),
    "TrendTS2Vec": Example({"in_channels": 2, "width": 8, "out_dim": 12, "depth": 2, "kernels": 3}, (2, 40), (17,)),
    "TsaiModel": Example({"in_channels": 2, "model": "ResNetPlus", "length": 40, "options": {"nf": 4}}, (2, 40), (33,)),
    "ViT": Example(
        {"size": (16, 16, 16), "patch": 8, "width": 24, "depth": 2, "heads": 3}, (1, 16, 16, 16), (16, 24, 8)
    ),
    "VideoViT": Example(
        {"size": (4, 16, 16), "patch": (2, 8, 8), "width": 24, "depth": 2, "heads": 3, "registers": 1, "pool": "mean"},
        (1, 4, 16, 16),
        (3, 20, 24),
    ),
    "XceptionTime": Example({"in_channels": 2, "width": 2, "kernel": 9}, (2, 40), (33,)),
}


def test_every_encoder_has_an_example() -> None:
    assert set(discover("medssl.encoders", Encoder)) == set(EXAMPLES)


@pytest.fixture(params=sorted(EXAMPLES))
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


@pytest.fixture
def encoder(request: pytest.FixtureRequest, example: Example) -> Encoder:
    name = request.node.callspec.params["example"]
    discover("medssl.encoders", Encoder)
    torch.manual_seed(0)
    return build({"class_path": name, "init_args": example.arguments}, Encoder)


def expected_size(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.ceil(s / d) for s, d in zip(size, stride, strict=True))


def test_features_are_as_declared(encoder: Encoder, example: Example) -> None:
    for size in filter(None, (example.shape[1:], example.other)):
        encoder.check_input(example.shape[0], size)
        features = encoder(torch.randn(2, example.shape[0], *size))
        assert features.pooled.shape == (2, encoder.out_dim)
        assert features.pooled.dtype == torch.float32
        assert len(features.maps) == len(encoder.channels) == len(encoder.strides)
        for got, channels, stride in zip(features.maps, encoder.channels, encoder.strides, strict=True):
            assert got.shape == (2, channels, *expected_size(size, stride))
    assert encoder.dims == len(example.shape) - 1
    assert list(encoder.strides) == sorted(encoder.strides)  # fine to coarse


def test_gradient_reaches_every_weight(encoder: Encoder, example: Example) -> None:
    features = encoder(torch.randn(2, *example.shape))
    loss = features.pooled.square().sum() + sum(m.float().square().sum() for m in features.maps)
    loss.backward()
    trainable = [(n, p) for n, p in encoder.named_parameters() if p.requires_grad]
    assert trainable
    for name, parameter in trainable:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_one_sample_alone_equals_the_same_sample_in_a_batch(encoder: Encoder, example: Example) -> None:
    encoder.eval()
    x = torch.randn(3, *example.shape)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x[:1]).pooled, encoder(x).pooled[:1], rtol=1e-3, atol=1e-3)


def test_forward_leaves_its_input_alone(encoder: Encoder, example: Example) -> None:
    x = torch.randn(2, *example.shape)
    before = x.clone()
    encoder(x)
    assert torch.equal(x, before)


def test_bfloat16_autocast_stays_finite_and_pools_in_float32(encoder: Encoder, example: Example) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = encoder(torch.randn(2, *example.shape)).pooled
    assert pooled.dtype == torch.float32
    assert pooled.isfinite().all()


def test_layers_hold_every_parameter_once(encoder: Encoder) -> None:
    layered = [name for group in encoder.layers() for name, _ in group]
    assert sorted(layered) == sorted(name for name, _ in encoder.named_parameters())
    assert all(encoder.layers())


def test_a_written_specification_builds_the_same_encoder(encoder: Encoder) -> None:
    written = json.loads(json.dumps(spec(encoder)))
    again = build(written, Encoder)
    again.load_state_dict(encoder.state_dict())
    assert spec(again) == spec(encoder)


def test_export_round_trip_gives_the_same_features(encoder: Encoder, example: Example, tmp_path: Path) -> None:
    inputs = InputSpec("signal" if encoder.dims == 1 else "volume", ("a",) * example.shape[0], example.shape[1:])
    save_encoder(encoder, tmp_path / "encoder", inputs, {"method": "none"})
    again, inputs_again = load_encoder(tmp_path)
    assert inputs_again == inputs
    x = torch.randn(1, *example.shape)
    with torch.no_grad():
        assert torch.equal(again.eval()(x).pooled, encoder.eval()(x).pooled)


def test_pickle_and_deepcopy_keep_the_weights(encoder: Encoder, example: Example) -> None:
    x = torch.randn(1, *example.shape)
    encoder.eval()
    with torch.no_grad():
        expected = encoder(x).pooled
        for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(twin(x).pooled, expected)


def test_wrong_inputs_are_refused_in_one_sentence(encoder: Encoder, example: Example) -> None:
    size = example.shape[1:]
    with pytest.raises(ConfigError, match="channels"):
        encoder.check_input(example.shape[0] + 1, size)
    with pytest.raises(ConfigError, match="axes"):
        encoder.check_input(example.shape[0], (*size, 8))
    with pytest.raises(ConfigError):
        encoder.check_input(example.shape[0], (1,) * encoder.dims if max(encoder.minimum) > 1 else (0,))


def test_an_export_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    encoder = discover("medssl.encoders", Encoder)["TS2Vec"](**EXAMPLES["TS2Vec"].arguments)
    save_encoder(encoder, tmp_path, InputSpec("signal", ("a",) * 3, (40,)), {})
    weights = tmp_path / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="do not fit"):
        load_encoder(tmp_path)
