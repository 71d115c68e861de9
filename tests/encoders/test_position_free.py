"""An encoder without positions: raw while it gathers, cleaned once settled, and the same after loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from medssl.encoders.base import Encoder, Features, InputSpec, load_encoder, mean_pool, save_encoder
from medssl.encoders.importing import load_weights
from medssl.encoders.position_free import PositionFree
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.encoders.vit import ViT
from medssl.errors import ConfigError
from medssl.objectives.positions import moments, removal_from_moments


def wrapped(rounds: int = 2, seed: int = 0, **options: int) -> PositionFree:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PositionFree(ResNet1d(2, (8, 16), blocks=1), rounds, **options)


def batches(count: int = 3, size: int = 8) -> list[Tensor]:
    """Signals whose loudness grows along the window, so that features tell where they are."""
    loudness = torch.linspace(0.2, 3, 64)
    return [loudness * torch.randn(size, 2, 64, generator=torch.Generator().manual_seed(s)) for s in range(count)]


def settled(rounds: int = 2) -> PositionFree:
    encoder = wrapped(rounds)
    encoder.collect = True
    for x in batches(40):  # until batch normalisation's running statistics are those of the batches
        encoder(x)
    encoder.collect = False
    encoder.settle()
    return encoder.eval()


def test_before_anything_was_gathered_it_is_the_encoder_itself() -> None:
    encoder = wrapped().eval()
    encoder.settle()
    x = batches(1)[0]
    raw, found = encoder.encoder(x), encoder(x)
    torch.testing.assert_close(found.pooled, raw.pooled)
    torch.testing.assert_close(found.maps[0], raw.maps[0])


def test_while_it_gathers_features_are_raw_even_once_settled() -> None:
    encoder = settled()
    x = batches(1)[0]
    encoder.collect = True
    torch.testing.assert_close(encoder(x).pooled, encoder.encoder(x).pooled)
    encoder.collect = False
    assert not torch.allclose(encoder(x).pooled, encoder.encoder(x).pooled)


def test_it_gathers_in_training_only_and_not_of_a_teacher() -> None:
    encoder, x = wrapped(), batches(1)[0]
    encoder.train()(x)
    assert not encoder.cells, "nobody asked"
    encoder.collect = True
    encoder.eval()(x)
    with torch.no_grad():
        encoder.train()(x)
    assert not encoder.cells
    encoder(x)
    assert encoder.cells.item() == len(x) * encoder(x).maps[-1].shape[-1]


def test_moments_forget_slowly() -> None:
    encoder = wrapped(memory=4)
    encoder.collect = True
    first, second = batches(2)
    kept = [moments(encoder(x).maps[-1]) for x in (first, second)]
    for name, one, other in zip(encoder.moments._fields, *kept, strict=True):
        torch.testing.assert_close(getattr(encoder, name), 0.75 * one + other, rtol=1e-4, atol=1e-4)


def test_settled_maps_and_pooled_features_pass_through_the_merged_map() -> None:
    encoder = settled()
    x = batches(1)[0]
    raw, found = encoder.encoder(x), encoder(x)
    projection = removal_from_moments(encoder.moments, rounds=2)
    torch.testing.assert_close(encoder.projection, projection)
    torch.testing.assert_close(found.pooled, raw.pooled @ projection)
    torch.testing.assert_close(found.maps[0], torch.einsum("bdt,de->bet", raw.maps[0], projection))
    torch.testing.assert_close(mean_pool(found.maps[0]), found.pooled, rtol=1e-4, atol=1e-5)
    assert torch.linalg.matrix_rank(projection, rtol=1e-4) == 16 - 2


def test_positions_are_harder_to_tell() -> None:
    def explained(maps: Tensor) -> float:
        x = maps.detach().flatten(2).transpose(1, 2).flatten(0, 1).double()
        y = torch.linspace(-0.5, 0.5, maps.shape[-1]).double().repeat(len(maps)).unsqueeze(1)
        x = x - x.mean(0)
        return 1 - float(
            (y - x @ torch.linalg.lstsq(x, y, rcond=1e-4, driver="gelsd").solution).square().sum() / y.square().sum()
        )

    encoder, x = settled(rounds=3), torch.cat(batches(8))
    assert explained(encoder(x).maps[-1]) < 0.5 * explained(encoder.encoder(x).maps[-1])


@pytest.mark.parametrize("pool", ["last", "all"])
def test_pooled_features_of_other_maps_are_left_alone(pool: str) -> None:
    encoder = PositionFree(ResEnc(1, features=(4, 8), blocks=(1, 1), strides=(1, 2), pool=pool), 2)  # type: ignore[arg-type]
    encoder.projection.copy_(torch.diag(torch.tensor([0.0] * 6 + [1.0] * 2)))
    raw, found = encoder.encoder(x := torch.randn(2, 1, 8, 8, 8)), encoder(x)
    torch.testing.assert_close(found.pooled[:, : 4 if pool == "all" else 0], raw.pooled[:, : 4 if pool == "all" else 0])
    assert not found.pooled[:, -8:-2].any() and not found.maps[-1][:, :6].any()
    torch.testing.assert_close(found.maps[0], raw.maps[0])
    torch.testing.assert_close(found.pooled[:, -2:], raw.pooled[:, -2:])


def test_an_export_keeps_the_merged_map_and_trains_through_it(tmp_path: Path) -> None:
    encoder = settled()
    save_encoder(encoder, tmp_path, InputSpec("signal", ("a", "b"), (64,)), {})
    again, _ = load_encoder(tmp_path)
    assert isinstance(again, PositionFree) and not again.collect
    x = batches(1)[0]
    with torch.no_grad():
        assert torch.equal(again.eval()(x).pooled, encoder(x).pooled)
    before = again.projection.clone()
    again.train()(x).pooled.square().sum().backward()
    assert torch.equal(again.projection, before) and not again.projection.requires_grad
    assert all(p.grad is not None for p in again.parameters())


def test_position_tables_of_foreign_weights_are_resized_inside() -> None:
    small = ViT(size=(16, 16, 16), patch=8, width=24, depth=1, heads=3)
    large = PositionFree(ViT(size=(32, 16, 16), patch=8, width=24, depth=1, heads=3))
    report = load_weights(large, {f"encoder.{k}": v for k, v in small.state_dict().items()})
    assert [name for name, _ in report.adapted] == ["encoder.vit.patch_embedding.position_embeddings"]


class Strange(Encoder):
    """Pools less than its last map."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.dims, self.out_dim = 1, 1, 2
        self.channels, self.strides, self.divisor, self.minimum = (4,), ((1,),), (1,), (1,)

    def forward(self, x: Tensor) -> Features:
        return Features(x.mean(-1).repeat(1, 2), [x.repeat(1, 4, 1)])


def test_what_cannot_be_wrapped_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 or more rounds"):
        wrapped(-1)
    with pytest.raises(ConfigError, match="leave nothing of the 16 features"):
        wrapped(16)
    with pytest.raises(ConfigError, match="Strange does not"):
        PositionFree(Strange())
