"""Every network of tsai that has a name here: features, gradients, lengths, export; and why the others have none."""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medssl.catalog import listing, members
from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, InputSpec, load_encoder, save_encoder
from medssl.encoders.tsai_zoo import MAX_TOKENS, TSAI_MODELS, TSAI_REFUSED, TsaiModel, working_models
from medssl.errors import ConfigError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tsai") is None, reason="tsai is not installed")

LENGTH = 64
NARROW: dict[str, dict[str, Any]] = {
    **{key: {"nf": 4} for key in ("InceptionTime", "XceptionTime", "XceptionTimePlus", "ResNetPlus")},
    "InceptionTimePlus": {"nf": 4, "depth": 3},
    "FCN": {"layers": [8, 12, 8]},
    "FCNPlus": {"layers": (8, 12, 8)},
    **{key: {"hidden_size": 8} for key in ("GRUPlus", "LSTMPlus", "RNNPlus")},
    **{key: {"hidden_size": 8, "conv_layers": [8, 12, 8]} for key in ("GRU_FCNPlus", "LSTM_FCNPlus")},
    "MLSTM_FCNPlus": {"hidden_size": 8, "conv_layers": [16, 16, 16]},
    "LSTMAttentionPlus": {"hidden_size": 16, "n_heads": 2, "d_ff": 16, "encoder_layers": 1},
    "MLP": {"layers": [12, 8], "ps": [0.1, 0.1]},
    "TCN": {"layers": [6, 6]},
    "TSPerceiver": {"n_layers": 2, "d_latent": 16},
    **{key: {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16} for key in ("TST", "TSTPlus")},
    "TSiTPlus": {"depth": 2, "d_model": 16, "n_heads": 2, "token_size": 5},
    "gMLP": {"depth": 2, "d_model": 16, "d_ffn": 16, "patch_size": 5},
    **{key: {"nf": 8, "window_perc": 0.1} for key in ("XCM", "XCMPlus")},
    "mWDNPlus": {"nf": 4, "depth": 3},
}
HEAVY = {"InceptionTimeXLPlus", "xresnet1d18", *(n for n in TSAI_MODELS if n.startswith("xresnet") and "18" not in n)}
named = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in TSAI_MODELS]
)


def make(name: str, *, channels: int = 2, length: int = LENGTH) -> TsaiModel:
    torch.manual_seed(0)
    return TsaiModel(channels, name, length=length, options=NARROW.get(name))


