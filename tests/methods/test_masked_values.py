"""Masked value prediction: only hidden values count, whatever the stride, and what can be learnt is learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import collate, signal, signal_encoder, volume_encoder

from medssl.encoders.base import Encoder
from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError
from medssl.methods.masked_values import MaskedValues
from medssl.objectives.masks import hidden_runs
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews


def full_length() -> TS2Vec:
    return TS2Vec(2, 8, out_dim=12, depth=4, dropout=0.0)


def method(encoder: Encoder | None = None, **options: Any) -> MaskedValues:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MaskedValues(encoder or full_length(), SignalViews((126,), count=1), **options)


def batch(of: MaskedValues, count: int = 4, seed: int = 0) -> dict[str, Any]:
    samples = [of.draw(signal(i), np.random.default_rng([seed, i])) for i in range(count)]  # type: ignore[arg-type]
    return collate(samples, seed=seed)


@pytest.mark.parametrize("encoder", [full_length, lambda: signal_encoder()])
def test_the_error_is_that_of_hidden_values_and_the_encoder_does_not_see_them(encoder: Any) -> None:
    one = method(encoder(), mask_ratio=0.3, dropout=0.0, ignore_background=False).eval()
    drawn, seen, told = batch(one), [], []
    one.encoder.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    one.tell.register_forward_hook(lambda _m, _g, out: told.append(out))
    one.generator.manual_seed(3)
    total = one.loss(drawn).total
    one.generator.manual_seed(3)
    rows, _ = one.rows(drawn)
    hidden = hidden_runs(rows.shape, 0.3, 3.0, generator=one.generator)
    assert not torch.equal(hidden[:, 0], hidden[:, 1])
    assert torch.equal(seen[0], torch.where(hidden, 0.0, rows))
    # each step tells all samples of its stride, channel fastest; what reaches beyond the window is cut
    values = told[0].reshape(len(rows), -1, 2).transpose(1, 2)[..., :126]
    torch.testing.assert_close(total, (values - rows)[hidden].square().mean())


def test_what_is_padding_does_not_count() -> None:
    one = method(mask_ratio=0.3, sync=True).eval()
    samples = [one.draw(signal(i, 63), np.random.default_rng(i)) for i in range(4)]  # type: ignore[arg-type]
    terms = one.loss(collate(samples, seed=0)).terms
    assert 0.3 < terms["left_out"] < 0.7
    assert terms["hidden"].item() == pytest.approx(0.3, abs=0.1)


def test_hidden_values_that_follow_from_the_others_are_learnt() -> None:
    one = method(mask_ratio=0.3, dropout=0.0, ignore_background=False)
    time = torch.arange(126) / 126

    def rows(step: int) -> tuple[Tensor, None]:
        g = torch.Generator().manual_seed(step)
        phase = 2 * torch.pi * torch.rand(16, 2, 1, generator=g)
        return torch.sin(2 * torch.pi * 2 * time + phase), None

    optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2)
    explained = []
    for step in range(50):
        one.rows = lambda _batch, step=step: rows(step)  # type: ignore[method-assign,misc]
        one.generator.manual_seed(step)
        losses = one.loss({})
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        explained.append(float(losses.terms["explained"]))
    assert np.mean(explained[-10:]) > 0.6 > 0.2 > np.mean(explained[:3])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="volumes"):
        MaskedValues(volume_encoder(), VolumeViews((8, 8, 8), count=1))
    for wrong in ({"mask_ratio": 0.0}, {"mask_ratio": 0.5, "variable": True}, {"mean_length": 1.0}, {"dropout": 1.0}):
        with pytest.raises(ConfigError, match="mask_ratio"):
            method(**wrong)
