"""Slices of a volume joined by attention: loops, slices that are not there, images as volumes of one slice."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.encoders import slice_transformer
from medssl.encoders.base import InputSpec, load_encoder, save_encoder
from medssl.encoders.importing import load_weights
from medssl.encoders.resenc import ResEnc
from medssl.encoders.slice_attention import DeformableAttention, SliceAttention, filled_mean, sample_linear
from medssl.encoders.slice_transformer import SliceTransformer, level_vectors
from medssl.encoders.slice_wise import SliceWise
from medssl.errors import ConfigError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def image_encoder(channels: int = 1) -> ResEnc:
    return ResEnc(channels, dims=2, features=(4, 8), blocks=(1, 1), strides=(1, 2))


def transformer(**options: object) -> SliceTransformer:
    torch.manual_seed(0)
    return SliceTransformer(image_encoder(), **{"width": 16, "layers": 2, "hidden": 12, **options})  # type: ignore[arg-type]


def attention(channels: int = 8, *, still: bool = False) -> DeformableAttention:
    torch.manual_seed(0)
    made = DeformableAttention(channels).double()
    if still:
        torch.nn.init.zeros_(made.to_offsets[2].weight)  # type: ignore[arg-type]
    return made


def at(sequence: Tensor, place: Tensor) -> Tensor:
    """(C, L) at a place of -1 (left edge) to 1 (right edge), linear between elements, 0 outside."""
    index = ((place + 1) * sequence.shape[1] - 1) / 2
    low = math.floor(float(torch.as_tensor(index).detach()))
    total = torch.zeros(len(sequence), dtype=sequence.dtype)
    for corner in (low, low + 1):
        if 0 <= corner < sequence.shape[1]:
            total = total + sequence[:, corner] * (1 - (index - corner).abs())
    return total


def attention_reference(layer: DeformableAttention, x: Tensor) -> Tensor:
    """One sequence (C, L), one head and one query at a time; a head has its own channels and places."""
    channels, length = x.shape
    own, count = channels // 8, max(1, length // 4)
    out = torch.zeros(512, length, dtype=x.dtype)
    for head in range(8):
        part, rows = x[head * own : (head + 1) * own], slice(64 * head, 64 * (head + 1))
        q, k, v = (w.weight[rows, :, 0] for w in (layer.to_q, layer.to_k, layer.to_v))
        queries = q @ part
        moved = layer.to_offsets(functional.pad(queries, (0, max(0, 4 - length)))[None])[0, 0]
        places = [2 * (j + 2 * moved[j]) / max(1, count - 1) - 1 for j in range(count)]
        seen = [at(part, place) for place in places]
        for i in range(length):
            mine = 2 * i / max(1, length - 1) - 1
            logits = []
            for place, features in zip(places, seen, strict=True):
                distance = mine - place
                squeezed = (distance.sign() * (1 + distance.abs()).log()).view(1)
                logits.append(queries[:, i] @ (k @ features) / 8 + layer.bias(squeezed)[0])
            weights = torch.stack(logits).softmax(0)
            out[rows, i] = sum(w * (v @ features) for w, features in zip(weights, seen, strict=True))
    return layer.to_out(out[None])[0]


@pytest.mark.parametrize("length", [1, 3, 4, 10, 13])
def test_attention_equals_the_loops_in_value_and_gradient(length: int) -> None:
    layer = attention(16)
    fast, slow = random(2, 16, length).requires_grad_(), random(2, 16, length).requires_grad_()
    found, wanted = layer(fast), torch.stack([attention_reference(layer, x) for x in slow])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    found.square().sum().backward(), wanted.square().sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=0, atol=1e-11)


def test_interpolation_is_that_of_grid_sample() -> None:
    features, places = random(2, 3, 4, 7), 3 * torch.rand(2, 3, 5).double() - 1.5
    grid = torch.stack([torch.zeros_like(places), places], -1).flatten(0, 1).unsqueeze(2)
    wanted = functional.grid_sample(features.flatten(0, 1).unsqueeze(-1), grid, align_corners=False)
    found = sample_linear(features, places, torch.tensor([7, 7]))
    torch.testing.assert_close(found.flatten(0, 1), wanted.squeeze(-1), rtol=0, atol=1e-12)


def test_without_offsets_it_is_attention_to_places_that_are_evenly_spaced() -> None:
    layer, x = attention(still=True), random(1, 8, 12)
    shift = torch.tensor([-1.0, 0.0, 1.0]).double()  # of 3 places: both edges and the middle
    keys = sample_linear(x.unflatten(1, (8, 1)), shift.expand(1, 8, 3), torch.tensor([12])).flatten(1, 2)
    q, k, v = (w(y).unflatten(1, (8, 64)) for w, y in ((layer.to_q, x), (layer.to_k, keys), (layer.to_v, keys)))
    distance = torch.linspace(-1, 1, 12, dtype=torch.float64).view(-1, 1) - shift
    bias = layer.bias((distance.sign() * distance.abs().log1p()).unsqueeze(-1)).squeeze(-1)
    attended = functional.scaled_dot_product_attention(q.mT, k.mT, v.mT, attn_mask=bias.expand(1, 8, 12, 3)).mT
    torch.testing.assert_close(layer(x), layer.to_out(attended.flatten(1, 2)), rtol=0, atol=1e-12)


def test_every_weight_of_the_attention_gets_a_gradient() -> None:
    layer = attention()
    layer(random(2, 8, 9)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize("there", [1, 2, 5, 9])
def test_slices_that_are_not_there_change_nothing(there: int) -> None:
    torch.manual_seed(0)
    made = SliceAttention(8, layers=2, hidden=6, dropout=0.0).double()
    short = random(1, there, 8)
    first = 1 if there < 9 else 0
    filled = torch.zeros(1, 10, dtype=torch.bool)
    filled[:, first : first + there] = True
    padded = torch.full((1, 10, 8), torch.nan).double().masked_scatter(filled.unsqueeze(-1), short)
    found, wanted = made(padded, filled), made(short)
    torch.testing.assert_close(found[filled].view_as(wanted), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(filled_mean(found, filled), filled_mean(wanted), rtol=0, atol=1e-12)


def test_volumes_of_different_depth_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    made = SliceAttention(8, layers=1, hidden=6, dropout=0.0).double()
    x, filled = random(3, 9, 8), torch.arange(9) < torch.tensor([[9], [4], [1]])
    together = made(x, filled)
    for i, length in enumerate((9, 4, 1)):
        torch.testing.assert_close(together[i, :length], made(x[i : i + 1, :length])[0], rtol=0, atol=1e-12)


def test_attention_along_the_embedding_takes_one_number_of_slices() -> None:
    made = SliceAttention(12, layers=1, hidden=6, attend="embedding", slices=8, dropout=0.0)
    x, filled = torch.randn(2, 8, 12), torch.arange(8).expand(2, -1) < 5
    other = x.masked_fill(~filled.unsqueeze(-1), 7.0)
    assert torch.equal(made(x, filled)[filled], made(other, filled)[filled]), "empty slices are zeros to it"
    with pytest.raises(ConfigError, match="8 slices, not 7"):
        made(x[:, :7])
    with pytest.raises(ConfigError, match="multiple of 8, not 9"):
        SliceAttention(16, attend="embedding", slices=9)
    with pytest.raises(ConfigError, match="exactly 8 slices"):
        transformer(attend="embedding", slices=8, pool="volume").check_input(1, (6, 8, 8))
    transformer(attend="embedding", slices=8).check_input(1, (6, 8, 8))  # which does not use it


def test_an_image_and_a_volume_of_one_slice_have_the_same_vector() -> None:
    made, images = transformer().eval(), torch.randn(3, 1, 8, 8)
    by_volume = made.slice_vectors(images.unsqueeze(2)).squeeze(1)
    maps = [m.unsqueeze(2) for m in made.encoder(images).maps]
    torch.testing.assert_close(by_volume, made.projection(level_vectors(maps)).squeeze(1), rtol=0, atol=1e-6)
    together = made.slice_vectors(images.transpose(0, 1)[None])  # as three slices of one volume
    torch.testing.assert_close(together[0], by_volume, rtol=0, atol=1e-6)
    torch.testing.assert_close(made(images.unsqueeze(2)).pooled, made.encoder(images).pooled, rtol=0, atol=1e-6)


def test_pooling_is_the_mean_over_slices_or_the_vector_of_the_volume() -> None:
    x = torch.randn(2, 1, 5, 8, 8)
    by_slices, by_volume = transformer().eval(), transformer(pool="volume").eval()
    each = torch.stack([by_slices.encoder(x[:, :, z]).pooled for z in range(5)])
    torch.testing.assert_close(by_slices(x).pooled, each.mean(0), rtol=0, atol=1e-6)
    vectors = by_volume.attention(by_volume.slice_vectors(x))
    torch.testing.assert_close(by_volume(x).pooled, vectors.mean(1), rtol=0, atol=1e-6)
    assert (by_slices.out_dim, by_volume.out_dim) == (8, 16)


def test_one_slice_trains() -> None:
    made = transformer(pool="volume").train()
    made(torch.randn(1, 1, 1, 8, 8)).pooled.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def test_slices_are_told_apart_at_the_start() -> None:
    """Averages of maps that were normalised for themselves hardly differ; nothing would be learned from them."""
    made, x = transformer(width=64).train(), torch.rand(8, 1, 1, 8, 8)
    levels, vectors = level_vectors(SliceWise.forward(made, x).maps), made.slice_vectors(x)
    assert functional.cosine_similarity(levels[:1], levels[1:], dim=-1).mean() > 0.95
    assert functional.cosine_similarity(vectors[:1], vectors[1:], dim=-1).mean() < 0.6


def test_computed_twice_it_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_transformer, "RECOMPUTED", 4)  # of six slices
    x = torch.linspace(0, 9, 2 * 3 * 64, dtype=torch.float64).sin().view(2, 1, 3, 8, 8)

    def gradients(recompute: bool) -> list[Tensor]:
        made = transformer().double().train()
        made.slice_vectors(x, recompute=recompute).square().sum().backward()
        return [p.grad for p in made.parameters() if p.grad is not None]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_projection_and_transformer_are_exported_along(tmp_path: Path) -> None:
    made = transformer(pool="volume").eval()
    with torch.no_grad():
        made.projection.norm.running_mean.fill_(0.1)  # type: ignore[union-attr]
    save_encoder(made, tmp_path, InputSpec("volume", ("a",), (4, 8, 8)), {})
    loaded, _ = load_encoder(tmp_path)
    x = torch.randn(2, 1, 4, 8, 8)
    assert torch.equal(loaded.eval()(x).pooled, made(x).pooled)
    report = load_weights(transformer(), tmp_path / "encoder.safetensors")
    assert report.share == 1 and not report.skipped


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 8, not 12"):
        transformer(width=12)
    with pytest.raises(ConfigError, match="dropout"):
        transformer(dropout=1.0)
    with pytest.raises(ConfigError, match="3 axes"):
        SliceTransformer(ResEnc(1, "tiny"))


def test_layers_go_from_the_encoder_to_the_transformer() -> None:
    groups = transformer().layers()
    assert all(name.startswith("encoder.") for group in groups[:-1] for name, _ in group)
    assert {name.split(".")[0] for name, _ in groups[-1]} == {"projection", "attention"}
    assert sum(len(g) for g in groups) == len(list(transformer().parameters()))