@named
def test_it_keeps_the_contract_of_encoders(name: str, tmp_path: Path) -> None:
    encoder = make(name)
    x = torch.randn(3, 2, LENGTH, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    features = encoder(x)
    assert torch.equal(x, before)
    assert features.pooled.shape == (3, encoder.out_dim)
    assert features.maps[0].shape == (3, encoder.out_dim, math.ceil(LENGTH / encoder.strides[0][0]))
    (features.pooled.square().sum() + features.maps[0].square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters() if p.requires_grad)

    encoder.eval()
    with torch.no_grad():
        alone, together = encoder(x[:1]).pooled, encoder(x).pooled
        torch.testing.assert_close(alone, together[:1], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(together[0], together[1])
        for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(twin(x).pooled, together)

    save_encoder(encoder, tmp_path, InputSpec("signal", ("a", "b"), (LENGTH,)), {})
    again, _ = load_encoder(tmp_path)
    assert spec(again) == spec(encoder)
    with torch.no_grad():
        assert torch.equal(again.eval()(x).pooled, together)


@pytest.mark.parametrize("name", [n for n in TSAI_MODELS if n not in HEAVY])
def test_other_lengths_are_taken_where_that_is_promised_and_refused_elsewhere(name: str) -> None:
    encoder = make(name).eval()
    other = LENGTH + 34
    if TSAI_MODELS[name].fixed:
        with pytest.raises(ConfigError, match=f"windows of {LENGTH} samples|multiple"):
            encoder.check_input(2, (other,))
        return
    encoder.check_input(2, (other,))
    with torch.no_grad():
        longer = encoder(torch.randn(1, 2, other))
    assert longer.maps[0].shape == (1, encoder.out_dim, math.ceil(other / encoder.strides[0][0]))


@pytest.mark.parametrize("name", ["TSiTPlus", "gMLP"])
@pytest.mark.parametrize("length", [200, 1000, 3001])
def test_long_windows_become_tokens(name: str, length: int) -> None:
    narrow = {k: v for k, v in NARROW[name].items() if k not in ("token_size", "patch_size")}
    encoder = TsaiModel(1, name, length=length, options=narrow).eval()
    steps = encoder(torch.zeros(1, 1, length)).maps[0].shape[-1]
    assert steps == math.ceil(length / encoder.strides[0][0]) <= MAX_TOKENS
    assert (encoder.strides[0][0] == 1) == (length <= MAX_TOKENS)


@pytest.mark.parametrize("name", sorted(TSAI_REFUSED))
def test_what_is_no_encoder_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ConfigError, match="no encoder here") as refusal:
        TsaiModel(1, name)
    assert TSAI_REFUSED[name] in str(refusal.value)


@pytest.mark.parametrize(
    "module, name", [("TransformerRNNPlus", "TransformerGRUPlus"), ("TSSequencerPlus", "TSSequencerPlus")]
)
def test_the_reason_of_those_that_mix_recordings_holds(module: str, name: str) -> None:
    """When tsai mends them they can be taken in."""
    from medssl.encoders.tsai_backbone import tsai_model

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tsai_model(module, name)(2, 1, 20, d_model=16).eval()
    x = torch.randn(2, 2, 20)
    with torch.no_grad():
        alone, together = model.backbone(x[:1]), model.backbone(x)[:1]
    assert (alone - together).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "ResNetPlsu"}, "did you mean 'ResNetPlus'"),
        ({"model": "gMLP", "options": {"dmodel": 3}}, "did you mean 'd_model'"),
        ({"model": "FCN", "options": {"c_out": 3}}, "set by medssl"),
        ({"model": "TST", "options": {"d_model": 10, "n_heads": 0}}, "cannot be built"),
        ({"model": "ResNetPlus", "options": {"stride": 2}}, "unknown option|change strides"),
        ({"length": 1}, "2 samples or more"),
    ],
)
def test_what_cannot_be_built_is_a_clear_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TsaiModel(1, **arguments)


def test_the_seed_of_torch_alone_decides_weights_drawn_by_numpy() -> None:
    def weights() -> torch.Tensor:
        return torch.cat([p.detach().ravel() for p in make("mWDNPlus").parameters()])

    np.random.seed(1)
    first, drawn = weights(), np.random.random()
    np.random.seed(2)
    assert torch.equal(first, weights())
    np.random.seed(1)
    assert drawn == np.random.random()


def test_the_list_and_the_page_show_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    listing("encoders")
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert {f"TsaiModel model={name}" for name in TSAI_MODELS} <= {name.strip() for name in shown}
    assert all(shown.values())
    page = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in TSAI_MODELS)
    assert len(working_models()) == len(TSAI_MODELS)


def test_without_one_of_its_modules_the_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tsai.models.TCN", None)
    with pytest.raises(ConfigError, match=r"of tsai there work .*ResNetPlus") as refusal:
        TsaiModel(1, "TCN")
    assert ", TCN" not in str(refusal.value)
    assert TsaiModel(1, "FCN", options={"layers": [4, 4, 4]}).out_dim == 4


def test_without_tsai_nothing_but_its_names_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "tsai" or n.startswith("tsai.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tsai", None)
    assert working_models() == ()
    with pytest.raises(ConfigError, match="TS2Vec or ResNet1d"):
        build({"class_path": "TsaiModel", "init_args": {"model": "TCN"}}, Encoder)  # type: ignore[type-abstract]
    assert ("TsaiModel model=TCN", TSAI_MODELS["TCN"].summary) in members()
