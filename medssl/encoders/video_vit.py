"""One vision transformer for images, volumes and video: all are cut into the same tubelets."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from medssl.encoders.base import Features
from medssl.encoders.blocks import parameters_by_prefix, per_axis
from medssl.encoders.positions import interleaved_sines, sine_positions
from medssl.encoders.tokens import TokenEncoder
from medssl.encoders.vit import resize_positions
from medssl.errors import ConfigError
from medssl.objectives.masked_reconstruction import padded

__all__ = ["VideoViT"]

_AXES = 3
_EPSILON = 1e-6  # of layer norms in timm and VideoMAE, whose weights this encoder takes


class VideoViT(TokenEncoder):
    """Vision transformer over tubelets of (channel, time or depth, height, width), as of M3Ret (2025) and VideoMAE.

    A 2-D image is a clip of one frame, a volume one of its slices. Axes are lengthened at their end to a multiple of
    the patch by repeating the edge, so that an image equals the constant clip of it. What was added counts for nothing
    in the mean: every token weighs as much as the share of its places that the input has.

    One map: the normalised tokens of the last block as a grid (B, width, ⌈T / p⌉, ⌈H / p⌉, ⌈W / p⌉). Pooled: the class
    token, or the mean over the input's places.

    Args:
        in_channels: channels of the input.
        size: frames (or slices), height and width for which a learned position table is made; other sizes are taken
            too.
        patch: edges of a tubelet (t, h, w); (1, 16, 16) sees every frame for itself.
        width: token dimension, even and at least 6.
        depth: transformer blocks.
        heads: attention heads; must divide ``width``.
        mlp_ratio: hidden width of the blocks' MLP relative to ``width``.
        positions: ``"sincos3d"``: fixed sines and cosines of time, row and column (M3Ret); ``"sincos1d"``: fixed
            ones of the place in raster order (VideoMAE, DISCOVR); ``"learned"``: a table, interpolated for other grids.
            Class token and registers have none.
        class_token: put a learned token before all others.
        pool: ``"cls"`` the class token, ``"mean"`` the patches' mean; None takes the class token where there is one.
        registers: further learned tokens that are left out of what comes out (Darcet et al., ICLR 2024).

    Raises:
        ConfigError: settings that do not fit each other.
    """

    exports_any_size = True
    fixed: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        size: tuple[int, int, int] = (16, 112, 112),
        *,
        patch: int | tuple[int, int, int] = (2, 16, 16),
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        positions: Literal["sincos3d", "sincos1d", "learned"] = "sincos3d",
        class_token: bool = True,
        pool: Literal["cls", "mean"] | None = None,
        registers: int = 0,
    ) -> None:
        super().__init__()
        pool = pool or ("cls" if class_token else "mean")
        _refuse(size, width, depth, heads, positions, class_token, pool, registers)
        from monai.networks.blocks.transformerblock import TransformerBlock

        self.in_channels, self.dims, self.depth = in_channels, _AXES, depth
        self.patch = per_axis(patch, _AXES, "the patch")
        self.out_dim, self.channels = width, (width,)
        self.strides, self.divisor, self.minimum = (self.patch,), (1,) * _AXES, (1,) * _AXES
        self.positions, self.pool, self.leading, self.registers = positions, pool, int(class_token), registers
        self.grid = self.grid_of(tuple(size))
        self.patch_embed = nn.Conv3d(in_channels, width, self.patch, stride=self.patch)  # type: ignore[arg-type]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid), width)) if positions == "learned" else None
        # the table of the usual grid is made once; it is no weight
        self.register_buffer("fixed", torch.empty(0) if positions == "learned" else self._sines(self.grid), False)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, round(width * mlp_ratio), heads, qkv_bias=True, use_flash_attention=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self._initialise()

    @property
    def position_grids(self) -> dict[str, tuple[int, ...]]:
        """Token grid of the learned position table by weight name; ``load_weights`` resizes foreign tables to it."""
        return {} if self.pos_embed is None else {"pos_embed": self.grid}

    def forward(self, x: Tensor) -> Features:
        """(B, C, T, H, W) of any size → one map, and the class token or the mean."""
        encoded = self.encode(self.tokens(x))
        patches = encoded[:, self.leading :]
        size = tuple(x.shape[2:])
        if self.pool == "cls":
            pooled = encoded[:, 0].float()
        elif not self._lengthened(size):
            pooled = patches.float().mean(1)
        else:
            share = self.shares(size).to(x.device)
            pooled = (patches.float() * share.unsqueeze(-1)).sum(1) / share.sum()
        return Features(pooled, [patches.transpose(1, 2).unflatten(2, self.grid_of(size))])

    def tokens(self, x: Tensor) -> Tensor:
        """Embedded tubelets with their positions: (B, C, T, H, W) → (B, L, width), in the order of time, row, column.

        L = ⌈T / p⌉ ⌈H / p⌉ ⌈W / p⌉; sizes need not be multiples of the patch.
        """
        size = tuple(x.shape[2:])
        if self._lengthened(size):
            x, _ = padded(x, self.patch)
        patches: Tensor = self.patch_embed(x).flatten(2).transpose(1, 2)
        return patches + self.codes(self.grid_of(size)).to(patches)

    def encode(self, tokens: Tensor) -> Tensor:
        """All blocks and the last norm, on all of ``tokens`` or some of them.

        Args:
            tokens: (B, N, width), of ``tokens``; any N.

        Returns:
            (B, 1 + N, width), the class token first; (B, N, width) without one.
        """
        batch, front = tokens.shape[0], [p for p in (self.cls_token, self.reg_token) if p is not None]
        joined = torch.cat([*(p.to(tokens.dtype).expand(batch, -1, -1) for p in front), tokens], 1)
        for block in self.blocks:
            joined = block(joined)
        normalised: Tensor = self.norm(joined)
        if not self.registers:
            return normalised
        return torch.cat([normalised[:, : self.leading], normalised[:, self.leading + self.registers :]], 1)

    def codes(self, grid: tuple[int, ...]) -> Tensor:
        """Codes of all places of a grid of tokens, (1, prod(grid), width)."""
        if self.pos_embed is not None:
            return resize_positions(self.pos_embed, self.grid, grid)
        if not torch.compiler.is_exporting() and grid == self.grid:  # a comparison would tie a file to one size
            return self.fixed
        return self._sines(grid).to(self.fixed.device)

    def shares(self, size: tuple[int, ...]) -> Tensor:
        """(L,) share of each token's places that an input of (T, H, W) has; 1 where nothing was added."""
        share = torch.ones(1)
        for length, count, edge in zip(size, self.grid_of(size), self.patch, strict=True):
            along = (length - edge * torch.arange(count)).clamp_max(edge) / edge
            share = (share.unsqueeze(-1) * along).flatten()
        return share

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Embedding with learned tokens, then one group a block; the final norm goes with the last block."""
        blocks = [(f"blocks.{i}.",) for i in range(self.depth - 1)]
        entry = ("patch_embed.", "cls_token", "reg_token", "pos_embed")
        return parameters_by_prefix(self, [entry, *blocks, (f"blocks.{self.depth - 1}.", "norm.")])

    def _lengthened(self, size: tuple[int, ...]) -> bool:
        """Whether an input has to be lengthened; a file for any size takes that way always."""
        return torch.compiler.is_exporting() or any(s % p for s, p in zip(size, self.patch, strict=True))

    def _sines(self, grid: tuple[int, ...]) -> Tensor:
        width = self.out_dim
        codes = (
            sine_positions(grid, width) if self.positions == "sincos3d" else interleaved_sines(math.prod(grid), width)
        )
        return codes.unsqueeze(0)

    def _initialise(self) -> None:
        """Xavier's scale for all linear layers, the patches' embedding included, and no biases (MAE, VideoMAE)."""
        for block in self.blocks:
            block.norm_cross_attn = nn.Identity()  # MONAI's blocks carry it unused; a weight without gradient stops DDP
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = _EPSILON
            elif isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for learned in (self.cls_token, self.reg_token, self.pos_embed):
            if learned is not None:
                nn.init.trunc_normal_(learned, std=0.02)


def _refuse(
    size: tuple[int, ...],
    width: int,
    depth: int,
    heads: int,
    positions: str,
    class_token: bool,
    pool: str,
    registers: int,
) -> None:
    if len(size) != _AXES or min(size) < 1:
        raise ConfigError(f"VideoViT takes a size of frames (or slices; 1 for images), height and width, not {size}")
    if width % heads or width % 2 or width < 2 * _AXES or depth < 1 or registers < 0:
        raise ConfigError(
            f"VideoViT needs an even width of at least {2 * _AXES} that is a multiple of its heads, at least one block "
            f"and 0 or more registers, not a width of {width}, {heads} heads, {depth} blocks and {registers} registers"
        )
    if positions not in ("sincos3d", "sincos1d", "learned") or pool not in ("cls", "mean"):
        raise ConfigError(
            f"VideoViT takes positions of sincos3d, sincos1d or learned and a pool of cls or mean, not {positions} and "
            f"{pool}"
        )
    if pool == "cls" and not class_token:
        raise ConfigError("VideoViT cannot pool a class token that it does not have; set class_token true or pool mean")
