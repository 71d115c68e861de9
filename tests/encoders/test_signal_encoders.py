"""Signal encoders: receptive field, gaps, masks, and what happens without tsai."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest
import torch

from medssl.encoders.inception_time import InceptionTime
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.ts2vec import TS2Vec
from medssl.encoders.tst import TST
from medssl.encoders.xception_time import XceptionTime
from medssl.errors import ConfigError


def test_ts2vec_sees_4094_steps_to_either_side_and_no_further() -> None:
    torch.manual_seed(0)
    encoder = TS2Vec(1, 2, out_dim=2).double().eval()
    x = torch.randn(1, 1, 8300, dtype=torch.float64, requires_grad=True)
    encoder(x).maps[0][0, :, 4150].sum().backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == (4150 - 4094, 4150 + 4094)


def test_ts2vec_ignores_the_value_of_a_step_with_a_gap() -> None:
    encoder = TS2Vec(2, 4, out_dim=6, depth=2).eval()
    x = torch.randn(1, 2, 30)
    x[0, 0, 10] = torch.nan
    other = x.clone()
    other[0, 1, 10] = 99.0  # the channel that is there does not count either
    with torch.no_grad():
        assert torch.equal(encoder(x).maps[0], encoder(other).maps[0])
        assert encoder(x).pooled.isfinite().all()


def test_ts2vec_mask_hides_steps() -> None:
    encoder = TS2Vec(2, 4, out_dim=6, depth=2).eval()
    x = torch.randn(3, 2, 30)
    keep = torch.ones(3, 30, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(encoder(x, keep).pooled, encoder(x).pooled)
        keep[:, 4:8] = False
        hidden = encoder(x, keep).pooled
        x[:, :, 4:8] = 7.0
        assert torch.equal(encoder(x, keep).pooled, hidden)


def test_resnet1d_takes_any_length() -> None:
    encoder = ResNet1d(2, (4, 8, 8), kernel=3)
    for length in (16, 17, 23, 100):
        assert encoder(torch.randn(2, 2, length)).maps[0].shape[-1] == -(-length // 8)


def test_resnet1d_is_the_published_resnet34_of_ecg() -> None:
    with torch.device("meta"):
        encoder = ResNet1d(12, (64, 128, 256, 512), blocks=(3, 4, 6, 3), kernel=3, stem_stride=1)
    linear = 512 * 256 + 256  # theirs ends with a linear map to 256 features
    assert sum(p.numel() for p in encoder.parameters()) + linear == 7_354_496
    with pytest.raises(ConfigError, match="blocks"):
        ResNet1d(12, (8, 16), blocks=(1, 2, 3))


@pytest.mark.parametrize(("length", "tokens"), [(37, 10), (500, 500), (512, 512), (513, 257), (1000, 500)])
def test_tst_shortens_long_inputs_without_empty_tokens(length: int, tokens: int) -> None:
    limit = 10 if length == 37 else 512
    encoder = TST(1, length, width=8, depth=1, heads=2, max_tokens=limit)
    assert encoder(torch.randn(2, 1, length)).maps[0].shape == (2, 8, tokens)
    with pytest.raises(ConfigError, match=f"windows of {length} samples"):
        encoder.check_input(1, (length + 1,))


def test_xception_time_with_as_many_channels_as_filters() -> None:
    """tsai's own model fails in forward here."""
    encoder = XceptionTime(3, 3, kernel=9)
    assert encoder(torch.randn(2, 3, 20)).maps[0].shape == (2, 96, 20)


def test_without_tsai_only_its_encoders_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "tsai" or n.startswith("tsai.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tsai", None)
    with pytest.raises(ConfigError, match=r"needs tsai's InceptionTimePlus.*TS2Vec or ResNet1d"):
        InceptionTime()
    assert importlib.import_module("medssl.encoders.inception_time")
    assert TS2Vec(1, 4, out_dim=4, depth=1)(torch.randn(1, 1, 8)).pooled.shape == (1, 4)


def test_building_a_tsai_encoder_keeps_the_warning_filters() -> None:
    before = list(warnings.filters)
    InceptionTime(1, 2, depth=3, kernel=9)
    assert list(warnings.filters) == before
