"""Sparse convolutions by masking: equal to the plain encoder with everything visible, blind to what is hidden."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.sparse import refuse_dense, sparse, visible_norm
from medssl.encoders.vit import ViT
from medssl.errors import ConfigError
from medssl.views.corruption import enlarged

EDGE = {1: 32, 2: 16, 3: 16}
everywhere = pytest.mark.parametrize("dims", [1, 2, 3])


def encoder(dims: int) -> ResEnc:
    torch.manual_seed(0)
    made = ResEnc(2, features=(4, 6, 8), blocks=(1, 2, 1), strides=(1, 2, 2), dims=dims)
    for module in made.modules():
        if isinstance(module, nn.GroupNorm):  # some start at 0 and would hide mistakes
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return made


def scene(dims: int) -> tuple[Tensor, Tensor]:
    """Inputs, and which cells of the coarsest map are visible."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, *(EDGE[dims],) * dims, generator=random)
    visible = torch.rand(2, *(EDGE[dims] // 4,) * dims, generator=random) < 0.4
    visible.view(2, -1)[:, :2] = True
    return x, visible


def seen(of: nn.Module, x: Tensor, visible: Tensor) -> list[Tensor]:
    with sparse(of, visible):
        maps: list[Tensor] = of(x.masked_fill(~enlarged(visible, x.shape[2:]), 0)).maps
    return maps


@everywhere
def test_with_everything_visible_it_is_the_plain_encoder(dims: int) -> None:
    made, (x, visible) = encoder(dims), scene(dims)
    for found, wanted in zip(seen(made, x, torch.ones_like(visible)), made(x).maps, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@everywhere
def test_hidden_places_are_0_and_change_nothing(dims: int) -> None:
    made, (x, visible) = encoder(dims), scene(dims)
    other = torch.where(enlarged(visible, x.shape[2:]), x, 100 * torch.randn_like(x))
    for one, two in zip(seen(made, x, visible), seen(made, other, visible), strict=True):
        shown = enlarged(visible, one.shape[2:])
        assert torch.equal(one, two)
        assert (one.masked_select(~shown.expand_as(one)) == 0).all()
        assert one.masked_select(shown.expand_as(one)).abs().sum() > 0


def test_more_is_not_hidden_than_was_asked_and_padding_is_not_seen() -> None:
    """A visible block has the same map whatever the extent of what is hidden around it."""
    made = encoder(1)
    x = torch.randn(1, 2, 16)
    wide = torch.cat([torch.zeros(1, 2, 16), x, torch.zeros(1, 2, 16)], 2)
    visible = torch.zeros(1, 12, dtype=torch.bool)
    visible[:, 4:8] = True
    for found, wanted in zip(seen(made, wide, visible), made(x).maps, strict=True):
        length = wanted.shape[2]
        torch.testing.assert_close(found[:, :, length : 2 * length], wanted, atol=1e-5, rtol=1e-5)


@everywhere
def test_statistics_are_those_of_what_is_visible(dims: int) -> None:
    x, visible = scene(dims)
    shown = enlarged(visible, x.shape[2:])
    weight, bias = torch.randn(2), torch.randn(2)
    found = visible_norm((5 + 3 * x).masked_fill(~shown, 0), shown, weight, bias)
    for b in range(2):
        for c in range(2):
            values = (5 + 3 * x)[b, c][shown[b, 0]].double()
            wanted = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt() * weight[c] + bias[c]
            torch.testing.assert_close(found[b, c][shown[b, 0]].double(), wanted, atol=1e-5, rtol=1e-5)
    assert (found.masked_select(~shown.expand_as(found)) == 0).all()
    assert visible_norm(x.bfloat16(), shown, None, None).dtype == torch.float32


def test_the_encoder_is_left_as_it_was() -> None:
    made, (x, visible) = encoder(3), scene(3)
    before, keys = made(x).pooled, made.state_dict().keys()
    with pytest.raises(RuntimeError, match="stopped"), sparse(made, visible):
        raise RuntimeError("stopped")
    assert torch.equal(made(x).pooled, before) and made.state_dict().keys() == keys
    assert not any(m._forward_hooks or "forward" in vars(m) for m in made.modules())


def test_gradients_reach_every_weight() -> None:
    made, (x, visible) = encoder(2), scene(2)
    sum(m.square().mean() for m in seen(made, x, visible)).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


class Unknown(Encoder):
    """Has a part that sees all of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool1d(1)

    def forward(self, x: Tensor) -> Features:
        """Nothing."""
        return Features(x, [self.mean(x)])


def test_encoders_it_does_not_know_are_refused() -> None:
    refuse_dense(encoder(3), "SparK")
    for other, part in (
        (ResNet1d(1, (4, 8), blocks=1), "BatchNorm1d"),
        (ViT(1, (8, 8), patch=4, width=8, depth=1, heads=1), "LayerNorm|Linear|Rearrange|Conv2d|Dropout"),
        (Unknown(), "AdaptiveAvgPool1d"),
    ):
        with pytest.raises(ConfigError, match=f"{type(other).__name__} has ({part})"):
            refuse_dense(other, "SparK")
