"""Weights of vision transformers of other programs, under the names and in the shapes of ``VideoViT``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from medssl.encoders.video_vit import VideoViT
from medssl.encoders.vit import resize_positions

__all__ = ["video_vit_weights"]

_NAMES = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"\bpatch_embed\.proj\.", "patch_embed."),  # timm, VideoMAE
        (r"\battn\.proj\.", "attn.out_proj."),
        (r"\battn\.([qv])_bias$", r"attn.\1.bias"),
        (r"\b(?:videomae|vit)\.", ""),  # transformers: VideoMAE, ViT
        (r"\bembeddings\.patch_embeddings\.projection\.", "patch_embed."),
        (r"\bembeddings\.cls_token$", "cls_token"),
        (r"\bembeddings\.position_embeddings$", "pos_embed"),
        (r"\bencoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"\battention\.attention\.([qkv])(?:uery|ey|alue)\.", r"attn.\1."),
        (r"\battention\.attention\.([qv])_bias$", r"attn.\1.bias"),
        (r"\battention\.output\.dense\.", "attn.out_proj."),
        (r"\bintermediate\.dense\.", "mlp.linear1."),
        (r"\boutput\.dense\.", "mlp.linear2."),
        (r"\blayernorm_before\.", "norm1."),
        (r"\blayernorm_after\.", "norm2."),
        (r"\blayernorm\.", "norm."),
    )
)
_PART = re.compile(r"(?P<before>.*\battn)\.(?P<part>[qkv])\.(?P<kind>weight|bias)$")


def video_vit_weights(state: Mapping[str, Tensor], encoder: VideoViT) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What ``encoder`` can take of a state dict of timm's ViT, VideoMAE, or transformers' ViT and VideoMAE.

    Queries, keys and values come together in one layer; keys that have no bias get zeros, which changes nothing. The
    patch embedding of images is spread evenly over the frames of a tubelet, so that an image gives what it gave (I3D,
    Carreira and Zisserman, CVPR 2017); their learned position table is the same for all times, interpolated in the
    plane, and what it holds for the class token is added to that. Anything else keeps its name.

    Args:
        state: tensors by name.
        encoder: its grid and patch are what weights of images are spread over.

    Returns:
        Tensors by name, and what was changed of some of them, by name too.
    """
    named = _joined({_renamed(key): value for key, value in state.items()})
    notes: dict[str, str] = {}
    flat = [k for k, v in named.items() if k.endswith("patch_embed.weight") and v.ndim == 4]
    for key in flat:
        frames = encoder.patch[0]
        named[key] = named[key].unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
        notes[key] = f"an image's patch spread over {frames} frames"
        _spread_positions(named, notes, key.removesuffix("patch_embed.weight"), encoder)
    return named, notes


def _renamed(key: str) -> str:
    for pattern, new in _NAMES:
        key = pattern.sub(new, key)
    return key


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Separate queries, keys and values as one tensor."""
    joined: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        found = _PART.match(key)
        if found is None:
            joined[key] = value
        else:
            parts.setdefault(f"{found['before']}.qkv.{found['kind']}", {})[found["part"]] = value
    for name, of in parts.items():
        if "q" in of and "v" in of:
            joined[name] = torch.cat([of["q"], of.get("k", torch.zeros_like(of["q"])), of["v"]])
    return joined


def _spread_positions(named: dict[str, Tensor], notes: dict[str, str], prefix: str, encoder: VideoViT) -> None:
    """A learned table of an image's plane as one of a clip, with the class token's row added to the class token."""
    table, token = named.get(f"{prefix}pos_embed"), named.get(f"{prefix}cls_token")
    if table is None or table.ndim != 3 or encoder.pos_embed is None:
        return
    count = table.shape[1]
    first = 0 if math.isqrt(count) ** 2 == count else 1
    side = math.isqrt(count - first)
    if side**2 != count - first:
        return
    if first and token is not None:
        named[f"{prefix}cls_token"] = token + table[:, :1]
        notes[f"{prefix}cls_token"] = "its position added"
    named[f"{prefix}pos_embed"] = resize_positions(table[:, first:], (1, side, side), encoder.grid)
    notes[f"{prefix}pos_embed"] = f"position grid {(side, side)} → {encoder.grid}"
