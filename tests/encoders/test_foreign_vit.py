"""VideoViT from checkpoints of timm and VideoMAE: names as these have them, answers as they give them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from medssl.encoders.importing import load_weights
from medssl.encoders.positions import interleaved_sines
from medssl.encoders.video_vit import VideoViT

State = dict[str, Tensor]
WIDTH, HEADS, DEPTH = 24, 3, 2


def blocks(prefix: str) -> State:
    """Weights of the blocks and the last norm as timm names them, all of them random, norms too."""
    shapes = {"norm1.weight": (24,), "norm1.bias": (24,), "attn.qkv.weight": (72, 24), "attn.qkv.bias": (72,)}
    shapes |= {"attn.proj.weight": (24, 24), "attn.proj.bias": (24,), "norm2.weight": (24,), "norm2.bias": (24,)}
    shapes |= {"mlp.fc1.weight": (96, 24), "mlp.fc1.bias": (96,), "mlp.fc2.weight": (24, 96), "mlp.fc2.bias": (24,)}
    state = {f"{prefix}blocks.{i}.{k}": 0.3 * torch.randn(s) for i in range(DEPTH) for k, s in shapes.items()}
    return state | {f"{prefix}norm.weight": torch.randn(24), f"{prefix}norm.bias": torch.randn(24)}


def timm_vit(*, channels: int = 3, side: int = 2) -> State:
    torch.manual_seed(0)
    state = {
        "cls_token": torch.randn(1, 1, 24),
        "pos_embed": torch.randn(1, 1 + side**2, 24),
        "patch_embed.proj.weight": torch.randn(24, channels, 8, 8) / 8,
        "patch_embed.proj.bias": torch.randn(24),
    }
    return state | blocks("") | {"head.weight": torch.randn(5, 24), "head.bias": torch.randn(5)}


def videomae() -> State:
    """As released: no bias of keys, positions that are no weights, a decoder."""
    torch.manual_seed(0)
    state = {
        "encoder.patch_embed.proj.weight": torch.randn(24, 3, 2, 8, 8) / 8,
        "encoder.patch_embed.proj.bias": torch.randn(24),
        "mask_token": torch.zeros(1, 1, 12),
        "encoder_to_decoder.weight": torch.randn(12, 24),
        "decoder.blocks.0.attn.q_bias": torch.randn(12),
        "decoder.blocks.0.attn.v_bias": torch.randn(12),
        "decoder.head.weight": torch.randn(8, 12),
    }
    for name, value in blocks("encoder.").items():
        if name.endswith("qkv.bias"):
            state[name.replace("qkv.bias", "q_bias")], _, state[name.replace("qkv.bias", "v_bias")] = value.chunk(3)
        else:
            state[name] = value
    return state


def as_transformers_names_it(state: State) -> State:
    """VideoMAE's names in the transformers library, from its own."""
    renamed: State = {}
    for name, value in state.items():
        new = name.replace("encoder.patch_embed.proj.", "videomae.embeddings.patch_embeddings.projection.")
        new = re.sub(r"^encoder\.blocks\.(\d+)\.", r"videomae.encoder.layer.\1.", new)
        new = re.sub(r"^encoder\.norm\.", "videomae.layernorm.", new)
        new = new.replace("norm1.", "layernorm_before.").replace("norm2.", "layernorm_after.")
        new = new.replace("attn.proj.", "attention.output.dense.").replace("mlp.fc1.", "intermediate.dense.")
        new = new.replace("mlp.fc2.", "output.dense.")
        if "attn.qkv.weight" in new:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[new.replace("attn.qkv.", f"attention.attention.{part}.")] = rows
        else:
            renamed[re.sub(r"attn\.([qv])_bias", r"attention.attention.\1_bias", new)] = value
    return renamed


def transformer(tokens: Tensor, state: State, prefix: str) -> Tensor:
    """A plain pre-norm transformer with timm's names, written out; (B, L, 24) → the same."""

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (24,), state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{prefix}{name}.weight"], state[f"{prefix}{name}.bias"])

    for i in range(DEPTH):
        block = f"blocks.{i}."
        bias = state.get(f"{prefix}{block}attn.qkv.bias")
        if bias is None:
            q, v = (state[f"{prefix}{block}attn.{part}_bias"] for part in ("q", "v"))
            bias = torch.cat([q, torch.zeros(24), v])
        qkv = functional.linear(norm(tokens, block + "norm1"), state[f"{prefix}{block}attn.qkv.weight"], bias)
        q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1)
        tokens = tokens + linear((weights @ v).transpose(1, 2).flatten(2), block + "attn.proj")
        hidden = functional.gelu(linear(norm(tokens, block + "norm2"), block + "mlp.fc1"))
        tokens = tokens + linear(hidden, block + "mlp.fc2")
    return norm(tokens, "norm")


def encoder(channels: int = 3, size: tuple[int, int, int] = (4, 16, 16), **options: Any) -> VideoViT:
    return VideoViT(channels, size, patch=(2, 8, 8), width=WIDTH, depth=DEPTH, heads=HEADS, **options).eval()


