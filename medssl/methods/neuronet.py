"""NeuroNet: hidden frames of a signal are told from a few visible ones, and two such views are contrasted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.base import Encoder
from medssl.encoders.neuronet import NeuroNet as Frames
from medssl.encoders.neuronet import frame_codes, initialise, transformer_block
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.masked_autoencoder import TokenDecoder
from medssl.methods.of_views import OfViews
from medssl.objectives.base import promoted
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.masked_reconstruction import hidden_error, random_mask, visible_cells
from medssl.optim import Optim
from medssl.views.base import Batch, Views

if TYPE_CHECKING:
    pass

__all__ = ["NeuroNet"]

MASKS = 2


class FrameDecoder(TokenDecoder):
    """The decoder of masked autoencoding with the published start, norms and codes of frames."""

    def __init__(self, width: int, out: int, frames: int, *, hidden: int, depth: int, heads: int) -> None:
        super().__init__(width, out, (frames,), hidden=hidden, depth=depth, heads=heads)
        self.blocks = nn.ModuleList(transformer_block(hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.positions = frame_codes(frames, hidden)
        self.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)


class NeuroNet(OfViews):
    """NeuroNet (2024): masked reconstruction of tokens and contrast of the two masked views, for EEG and other signals.

    A convolutional network makes one token of each overlapping frame of a window. Two random masks leave a fifth of the
    tokens each; from either part a transformer and a small decoder tell the hidden tokens, and the class tokens of the
    two parts are each other's positives (NT-Xent). Tokens are computed once for both, and both masks are one batch. The
    error is that of tokens which are trained themselves: the network can lower it by shrinking them, and only the
    contrast keeps them apart. Watch ``token_spread``.

    Shapes: rows (N, C, T) → tokens (N, F, V) → two masks (2N, K, V) → encoder (2N, 1 + K, D) → decoder (2N, F, V).

    Args:
        encoder: its namesake ``medssl.encoders.neuronet.NeuroNet``.
        views: windows and their augmentation (published: one window of 30 s, none; the masks are the views).
        mask_ratio: share of hidden frames.
        decoder_width: features of the decoder, a multiple of 4 (published: 192 for size T, 256 for B).
        decoder_depth: its blocks (1 for T, 3 for B).
        decoder_heads: its attention heads.
        projector: hidden and output features of the head on the class tokens.
        temperature: τ.
        alpha: weight of the contrast beside the two errors.
        detach_target: the error changes the tokens only where they are seen, not where they are to be told.
        norm_target: every token that is to be told is standardised, so that shrinking it gains nothing.
        optim: optimiser settings (published: AdamW, 1e-5 for 256 windows a step, cosine, no warm-up; search to 3e-4).

    Raises:
        ConfigError: another encoder, or numbers that do not fit each other.
    """

    encoder: Frames

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        mask_ratio: float = 0.8,
        decoder_width: int = 192,
        decoder_depth: int = 1,
        decoder_heads: int = 8,
        projector: tuple[int, int] = (1024, 512),
        temperature: float = 0.05,
        alpha: float = 1.0,
        detach_target: bool = False,
        norm_target: bool = False,
        optim: Optim | None = None,
    ) -> None:
        if not isinstance(encoder, Frames):
            raise ConfigError(
                f"the method NeuroNet hides frames of the encoder NeuroNet; {type(encoder).__name__} has none: choose "
                "that encoder, or another method (Contrastive, MaskedAutoencoder)"
            )
        super().__init__(encoder, optim or Optim(lr=1e-5, weight_decay=0.01, warmup=0))
        if not 0 < mask_ratio < 1 or alpha < 0:
            raise ConfigError(
                f"NeuroNet takes a mask_ratio between 0 and 1 and an alpha of at least 0, not {mask_ratio} and {alpha}"
            )
        if decoder_width % 4 or decoder_width % decoder_heads or decoder_depth < 1:
            raise ConfigError(
                "NeuroNet's decoder needs a width that is a multiple of 4 and of its heads and at least one block, not "
                f"{decoder_width}, {decoder_heads} and {decoder_depth}"
            )
        frames = encoder.frame_count(views.size[0]) if len(views.size) == 1 else 0
        if frames < 2:
            raise ConfigError(
                f"NeuroNet hides frames of {encoder.frame} samples, {encoder.step} apart, and a window of {views.size} "
                "has fewer than two; lengthen the window"
            )
        self.views, self.grid, self.mask_ratio = views, (frames,), mask_ratio
        self.contrast, self.alpha = InfoNCE(temperature=temperature), alpha
        self.detach_target, self.norm_target = detach_target, norm_target
        self.decoder = FrameDecoder(
            encoder.out_dim, encoder.token_dim, frames, hidden=decoder_width, depth=decoder_depth, heads=decoder_heads
        )
        hidden, out = projector
        self.projector = nn.Sequential(
            nn.Linear(encoder.out_dim, hidden), nn.BatchNorm1d(hidden), nn.ELU(), nn.Linear(hidden, out)
        )
        self.projector.apply(initialise)

    def loss(self, batch: Batch) -> Losses:
        """Tokens once, two masks, the error of what is hidden and the contrast of the class tokens."""
        rows = self.views(batch, self.generator).flatten(0, 1)
        if len(rows) < 2:
            raise ConfigError("NeuroNet tells windows of a batch apart and needs at least 2; raise the batch size")
        hidden = random_mask(MASKS * len(rows), self.grid, self.mask_ratio, self.generator)
        return self.compare(self.encoder.tokens(rows), hidden)

    def compare(self, tokens: Tensor, hidden: Tensor) -> Losses:
        """The loss of some masks.

        Args:
            tokens: (N, F, V).
            hidden: (2N, F) booleans, those of the first mask first; as many are hidden in every row.
        """
        twice = tokens.repeat(MASKS, 1, 1)
        places = hidden.to(torch.uint8).argsort(stable=True, dim=1)[:, : visible_cells(self.grid, self.mask_ratio)]
        encoded = self.encoder.encode(twice, places)
        prediction = promoted(self.decoder(encoded[:, 1:], places))
        target = promoted(self._target(twice))
        # the difference to 0: hidden_error gives its target no gradient, and this one has one
        error = MASKS * hidden_error(prediction - target, torch.zeros_like(target), hidden)
        embedded = promoted(self.projector(encoded[:, 0]))
        contrast = self.contrast(embedded.unflatten(0, (MASKS, -1)))
        with torch.no_grad():
            spread = target.var((0, 1), correction=0).mean()
            terms = {
                "reconstruction": error.detach(),
                "contrast": contrast.loss.detach(),
                "explained": 1 - error.detach() / (MASKS * spread).clamp_min(1e-12),
                "token_spread": tokens.detach().float().std((0, 1)).mean(),
                **contrast.logs,
            }
        return Losses(error + self.alpha * contrast.loss, terms, embedded.detach())

    def _target(self, tokens: Tensor) -> Tensor:
        target = tokens.detach() if self.detach_target else tokens
        return functional.layer_norm(target.float(), target.shape[-1:], eps=1e-6) if self.norm_target else target
