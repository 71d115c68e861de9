"""Projection heads: their layers, and what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medssl.methods.projectors import MLPHead, Projector, dropout


def kinds(head: nn.Sequential) -> list[str]:
    return [type(m).__name__ for m in head]


def test_layers_of_published_heads() -> None:
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(MLPHead(6, 8, 4, layers=2)) == [*hidden, "Linear"]
    assert kinds(MLPHead(6, 8, 4, layers=3, last_norm=True)) == [*hidden, *hidden, "Linear", "BatchNorm1d"]
    assert kinds(MLPHead(6, 8, 4, norm=False, activation="gelu")) == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    assert kinds(MLPHead(6, 8, 4, layers=1)) == ["Linear"]


def test_a_layer_before_a_normalisation_has_no_bias() -> None:
    normed = [m for m in MLPHead(6, 8, 4, last_norm=True) if isinstance(m, nn.Linear)]
    assert [m.bias is None for m in normed] == [True, True, True]
    plain = [m for m in MLPHead(6, 8, 4, norm=False) if isinstance(m, nn.Linear)]
    assert [m.bias is None for m in plain] == [False, False, False]
    assert MLPHead(6, 8, 4, last_bias=False)[-1].bias is None


def test_widths_run_from_in_over_hidden_to_out() -> None:
    shapes = [tuple(m.weight.shape) for m in MLPHead(6, 8, 4, layers=4) if isinstance(m, nn.Linear)]
    assert shapes == [(8, 6), (8, 8), (8, 8), (4, 8)]
    assert MLPHead(6, 8, 4)(torch.randn(5, 6)).shape == (5, 4)


def test_the_last_normalisation_has_no_weights_and_gives_mean_0_and_deviation_1() -> None:
    head = MLPHead(6, 8, 4, last_norm=True)
    out = head(torch.randn(200, 6))
    assert not list(head[-1].parameters())
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_two_layers_are_the_projector_of_simclr() -> None:
    shapes = [{k: v.shape for k, v in head.state_dict().items()} for head in (
        MLPHead(6, 8, 4, layers=2), Projector(6, hidden=8, out=4),
    )]  # fmt: skip
    assert shapes[0] == shapes[1]


def test_a_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 layer"):
        MLPHead(6, 8, 4, layers=0)


@pytest.mark.parametrize("rows", [False, True])
def test_dropout_keeps_the_mean_and_drops_the_stated_share(rows: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    out = dropout(torch.ones(4000, 8), 0.25, generator, rows=rows)
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    whole = (out == 0).all(1) | (out > 0).all(1)
    assert bool(whole.all()) == rows
    x = torch.ones(2, 3)
    assert dropout(x, 0.0, generator) is x
