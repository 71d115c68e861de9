"""SparK: masked reconstruction for convolutional networks, which see hidden places as absent and not as black."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.blocks import per_axis
from medssl.encoders.sparse import refuse_dense, sparse
from medssl.errors import ConfigError
from medssl.heads.decoder import Decoder
from medssl.methods.base import Losses
from medssl.methods.masked_reconstruction import MaskedReconstruction
from medssl.objectives.masked_reconstruction import Target, patchify, random_mask, visible_cells
from medssl.optim import Optim
from medssl.views.base import Batch, Views
from medssl.views.corruption import enlarged

__all__ = ["SparK"]


class SparK(MaskedReconstruction):
    """Masked reconstruction by convolutions (SparK, ICLR 2023; MAE of OpenMind, ICCV 2025): tell hidden blocks.

    Blocks of the coarsest stride are hidden. As sparse convolutions do, the encoder works on visible places alone: what
    is hidden is 0 after every convolution, and norms take their statistics over what is visible. At every scale a
    learned vector then stands where cells are hidden, and the decoder of fine-tuning tells the whole input, so that it
    can be handed on with the encoder. The published code puts a norm and a convolution between each scale and its own
    decoder; here the decoder takes the maps as they are.

    Shapes: rows (N, C, *size), L blocks; maps (N, C_i, *size / S_i) → decoder (N, C, *size).

    Args:
        encoder: of convolutions and instance norms (ResEnc); any with a decoder where ``sparse`` is off.
        views: how crops or windows are drawn and augmented; a count of 1 serves.
        mask_ratio: share of hidden blocks (SparK: 0.6; OpenMind: 0.75).
        sparse: off: hidden places are 0 for an ordinary network, as the MAE of OpenMind has it for convolutions.
        block: edges of a hidden block, one number or one an axis; None: the coarsest stride. With ``sparse`` multiples
            of it (OpenMind's MAE: 16).
        target: blocks standardised over all values (``"token"``), within each channel (``"token_channel"``), or as
            they are (``"raw"``).
        min_token_std: smallest standard deviation that is brought to 1, in units of network input.
        ignore_background: leave hidden blocks out of the error that show nothing but what lies outside the body or the
            recording.
        optim: optimiser settings.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        mask_ratio: float = 0.6,
        sparse: bool = True,
        block: int | tuple[int, ...] | None = None,
        target: Target = "token",
        min_token_std: float = 0.02,
        ignore_background: bool = True,
        optim: Optim | None = None,
    ) -> None:
        coarsest = encoder.strides[-1]
        edges = coarsest if block is None else per_axis(block, encoder.dims, "the block")
        super().__init__(
            encoder, views, patch=edges, target=target, min_token_std=min_token_std,
            ignore_background=ignore_background, optim=optim or Optim(lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95)),
        )  # fmt: skip
        if not 0 < mask_ratio < 1:
            raise ConfigError(f"SparK takes a mask_ratio between 0 and 1, not {mask_ratio}")
        self.mask_ratio, self.sparse = mask_ratio, sparse
        if sparse:
            refuse_dense(encoder, "SparK")
            if any(edge % step for edge, step in zip(edges, coarsest, strict=True)):
                raise ConfigError(
                    f"SparK hides whole cells of the coarsest map, of {coarsest}; a block of {edges} is no multiple: "
                    "change block, or set sparse to false"
                )
            cells = visible_cells(self.grid, mask_ratio) * math.prod(edges) // math.prod(coarsest)
            if cells < 2:
                raise ConfigError(
                    f"SparK leaves a single cell of a size of {views.size} visible, which instance norm turns into "
                    "zeros; use a larger crop or a smaller mask_ratio"
                )
            self.mask_tokens = nn.ParameterList(
                nn.Parameter(0.02 * torch.randn(1, width, *(1,) * encoder.dims)) for width in encoder.channels
            )
        self.decoder = Decoder(encoder, encoder.in_channels)

    @property
    def decoder_exported(self) -> Decoder:
        """The decoder that fine-tuning may start from; its last layer tells the input's channels."""
        return self.decoder

    def loss(self, batch: Batch) -> Losses:
        """Hide, encode what is left, decode, and compare what was hidden."""
        rows, counted = self.rows(batch)
        hidden = random_mask(len(rows), self.grid, self.mask_ratio, self.generator)
        shown = rows.masked_fill(enlarged(hidden, self.input_size), 0)
        maps, pooled = self._encode(shown, ~hidden)
        prediction = patchify(self.decoder(shown, maps)[0], self.patch)
        total, terms = self.score(prediction, rows, hidden.flatten(1), counted)
        return Losses(total, terms, pooled.detach().float())

    def _encode(self, shown: Tensor, visible: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps without gaps, fine to coarse, and the mean (N, D) of what is visible of the coarsest."""
        if not self.sparse:
            features = self.encoder(shown)
            return features.maps, features.pooled
        with sparse(self.encoder, visible):
            maps = self.encoder(shown).maps
        masks = [enlarged(visible, m.shape[2:]) for m in maps]
        pooled = maps[-1].flatten(2).sum(2) / masks[-1].flatten(2).sum(2)
        filled = [
            torch.where(mask, each, token.to(each.dtype))
            for each, mask, token in zip(maps, masks, self.mask_tokens, strict=True)
        ]
        return filled, pooled
