"""TS2Vec: steps and samples of two overlapping crops are told apart, on all time scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.methods.averaging import WeightAveraged
from medssl.methods.base import Losses, Readable
from medssl.methods.of_views import OfViews
from medssl.methods.step_wise import encode_steps, refuse_strided
from medssl.objectives.hierarchical import ts2vec_losses
from medssl.objectives.step_masks import StepMask, check_mask, step_mask
from medssl.objectives.weighting import PairWeighting
from medssl.optim import Optim
from medssl.views.base import Batch
from medssl.views.overlapping import cut, draw_overlapping
from medssl.views.signal import SignalViews

if TYPE_CHECKING:
    pass

__all__ = ["TS2Vec"]


class TS2Vec(WeightAveraged, OfViews):
    """TS2Vec (Yue et al., AAAI 2022): a step must look the same in two contexts, and unlike other steps and samples.

    Each window is cropped twice at random, and steps of both crops are hidden. The vectors of the steps that both crops
    show are contrasted within a window (with the other steps) and at each step (with the other windows of the batch of
    one device), at full length and after every halving of the time axis. What is exported is the mean of the encoder's
    weights over the training.

    Shapes: N = B · views rows (C, T) → crops (N, C, ≤ T) → maps of their overlap (N, ≤ T, D).

    Args:
        encoder: with one map of full length (its namesake ``medssl.encoders.ts2vec.TS2Vec``, as published). Steps are
            hidden behind its input layer where its ``forward`` takes a ``mask``; any other encoder (``InceptionTime``)
            sees zeros there in its input.
        views: windows of a recording and their augmentation (published: one window, none); several windows of a
            recording are told apart as those of others are.
        alpha: share of the contrast with other windows, from 0 to 1.
        temporal_unit: u, the first scale at which steps are told apart; crops overlap in at least 2^(u+1) steps.
        mask: of the steps of each crop.
        weighting: weights of the recordings; it gets the mean loss of their windows.
        optim: optimiser settings (published: AdamW, 1e-3; 16 windows a step).
    """

    def __init__(
        self,
        encoder: Encoder,
        views: SignalViews,
        *,
        alpha: float = 0.5,
        temporal_unit: int = 0,
        mask: StepMask = "binomial",
        weighting: PairWeighting | None = None,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(encoder, optim or Optim(lr=1e-3, weight_decay=0.01, schedule="constant", warmup=0))
        refuse_strided(encoder, "TS2Vec")
        check_mask("TS2Vec's mask", mask)
        self.views, self.alpha, self.temporal_unit, self.mask = views, alpha, temporal_unit, mask
        self.weighting = weighting
        if not 0 <= alpha <= 1 or temporal_unit < 0:
            raise ConfigError(
                f"TS2Vec takes an alpha from 0 to 1 and a temporal_unit of 0 or more, not {alpha} and {temporal_unit}"
            )
        if self.least > views.size[0]:
            raise ConfigError(
                f"with a temporal_unit of {temporal_unit} TS2Vec's crops overlap in {self.least} steps or more, but "
                f"windows have {views.size[0]}; lower temporal_unit or enlarge the views' size"
            )

    @property
    def least(self) -> int:
        """Fewest steps that two crops share."""
        return int(2 ** (self.temporal_unit + 1))

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``: memory of single recordings, where they are weighed."""
        if self.weighting is not None:
            self.weighting.remember(len(source.places))

    def loss(self, batch: Batch) -> Losses:
        """Crop twice, hide steps, encode, and contrast what both crops show."""
        views = self.views(batch, self.generator)
        x = views.flatten(0, 1)
        crops = draw_overlapping(len(x), x.shape[2], self.generator, least=self.least)
        (one, pooled), (other, _) = (
            self._encode(cut(x, start, length)) for start, length in zip(crops.starts, crops.lengths, strict=True)
        )
        losses = ts2vec_losses(
            one[:, -crops.overlap :], other[:, : crops.overlap], alpha=self.alpha, temporal_unit=self.temporal_unit
        )
        of_recordings = losses.unflatten(0, views.shape[:2]).mean(0)
        terms = {"overlap": torch.tensor(crops.overlap / x.shape[2], device=x.device)}
        if self.weighting is not None and self.training:
            of_recordings = of_recordings * self.weighting(of_recordings.detach(), batch["row"])
            terms |= self.weighting.logs()
        return Losses(of_recordings.mean(), terms, pooled)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, T) → vectors of the steps (N, T, D), and pooled ones (N, D) without gradient."""
        features = encode_steps(self.encoder, x, step_mask(self.mask, len(x), x.shape[2], self.generator))
        return features.maps[0].mT, features.pooled.detach().float()
