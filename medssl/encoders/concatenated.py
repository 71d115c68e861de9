"""Several encoders side by side: what training in stages leaves behind."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.base import Encoder, Features
from medssl.errors import ConfigError

__all__ = ["Concatenated"]


class Concatenated(Encoder):
    """Pooled features of several encoders of one input, each at unit length, one behind the other; maps of the last.

    Every encoder weighs the same whatever the size of its features (MCL, Zhang et al., ECCV 2024).

    Args:
        encoders: for the same channels and axes; they keep their weights.
    """

    exports_any_size = True

    def __init__(self, encoders: tuple[Encoder, ...]) -> None:
        super().__init__()
        if not encoders:
            raise ConfigError("Concatenated needs at least one encoder")
        inputs = {(e.in_channels, e.dims) for e in encoders}
        if len(inputs) > 1:
            found = ", ".join(f"{type(e).__name__} with {e.in_channels} channels, {e.dims} axes" for e in encoders)
            raise ConfigError(f"Concatenated needs encoders of the same channels and axes, not {found}")
        self.encoders = nn.ModuleList(encoders)
        last = encoders[-1]
        self.in_channels, self.dims = last.in_channels, last.dims
        self.out_dim = sum(e.out_dim for e in encoders)
        self.channels, self.strides = last.channels, last.strides
        self.divisor = tuple(math.lcm(*axis) for axis in zip(*(e.divisor for e in encoders), strict=True))
        self.minimum = tuple(max(axis) for axis in zip(*(e.minimum for e in encoders), strict=True))
        self.position_grids = {
            f"encoders.{i}.{k}": v for i, e in enumerate(encoders) for k, v in getattr(e, "position_grids", {}).items()
        }

    def forward(self, x: Tensor) -> Features:
        """See ``Encoder.forward``."""
        found = [encoder(x) for encoder in self.encoders]
        pooled = [functional.normalize(f.pooled.float(), dim=-1) for f in found]
        return Features(torch.cat(pooled, dim=-1), found[-1].maps)

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``: every encoder has its say."""
        for encoder in self.encoders:
            assert isinstance(encoder, Encoder)
            encoder.check_input(channels, size)

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """See ``Encoder.layers``: layers that are equally far from the output go together."""
        stacks = []
        for place, encoder in enumerate(self.encoders):
            assert isinstance(encoder, Encoder)
            stacks.append([[(f"encoders.{place}.{n}", p) for n, p in group] for group in encoder.layers()])
        depth = max(len(stack) for stack in stacks)
        joined: list[list[tuple[str, nn.Parameter]]] = [[] for _ in range(depth)]
        for stack in stacks:
            for group, named in zip(joined[depth - len(stack) :], stack, strict=True):
                group += named
        return joined
