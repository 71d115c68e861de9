"""A 2-D encoder on volumes, and a small transformer that makes one vector of all slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medssl.encoders.base import Encoder, Features
from medssl.encoders.slice_attention import Attend, SliceAttention, filled_mean
from medssl.encoders.slice_wise import SliceWise
from medssl.errors import ConfigError
from medssl.objectives.base import promoted
from medssl.objectives.pairs import unit

__all__ = ["SliceProjection", "SliceTransformer", "level_vectors"]

RECOMPUTED = 128  # slices whose maps are in memory at once


def level_vectors(maps: Sequence[Tensor], *, repeat_last: bool = False) -> Tensor:
    """What all levels of an encoder say of each slice: averages of the maps, each at unit length, one behind the other.

    Args:
        maps: (B, C_i, Z, *plane_i), fine to coarse.
        repeat_last: the last level once more, as in the released code.

    Returns:
        (B, Z, sum of C_i), float32 at least.
    """
    levels = [unit(promoted(m).flatten(3).mean(-1).mT) for m in maps]
    return torch.cat([*levels, levels[-1]] if repeat_last else levels, dim=-1)


class SliceProjection(nn.Module):
    """Levels of slices (B, Z, levels) → (B, Z, width): centred and scaled over all slices of a batch, then linear.

    The released network normalises over the batch in all its layers, so that averages of its maps differ from slice to
    slice. Encoders that normalise each slice for itself, as most here do, leave averages that are nearly the same for
    all slices, from which nothing is learned without this (in evaluation, running statistics take its place).

    Args:
        levels: features in.
        width: features out.
    """

    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(levels, affine=False)
        self.linear = nn.Linear(levels, width)

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        rows = x.flatten(0, 1)
        if self.training and len(rows) < 2:  # one slice has no spread
            rows = functional.batch_norm(rows, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        else:
            rows = self.norm(rows)
        projected: Tensor = self.linear(rows).unflatten(0, x.shape[:2])
        return projected


class SliceTransformer(SliceWise):
    """A 2-D encoder whose slice vectors a transformer joins to a vector of the volume (Nguyen et al., AAAI 2023).

    Each slice's maps are averaged, put at unit length and projected (``slice_vectors``); layers of deformable attention
    compare the slices, and their mean is the volume's vector (``volume_vectors``). An image is a volume of one slice.

    Maps: as of ``SliceWise``. Pooled: the volume's vector, or the mean of what the 2-D encoder pools of each slice.

    Args:
        encoder: of images, ``dims`` 2.
        width: of slice and volume vectors, a multiple of 8.
        layers: of attention.
        hidden: of each layer's network.
        attend: ``"slices"`` or, as released, ``"embedding"``; see ``SliceAttention``.
        slices: of a volume, for ``attend: embedding``.
        dropout: of the layers.
        repeat_last: project the last level twice, as in the released code.
        pool: ``"slices"``: the mean over slices, without the transformer; ``"volume"``: the volume's vector.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        width: int = 640,
        layers: int = 4,
        hidden: int = 720,
        attend: Attend = "slices",
        slices: int = 64,
        dropout: float = 0.1,
        repeat_last: bool = False,
        pool: Literal["slices", "volume"] = "slices",
    ) -> None:
        super().__init__(encoder)
        if width < 1 or layers < 1 or hidden < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                "SliceTransformer takes a width, layers and hidden features of 1 or more and a dropout from 0 to below "
                f"1, not {width}, {layers}, {hidden} and {dropout}"
            )
        self.repeat_last, self.pool, self.width = repeat_last, pool, width
        self.out_dim = width if pool == "volume" else encoder.out_dim
        levels = (*encoder.channels, encoder.channels[-1]) if repeat_last else encoder.channels
        self.projection = SliceProjection(sum(levels), width)
        self.attention = SliceAttention(
            width, layers=layers, hidden=hidden, attend=attend, slices=slices, dropout=dropout
        )

    def forward(self, x: Tensor) -> Features:
        """See ``Encoder.forward``: (B, C, Z, Y, X)."""
        features = super().forward(x)
        if self.pool == "slices":
            return features
        vectors = self.projection(self._levels(features))
        return Features(self.volume_vectors(self.attention(vectors)), features.maps)

    def slice_vectors(self, x: Tensor, *, recompute: bool = False) -> Tensor:
        """(B, C, Z, Y, X) → (B, Z, width).

        Args:
            x: volumes.
            recompute: run the 2-D encoder once more in the backward pass, on some slices at a time, instead of keeping
                its maps.
        """

        def levels(volumes: Tensor) -> Tensor:
            return self._levels(SliceWise.forward(self, volumes))

        if recompute and torch.is_grad_enabled():
            slices = x.transpose(1, 2).flatten(0, 1).unsqueeze(2).split(RECOMPUTED)
            found = torch.cat([checkpoint(levels, part, use_reentrant=False) for part in slices])
            found = found.view(len(x), -1, found.shape[-1])
        else:
            found = levels(x)
        vectors: Tensor = self.projection(found)
        return vectors

    @staticmethod
    def volume_vectors(attended: Tensor, filled: Tensor | None = None) -> Tensor:
        """(B, n, width) after attention and (B, n) booleans of slices that are there → (B, width)."""
        return filled_mean(attended, filled)

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``."""
        super().check_input(channels, size)
        if self.pool == "volume" and self.attention.attend == "embedding" and size[0] != self.attention.slices:
            raise ConfigError(
                f"SliceTransformer attends along the embedding of exactly {self.attention.slices} slices, not of the "
                f"{size[0]} of {size}; change the crop, or attend to slices"
            )

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Those of the encoder, then projection and transformer."""
        rest = [(n, p) for n, p in self.named_parameters() if not n.startswith("encoder.")]
        return [*super().layers(), rest]

    def _levels(self, features: Features) -> Tensor:
        return level_vectors(features.maps, repeat_last=self.repeat_last)
