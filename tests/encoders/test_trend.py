"""TS2Vec with a trend layer: the mean of causal convolutions, gaps, and groups of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medssl.encoders.trend import TrendTS2Vec
from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError


def encoder(**options: int) -> Any:
    torch.manual_seed(0)
    return TrendTS2Vec(2, 8, **{"out_dim": 6, "depth": 2, "kernels": 3} | options).eval()


def test_trend_is_the_mean_of_causal_convolutions_written_out() -> None:
    of, x = encoder().double(), torch.randn(1, 2, 12, dtype=torch.float64)
    with torch.no_grad():
        steps = TS2Vec.forward(of, x).maps[0][0]
        found = of(x).maps[0][0]
        for t in range(12):
            terms = []
            for conv in of.tfd:
                back = conv.kernel_size[0]
                seen = [steps[:, t - back + 1 + k] if t - back + 1 + k >= 0 else 0 * steps[:, 0] for k in range(back)]
                terms.append(conv.bias + sum(conv.weight[:, :, k] @ s for k, s in enumerate(seen)))
            torch.testing.assert_close(found[:, t], sum(terms) / 3)


def test_the_trend_layer_alone_is_causal() -> None:
    of = encoder()
    steps = torch.randn(1, 6, 20)
    changed = steps.clone()
    changed[:, :, 9] += 1.0
    with torch.no_grad():
        for conv in of.tfd:
            before, after = conv(steps), conv(changed)
            assert torch.equal(before[..., :9], after[..., :9]) and (before[..., 9] != after[..., 9]).any()
        x = torch.randn(1, 2, 20)
        other = x.clone()
        other[:, :, 9] += 1.0
        assert (of(x).maps[0][..., 8] != of(other).maps[0][..., 8]).any()  # the convolutions before it see both sides


def test_pooled_is_the_maximum_and_gaps_carry_nothing() -> None:
    of, x = encoder(), torch.randn(2, 2, 16)
    x[0, 1, 4] = torch.nan
    features = of(x)
    assert torch.equal(features.pooled, features.maps[0].amax(-1)) and features.pooled.isfinite().all()
    x[0, 0, 4] = 100.0
    assert torch.equal(of(x).pooled, features.pooled)


def test_kernels_double() -> None:
    published: Any = TrendTS2Vec(1, 2, out_dim=2, depth=1)
    assert [conv.kernel_size[0] for conv in published.tfd] == [1, 2, 4, 8, 16, 32, 64, 128]
    with pytest.raises(ConfigError, match="at least one"):
        encoder(kernels=0)
