"""MONAI's plain vision transformer, taking any size by interpolating its position table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.encoders.base import Features
from medssl.encoders.blocks import parameters_by_prefix, per_axis
from medssl.encoders.tokens import TokenEncoder
from medssl.errors import ConfigError

__all__ = ["ViT", "resize_positions"]

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize_positions(table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """A position table for another grid of tokens, by linear interpolation between token centres.

    Args:
        table: (1, prod(old), D).
        old: tokens an axis of the table.
        new: tokens an axis wanted.

    Returns:
        (1, prod(new), D), of the table's type.
    """
    if old == new and not torch.compiler.is_exporting():  # a file for any size must not take this way
        return table
    grid = table.transpose(1, 2).reshape(1, -1, *old).float()
    resized = F.interpolate(grid, size=new, mode=_MODES[len(new)], align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(table.dtype)


class ViT(TokenEncoder):
    """Vision transformer (Dosovitskiy et al., 2021) over 2-D or 3-D patches, or over pieces of a signal.

    One map: the normalised tokens of the last block as a grid (B, width, *spatial / patch); pooled is their mean.

    Args:
        in_channels: channels of the input.
        size: input size for which the learned position table is made; other sizes interpolate it. Its length sets the
            number of axes (1 to 3).
        patch: edge of a patch, an integer or one an axis.
        width: token dimension.
        depth: transformer blocks.
        heads: attention heads; must divide ``width``.
        mlp_ratio: hidden width of the blocks' MLP relative to ``width``.
        dropout: inside the blocks and after the patch embedding.

    Raises:
        ConfigError: sizes that do not fit each other.
    """

    exports_any_size = True

    def __init__(
        self,
        in_channels: int = 1,
        size: tuple[int, ...] = (96, 96, 96),
        *,
        patch: int | tuple[int, ...] = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        dims = len(size)
        if dims not in (1, 2, 3):
            raise ConfigError(f"ViT takes 1 to 3 axes, but size {size} has {dims}")
        patches = per_axis(patch, dims, "the patch")
        if any(s % p for s, p in zip(size, patches, strict=True)) or width % heads:
            raise ConfigError(
                f"ViT needs a size ({size}) that is a multiple of the patch ({patches}) and a width ({width}) that "
                f"is a multiple of the heads ({heads})"
            )
        from monai.networks.nets.vit import ViT as MonaiViT

        self.in_channels, self.dims, self.depth = in_channels, dims, depth
        self.out_dim, self.channels, self.patch = width, (width,), patches
        self.strides, self.divisor, self.minimum = (patches,), patches, patches
        self.grid = tuple(s // p for s, p in zip(size, patches, strict=True))
        self.vit = MonaiViT(
            in_channels,
            img_size=size,
            patch_size=patches,
            hidden_size=width,
            mlp_dim=round(width * mlp_ratio),
            num_layers=depth,
            num_heads=heads,
            dropout_rate=dropout,
            spatial_dims=dims,
            qkv_bias=True,
        )
        for name, parameter in self.vit.named_parameters():
            if "cross_attn" in name:  # MONAI's blocks carry them unused; a weight without gradient stops DDP
                parameter.requires_grad_(False)

    @property
    def position_grids(self) -> dict[str, tuple[int, ...]]:
        """Token grid of each position table by weight name; ``load_weights`` resizes foreign tables to it."""
        return {"vit.patch_embedding.position_embeddings": self.grid}

    def forward(self, x: Tensor) -> Features:
        """(B, C, *spatial), every edge a multiple of the patch → one map and its mean."""
        grid = tuple(s // p for s, p in zip(x.shape[2:], self.strides[0], strict=True))
        tokens = self.encode(self.tokens(x))
        return Features(tokens.float().mean(1), [tokens.transpose(1, 2).unflatten(2, grid)])

    def tokens(self, x: Tensor) -> Tensor:
        """Embedded patches with their positions: (B, C, *spatial) → (B, L, width), in raster order."""
        embedding = self.vit.patch_embedding
        patches = embedding.patch_embeddings(x)
        positions = resize_positions(embedding.position_embeddings, self.grid, tuple(patches.shape[2:]))
        embedded: Tensor = embedding.dropout(patches.flatten(2).transpose(1, 2) + positions)
        return embedded

    def encode(self, tokens: Tensor) -> Tensor:
        """All blocks and the last norm, on all of ``tokens`` or some of them: (B, any number, width) → the same."""
        for block in self.vit.blocks:
            tokens = block(tokens)
        normalised: Tensor = self.vit.norm(tokens)
        return normalised

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``; also refuses a size of a single patch."""
        super().check_input(channels, size)
        if math.prod(size) == math.prod(self.strides[0]):
            raise ConfigError(f"ViT sees a size of {size} as a single patch; use a larger crop or a smaller patch")

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Embedding, then one group a block; the final norm goes with the last block."""
        blocks = [(f"vit.blocks.{i}.",) for i in range(self.depth - 1)]
        return parameters_by_prefix(
            self, [("vit.patch_embedding.",), *blocks, (f"vit.blocks.{self.depth - 1}.", "vit.norm.")]
        )
