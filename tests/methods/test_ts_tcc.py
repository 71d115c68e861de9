"""TS-TCC: what is told from what, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import collate, info, signal, signal_encoder, volume_encoder

from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError
from medssl.methods import ts_tcc as module
from medssl.methods.ts_tcc import TSTCC
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation

STRONG = SignalAugmentation(permute=1.0, jitter=1.0)
SMALL: dict[str, Any] = {"hidden": 16, "depth": 1, "heads": 2, "projector": (16, 8)}


def method(**options: Any) -> TSTCC:
    views = options.pop("views", None) or SignalViews((128,), second=STRONG)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TSTCC(options.pop("encoder", None) or signal_encoder(), views, **(SMALL | options))


def batch(of: TSTCC, count: int = 4, seed: int = 0) -> dict[str, Any]:
    samples = [{**of.draw(signal(i), np.random.default_rng(i)), "row": np.int64(i)} for i in range(count)]  # type: ignore[arg-type]
    return collate(samples, seed=seed)


def test_the_future_of_the_other_view_is_told_from_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    one = method().eval()
    drawn = batch(one)
    calls: list[tuple[Tensor, Tensor]] = []
    pasts: list[Tensor] = []
    real = module.temporal_contrast
    monkeypatch.setattr(module, "temporal_contrast", lambda p, z, **k: calls.append((p, z)) or real(p, z, **k))
    one.past.register_forward_pre_hook(lambda _m, given: pasts.append(given[0]))
    lengths = set()
    for seed in range(30):
        calls.clear(), pasts.clear()
        one.generator.manual_seed(seed)
        one.loss(drawn)
        one.generator.manual_seed(seed)
        steps = one.embed_steps(one.views(drawn, one.generator).flatten(0, 1))
        now = pasts[0].shape[1]
        lengths.add(now)
        torch.testing.assert_close(pasts[0], steps[:, :now])
        (from_weak, strong), (from_strong, weak) = calls
        torch.testing.assert_close(weak, steps[:4, now : now + one.ahead])
        torch.testing.assert_close(strong, steps[4:, now : now + one.ahead])
        told = one.predict(one.past(steps[:, :now])).unflatten(1, (one.ahead, -1))
        torch.testing.assert_close(from_weak, told[:4])
        torch.testing.assert_close(from_strong, told[4:])
    assert (one.steps, one.ahead) == (32, 13)
    assert min(lengths) >= 1 and max(lengths) <= 32 - 13 and len(lengths) > 10
    torch.testing.assert_close(steps.norm(dim=-1), torch.ones(8, 32))


def test_the_loss_is_the_sum_of_its_terms() -> None:
    one = method(temporal=2.0, contextual=0.5).eval()
    losses = one.loss(batch(one))
    wanted = 2 * losses.terms["temporal"] + 0.5 * losses.terms["contextual"]
    torch.testing.assert_close(losses.total.detach(), wanted)
    assert 0 <= losses.terms["temporal_accuracy"] <= 1 and losses.embeddings is not None
    assert losses.embeddings.shape == (8, 8) and one.embed(torch.zeros(3, 2, 128)).shape == (3, 8)


def test_long_maps_are_averaged_and_every_part_is_trained() -> None:
    one = method(encoder=TS2Vec(2, 4, out_dim=6, depth=2), cells=10)
    assert (one.steps, one.ahead) == (10, 4)
    one.loss(batch(one)).total.backward()
    for name, parameter in one.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_what_does_not_fit_is_refused() -> None:
    few = method(encoder=ResNet1d(2, (4, 4, 4, 4), blocks=1, stem_stride=8))
    with pytest.raises(ConfigError, match="makes 2 steps"):
        few.check(info("signal", 2))
    for views in (SignalViews((128,), count=3), SignalViews((128,), gap_s=1.0), SignalViews((128,), adjacent=True)):
        with pytest.raises(ConfigError, match="one window"):
            method(views=views)
    with pytest.raises(ConfigError, match="1 axis"):
        method(encoder=volume_encoder())
    for wrong in ({"future": 1.0}, {"heads": 3}, {"temporal": -1.0}):
        with pytest.raises(ConfigError, match="TSTCC takes"):
            method(**wrong)
    with pytest.raises(ConfigError, match="batch"):
        method().loss(batch(method(), count=1))
