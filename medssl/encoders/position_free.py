"""An encoder whose features do not tell where a cell lies in the crop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features
from medssl.errors import ConfigError
from medssl.objectives.base import full_precision
from medssl.objectives.positions import PositionMoments, moments, removal_from_moments

__all__ = ["PositionFree"]


class PositionFree(Encoder):
    """Any encoder, with the directions that tell positions taken out of its last map (RASA, Franca, 2025).

    While ``collect`` is on, as it is in pre-training (``position_free`` of Clustering), it is the encoder itself, and
    in training gathers what ridge regression of positions needs: moments of the last map, O(D²), of which each step
    forgets a little, since features change. ``settle`` computes the merged map x ↦ x P of ``removal_from_moments``;
    where ``collect`` is off, as after loading, the last map passes through it, and so does the part of the pooled
    features that comes from it: the last one, as in all encoders here.

    Maps: those of the encoder. Pooled: as the encoder's.

    Args:
        encoder: what is wrapped.
        rounds: of removal, each of as many directions as the encoder has axes; 0 takes nothing out.
        memory: steps after which the moments of a step count for a third.
    """

    exports_any_size = True
    projection: Tensor

    def __init__(self, encoder: Encoder, rounds: int = 3, *, memory: int = 200) -> None:
        super().__init__()
        width = encoder.channels[-1]
        if rounds < 0 or memory < 1:
            raise ConfigError(f"PositionFree takes 0 or more rounds and a memory of 1 or more, not {rounds}, {memory}")
        if encoder.out_dim < width:
            raise ConfigError(
                f"PositionFree wraps encoders that pool their last map; {type(encoder).__name__} does not"
            )
        if rounds * encoder.dims >= width:
            raise ConfigError(
                f"{rounds} rounds of {encoder.dims} axes would leave nothing of the {width} features of the last map; "
                "use fewer rounds"
            )
        self.encoder, self.rounds, self.memory, self.collect = encoder, rounds, memory, False
        self.in_channels, self.dims, self.out_dim = encoder.in_channels, encoder.dims, encoder.out_dim
        self.channels, self.strides = encoder.channels, encoder.strides
        self.divisor, self.minimum = encoder.divisor, encoder.minimum
        self.position_grids = {f"encoder.{k}": v for k, v in getattr(encoder, "position_grids", {}).items()}
        shapes = {"cells": (), "features": (width,), "products": (width, width), "cross": (width, encoder.dims)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("projection", torch.eye(width))

    def forward(self, x: Tensor) -> Features:
        """See ``Encoder.forward``."""
        features: Features = self.encoder(x)
        if not self.collect:
            return self._without_positions(features)
        if self.training and torch.is_grad_enabled():  # a teacher, and looking at features, do not count
            self._remember(features.maps[-1])
        return features

    def settle(self) -> None:
        """Compute what takes positions out from what was gathered; without any, nothing is taken out."""
        self.projection.copy_(removal_from_moments(self.moments, rounds=self.rounds))

    @property
    def moments(self) -> PositionMoments:
        """What was gathered so far."""
        return PositionMoments(*(getattr(self, name) for name in PositionMoments._fields))

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``."""
        self.encoder.check_input(channels, size)

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Those of the encoder."""
        return [[(f"encoder.{name}", p) for name, p in group] for group in self.encoder.layers()]

    @torch.no_grad()
    def _remember(self, last: Tensor) -> None:
        kept = 1 - 1 / self.memory
        for mine, new in zip(self.moments, moments(last), strict=True):
            mine.mul_(kept).add_(new)

    def _without_positions(self, features: Features) -> Features:
        width, last = self.channels[-1], features.maps[-1]
        with full_precision(last.device):
            cleaned = torch.einsum("bd...,de->be...", last, self.projection.to(last.dtype))
            rest, tail = features.pooled.split([self.out_dim - width, width], dim=1)
            pooled = torch.cat([rest, tail @ self.projection.to(tail.dtype)], dim=1)
        return Features(pooled, [*features.maps[:-1], cleaned])