def test_an_image_model_of_timm_answers_images_as_it_did() -> None:
    """Its patches are spread over the frames of a tubelet, its positions over time."""
    state, target = timm_vit(), encoder(positions="learned")
    report = load_weights(target, state)
    assert report.share == 1 and not report.unexpected and report.skipped == ("head.weight", "head.bias")
    assert dict(report.adapted) == {
        "patch_embed.weight": "an image's patch spread over 2 frames",
        "cls_token": "its position added",
        "pos_embed": "position grid (2, 2) → (2, 2, 2)",
    }
    image = torch.randn(2, 3, 16, 16)
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patches = functional.conv2d(image, kernel, bias, stride=8).flatten(2).mT
    tokens = torch.cat([state["cls_token"].expand(2, -1, -1), patches], 1) + state["pos_embed"]
    wanted = transformer(tokens, state, "")
    features = target(image.unsqueeze(2))
    torch.testing.assert_close(features.pooled, wanted[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.maps[0].flatten(2).mT, wanted[:, 1:], rtol=1e-4, atol=1e-4)


def test_the_grid_of_an_image_model_is_interpolated_in_the_plane_alone() -> None:
    state, target = timm_vit(side=4), encoder(positions="learned")
    load_weights(target, state)
    assert target.pos_embed is not None
    table = target.pos_embed.view(2, 2, 2, 24)
    torch.testing.assert_close(table[0], table[1])
    plane = state["pos_embed"][:, 1:].view(4, 4, 24)
    torch.testing.assert_close(table[0, 0, 0], plane[:2, :2].mean((0, 1)))


def test_a_table_without_a_row_for_the_class_token() -> None:
    state, target = timm_vit(), encoder(positions="learned")
    state["pos_embed"] = state["pos_embed"][:, 1:]
    report = load_weights(target, state)
    assert "cls_token" in report.loaded and target.cls_token is not None
    assert torch.equal(target.cls_token, state["cls_token"])


def test_fixed_positions_leave_the_table_of_a_file() -> None:
    report = load_weights(encoder(), timm_vit())
    assert report.unexpected == ("pos_embed",) and report.share == 1


def test_grey_video_answers_like_the_same_in_three_channels() -> None:
    grey, colour = encoder(1, positions="learned"), encoder(3, positions="learned")
    for target in (grey, colour):
        load_weights(target, timm_vit())
    report = load_weights(grey, timm_vit())
    assert dict(report.adapted)["patch_embed.weight"] == ("an image's patch spread over 2 frames; input channels 3 → 1")
    clip = torch.randn(1, 1, 4, 16, 16)
    torch.testing.assert_close(grey(clip).pooled, colour(clip.expand(-1, 3, -1, -1, -1)).pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", ["videomae", "transformers"])
def test_videomae_answers_as_it_did(names: str, tmp_path: Path) -> None:
    state = videomae()
    stored = state if names == "videomae" else as_transformers_names_it(state)
    save_file({k: v.contiguous() for k, v in stored.items()}, tmp_path / "weights.safetensors")
    target = encoder(positions="sincos1d", class_token=False)
    report = load_weights(target, tmp_path / "weights.safetensors")
    assert report.share == 1 and not report.unexpected and not report.adapted
    assert all(k.startswith(("decoder.", "encoder_to_decoder.", "mask_token")) for k in report.skipped)
    clip = torch.randn(2, 3, 4, 16, 16)
    kernel, bias = state["encoder.patch_embed.proj.weight"], state["encoder.patch_embed.proj.bias"]
    patches = functional.conv3d(clip, kernel, bias, stride=(2, 8, 8)).flatten(2).mT
    wanted = transformer(patches + interleaved_sines(8, 24), state, "encoder.")
    torch.testing.assert_close(target(clip).maps[0].flatten(2).mT, wanted, rtol=1e-4, atol=1e-4)


def test_wrapped_as_a_training_leaves_it(tmp_path: Path) -> None:
    torch.save({"model": {f"module.{k}": v for k, v in videomae().items()}, "epoch": 3}, tmp_path / "weights.pth")
    target, bare = (encoder(positions="sincos1d", class_token=False) for _ in range(2))
    assert load_weights(target, tmp_path / "weights.pth").share == 1
    load_weights(bare, videomae())
    assert all(torch.equal(v, bare.state_dict()[k]) for k, v in target.state_dict().items())


def test_its_own_weights_load_as_they_are() -> None:
    source, target = (encoder(positions="learned", registers=2) for _ in range(2))
    report = load_weights(target, source.state_dict())
    assert report.share == 1 and not report.adapted and not report.unexpected
    larger = encoder(size=(8, 16, 16), positions="learned", registers=2)
    assert dict(load_weights(larger, source.state_dict()).adapted) == {
        "pos_embed": "position grid (2, 2, 2) → (4, 2, 2)"
    }
