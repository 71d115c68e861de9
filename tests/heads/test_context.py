"""Contexts over sequences: what mixes with what, in either direction, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medssl.encoders.mamba import BidirectionalMamba, Mamba
from medssl.errors import ConfigError
from medssl.heads.context import CONTEXTS, make_context

WIDTH = 16
MIXING = [(kind, both) for kind in ("mamba", "lstm", "lstm_attention") for both in (False, True)]
ALL = [*MIXING, ("attention", False), ("none", False)]
everywhere = pytest.mark.parametrize(("kind", "bidirectional"), ALL)


def made(kind: str, bidirectional: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return make_context(kind, WIDTH, bidirectional=bidirectional).eval()


def sequences(batch: int = 3, steps: int = 7) -> Tensor:
    return torch.randn(batch, steps, WIDTH, generator=torch.Generator().manual_seed(1))


def changed_steps(of: nn.Module, place: int) -> list[bool]:
    """Which steps of the first sequence answer otherwise when one of its steps is another."""
    x = sequences()
    other = x.clone()
    other[0, place] += torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before, after = of(x), of(other)
    assert torch.equal(before[1:], after[1:]), "the other sequences of the batch"
    return [bool(step) for step in ((before - after)[0].abs() > 1e-7).any(-1)]


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _ in ALL} == set(CONTEXTS)


@everywhere
def test_steps_of_a_sequence_are_mixed_and_those_of_others_are_not(kind: str, bidirectional: bool) -> None:
    found = changed_steps(made(kind, bidirectional), place=3)
    earlier, later = found[:3], found[4:]
    assert found[3]
    assert all(later) if kind != "none" else not any(later)
    assert all(earlier) if bidirectional or "attention" in kind else not any(earlier)


@everywhere
def test_a_sequence_alone_answers_as_in_a_batch(kind: str, bidirectional: bool) -> None:
    of, x = made(kind, bidirectional), sequences()
    with torch.no_grad():
        torch.testing.assert_close(of(x[1:2]), of(x)[1:2])


@everywhere
def test_one_step_and_gradients(kind: str, bidirectional: bool) -> None:
    of = made(kind, bidirectional).train()
    for steps in (1, 5):
        y = of(sequences(2, steps))
        assert y.shape == (2, steps, WIDTH)
    if kind != "none":
        y.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in of.parameters())


@pytest.mark.parametrize("kind", ["attention", "lstm_attention"])
def test_attention_knows_the_order_of_the_steps(kind: str) -> None:
    of, x = made(kind), sequences(1)
    with torch.no_grad():
        assert not torch.allclose(of(x.flip(1)).flip(1), of(x), atol=1e-3)


def test_sizes_are_the_published_ones() -> None:
    assert isinstance(make_context("mamba", WIDTH), Mamba)
    assert isinstance(make_context("mamba", WIDTH, bidirectional=True), BidirectionalMamba)
    recurrent = [m for m in make_context("lstm", WIDTH).modules() if isinstance(m, nn.LSTM)]
    assert [(m.num_layers, m.hidden_size, m.batch_first) for m in recurrent] == [(2, WIDTH, True)]
    mixed = make_context("lstm_attention", WIDTH)
    assert [m.num_layers for m in mixed.modules() if isinstance(m, nn.LSTM)] == [1]
    heads = [m.num_heads for m in mixed.modules() if isinstance(m, nn.MultiheadAttention)]
    assert heads == [8, 8]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "mambo", "width": 16}, "mamba"),
        ({"kind": "attention", "width": 16, "bidirectional": True}, "no direction"),
        ({"kind": "none", "width": 16, "bidirectional": True}, "no direction"),
        ({"kind": "attention", "width": 12}, "multiple of 8"),
        ({"kind": "lstm", "width": 9, "bidirectional": True}, "even"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_context(**arguments)
