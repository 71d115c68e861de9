"""Masked autoencoding: a transformer sees a few patches of a recording, and a small one tells the others."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.blocks import per_axis
from medssl.encoders.positions import sine_positions
from medssl.encoders.tokens import TokenEncoder
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.masked_reconstruction import MaskedReconstruction
from medssl.objectives.masked_reconstruction import Target, random_mask, visible_cells
from medssl.optim import Optim
from medssl.views.base import Batch, Views

__all__ = ["MASK_RATIOS", "MaskedAutoencoder", "TokenDecoder"]

MASK_RATIOS = {"image": 0.75, "volume": 0.8, "video": 0.9, "signal": 0.5}
"""Share of hidden patches by kind of view, where none is given: the more a recording repeats itself, the more."""

STRENGTH = 2.0
"""Of the codes of places, and of equal queries and keys, in the decoder; by trial on smooth random signals."""


class TokenDecoder(nn.Module):
    """A light transformer over all patches: those that were seen as encoded, one learned token for the others.

    Patches look at their neighbours from the start: queries and keys begin equal (Trockman and Kolter, *Mimetic
    initialization*, ICML 2023), and the codes of places are strong and vary within the grid. From the usual start,
    short trainings end earlier on the way (150 steps on sines explain 0.45 to 0.48 of the error, not 0.56 to 0.71).

    Args:
        width: D of encoded tokens.
        out: values of a patch.
        grid: patches along each axis.
        hidden: features of the decoder.
        depth: its blocks.
        heads: its attention heads; must divide ``hidden``.
    """

    positions: Tensor

    def __init__(self, width: int, out: int, grid: tuple[int, ...], *, hidden: int, depth: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, hidden)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.grid = grid
        self._others: dict[tuple[int, ...], Tensor] = {}
        self.register_buffer("positions", _codes(grid, hidden), persistent=False)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, heads, 4 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden)
        self.leave = nn.Linear(hidden, out)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Tensor, places: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """What every patch shows.

        Args:
            encoded: (B, K, D) of the patches that were seen.
            places: (B, K) int64 where they lie among the L.
            grid: patches along each axis where they are not those it was made for.

        Returns:
            (B, L, out).
        """
        seen = self.enter(encoded)
        positions = self.codes(grid or self.grid)
        tokens = self.mask_token.to(seen.dtype).expand(len(seen), len(positions), -1)
        tokens = tokens.scatter(1, places.unsqueeze(-1).expand_as(seen), seen) + positions
        for block in self.blocks:
            tokens = block(tokens)
        told: Tensor = self.leave(self.norm(tokens))
        return told

    def codes(self, grid: tuple[int, ...]) -> Tensor:
        """Codes of all places of a grid, (L, hidden); those of other grids are made once each."""
        if grid == self.grid:
            return self.positions
        known = self._others.get(grid)
        if known is None or known.device != self.positions.device:
            known = self._others[grid] = _codes(grid, self.positions.shape[1]).to(self.positions.device)
        return known


class MaskedAutoencoder(MaskedReconstruction):
    """Masked autoencoding (MAE, CVPR 2022; VideoMAE, NeurIPS 2022): tell hidden patches from a few visible ones.

    Of images, volumes, video and signals alike: only the patches differ. The encoder sees visible patches alone, which
    makes a step cheap; the decoder sees a learned token where patches are hidden. The error is that of hidden patches.

    Shapes: views (V, B, C, *size) → rows (N, C, *size) → L patches of V values; K visible ones → encoder (N, K, D) →
    decoder (N, L, V).

    Args:
        encoder: a ViT or VideoViT; its patches are what is hidden.
        views: how crops or windows are drawn and augmented; a count of 1 serves.
        mask_ratio: share of hidden patches; ``auto`` by kind: 0.75 images, 0.8 volumes, 0.9 video, 0.5 signals.
        mask_kind: ``"random"`` patches; ``"tube"`` the same patches in all frames (or slices) along the first axis;
            ``"block"`` groups of neighbouring patches.
        block: patches of a group along each axis, for ``"block"``.
        target: patches standardised over all values (``"token"``), within each channel (``"token_channel"``), or as
            they are (``"raw"``).
        min_token_std: smallest standard deviation that is brought to 1, in units of network input.
        decoder_width: features of the decoder, even.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        ignore_background: leave hidden patches out of the error that show nothing but what lies outside the body or
            the recording. They are still seen where they are visible, as in fine-tuning.
        optim: optimiser settings.
    """

    encoder: TokenEncoder

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        mask_ratio: float | Literal["auto"] = "auto",
        mask_kind: Literal["random", "tube", "block"] = "random",
        block: int | tuple[int, ...] = 2,
        target: Target = "token",
        min_token_std: float = 0.02,
        decoder_width: int = 512,
        decoder_depth: int = 4,
        decoder_heads: int = 16,
        ignore_background: bool = True,
        optim: Optim | None = None,
    ) -> None:
        if not isinstance(encoder, TokenEncoder):
            raise ConfigError(
                f"MaskedAutoencoder hides patches from a ViT; {type(encoder).__name__} has none to leave out: choose "
                "ViT, VideoViT for video, or SparK for convolutions"
            )
        super().__init__(
            encoder, views, patch=encoder.patch, target=target, min_token_std=min_token_std,
            ignore_background=ignore_background, optim=optim or Optim(lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95)),
        )  # fmt: skip
        self.mask_ratio: float | None = None if mask_ratio == "auto" else float(mask_ratio)
        given = 0.5 if self.mask_ratio is None else self.mask_ratio
        if not 0 < given < 1 or mask_kind not in ("random", "tube", "block"):
            raise ConfigError(
                "MaskedAutoencoder takes a mask_ratio between 0 and 1 and a mask_kind of random, tube or block, not "
                f"{mask_ratio} and {mask_kind}"
            )
        self.mask_kind, self.block = mask_kind, block
        for family in views.families:
            self.group_of(encoder.grid_of(family.size))
        if decoder_width % decoder_heads or decoder_width % 2 or decoder_width < 2 * encoder.dims or decoder_depth < 1:
            raise ConfigError(
                f"MaskedAutoencoder's decoder needs an even width that is a multiple of its heads and at least one "
                f"block, not {decoder_width}, {decoder_heads} and {decoder_depth}"
            )
        self.decoder = TokenDecoder(
            encoder.out_dim, encoder.in_channels * torch.Size(self.patch).numel(), self.grid,
            hidden=decoder_width, depth=decoder_depth, heads=decoder_heads,
        )  # fmt: skip

    def loss(self, batch: Batch) -> Losses:
        """Hide, encode what is left, decode, and compare what was hidden."""
        rows, counted = self.rows(batch)
        family = self.views.family_of(batch)
        grid, ratio = self.encoder.grid_of(family.size), self.ratio_of(family)
        group = self.group_of(grid)
        hidden = random_mask(len(rows), grid, ratio, self.generator, group=group).flatten(1)
        seen = visible_cells(grid, ratio, group=group)
        places = hidden.to(torch.uint8).argsort(stable=True, dim=1)[:, :seen]
        tokens = self.encoder.tokens(rows)
        encoded = self.encoder.encode(tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])))
        encoded = encoded[:, self.encoder.leading :]
        prediction = self.decoder(encoded, places, grid)
        total, terms = self.score(prediction, rows, hidden, counted, family.size)
        return Losses(total, terms, encoded.detach().float().mean(1))

    def ratio_of(self, family: Views) -> float:
        """Share of patches that are hidden of what a family cuts."""
        return MASK_RATIOS[_kind(family)] if self.mask_ratio is None else self.mask_ratio

    def group_of(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Patches along each axis that are hidden together."""
        axes = len(grid)
        if self.mask_kind == "tube":
            if axes == 1 or torch.Size(grid[1:]).numel() < 2:
                raise ConfigError(
                    f"tubes run through all frames, and a grid of {grid} patches has only one; choose random or block "
                    "for mask_kind"
                )
            return (grid[0], *(1,) * (axes - 1))
        edges = per_axis(self.block, axes, "the block") if self.mask_kind == "block" else (1,) * axes
        if all(edge >= g for edge, g in zip(edges, grid, strict=True)):
            raise ConfigError(
                f"a block of {edges} patches hides all of a grid of {grid}; choose a smaller one for block"
            )
        return edges


def _codes(grid: tuple[int, ...], hidden: int) -> Tensor:
    return STRENGTH * sine_positions(grid, hidden, slowest=float(max(grid)))


def _kind(views: Views) -> str:
    """What a view is: an image is a volume of one slice where it has three axes."""
    if len(views.size) == 2 or (len(views.size) == 3 and views.size[0] == 1):
        return "image"
    return views.kind


def _initialise(module: nn.Module) -> None:
    """Xavier's scale, as in MAE (a fixed small one would all but silence a narrow decoder); queries equal keys."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        queries, keys, values = module.in_proj_weight.data.chunk(3)
        nn.init.normal_(queries, std=STRENGTH / math.sqrt(module.embed_dim))
        keys.copy_(queries)
        nn.init.xavier_uniform_(values)
