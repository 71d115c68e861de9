"""Masked value prediction: runs of single values of a signal are hidden, and told by any encoder."""

from __future__ import annotations

from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.masked_reconstruction import MaskedReconstruction
from medssl.methods.projectors import dropout
from medssl.objectives.masked_reconstruction import unpatchify
from medssl.objectives.masks import hidden_runs
from medssl.optim import Optim
from medssl.views.base import Batch, Views

__all__ = ["MaskedValues"]


class MaskedValues(MaskedReconstruction):
    """Masked value prediction (Zerveas et al., KDD 2021; MVP of tsai): tell hidden runs of values of a signal.

    The relative of ``MaskedAutoencoder`` for encoders other than a ViT: runs of single samples are hidden, in each
    channel for itself, as zeros in the input; one linear map of each step tells them. The error is that of hidden
    values.

    Shapes: rows (N, C, T), hidden (N, C, T) → last map (N, D, S) → values (N, C, T).

    Args:
        encoder: of signals, best of one map of full length (TS2Vec, InceptionTime, XceptionTime, TST); a step of a
            strided map tells all samples of its stride.
        views: how windows are drawn and augmented; a count of 1 serves.
        mask_ratio: expected share of hidden values.
        mean_length: mean length of hidden runs in samples. Published: 3, of series with slow sampling; what is short
            against the waves of a signal can be interpolated, and teaches little.
        sync: hide the same samples in all channels; else the other channels help to tell.
        variable: each row and channel has its own share, from 0 to twice the ratio.
        dropout: of the features that values are told from.
        ignore_background: leave samples out of the error where nothing was recorded in any channel (padding).
        optim: optimiser settings.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        mask_ratio: float = 0.15,
        mean_length: float = 3.0,
        sync: bool = False,
        variable: bool = False,
        dropout: float = 0.1,
        ignore_background: bool = True,
        optim: Optim | None = None,
    ) -> None:
        if encoder.dims != 1:
            raise ConfigError(
                f"MaskedValues hides values of signals, but {type(encoder).__name__} takes {encoder.dims} axes; choose "
                "MaskedAutoencoder or SparK for volumes"
            )
        super().__init__(
            encoder, views, patch=(1,), target="raw", min_token_std=0.0, ignore_background=ignore_background,
            optim=optim or Optim(lr=1e-3, weight_decay=1e-4),
        )  # fmt: skip
        most = 2 * mask_ratio if variable else mask_ratio
        if not (0 < most < 1 and mean_length * (1 - most) >= 1 - 1e-9 and 0 <= dropout < 1):
            raise ConfigError(
                f"MaskedValues takes a mask_ratio between 0 and 1 (below 0.5 if variable), a mean_length of at least "
                f"1 / (1 - ratio) samples and a dropout below 1, not {mask_ratio}, {mean_length} and {dropout}"
            )
        self.mask_ratio, self.mean_length, self.sync, self.variable = mask_ratio, mean_length, sync, variable
        self.dropout, self.stride = dropout, encoder.strides[-1]
        self.tell = nn.Linear(encoder.channels[-1], self.stride[0] * encoder.in_channels)

    def loss(self, batch: Batch) -> Losses:
        """Hide, encode, tell, and compare what was hidden."""
        rows, counted = self.rows(batch)
        hidden = hidden_runs(
            rows.shape, self.mask_ratio, self.mean_length, generator=self.generator, sync=self.sync,
            variable=self.variable,
        )  # fmt: skip
        pooled, maps = self.encoder(rows.masked_fill(hidden, 0.0))
        steps = maps[-1].transpose(1, 2)
        if self.training:
            steps = dropout(steps, self.dropout, self.generator)
        told = self.values(steps, rows.shape[-1])
        total, terms = self.score(told, rows, hidden.transpose(1, 2), counted)
        return Losses(total, {**terms, "hidden": hidden.float().mean()}, pooled.detach().float())

    def values(self, steps: Tensor, length: int) -> Tensor:
        """Values that steps of the map tell: (N, S, D) → (N, T, C)."""
        whole = unpatchify(self.tell(steps), (steps.shape[1],), self.stride)
        return whole[..., :length].transpose(1, 2)
