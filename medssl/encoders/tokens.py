"""What encoders share that see an input as tokens, some of which can be left out."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from medssl.encoders.base import Encoder

__all__ = ["TokenEncoder"]


class TokenEncoder(Encoder):
    """An encoder over patches of its input, any number of which can be encoded without the others.

    Attributes:
        patch: edges of a patch, one an axis.
        leading: tokens that ``encode`` puts before those it was given: 1 for a class token, else 0.
    """

    patch: tuple[int, ...]
    leading: int = 0

    @abstractmethod
    def tokens(self, x: Tensor) -> Tensor:
        """Embedded patches with their positions: (B, C, *spatial) → (B, L, D), in raster order."""

    @abstractmethod
    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens, all or some of them, through the network: (B, N, D) → (B, ``leading`` + N, D)."""

    def grid_of(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Patches along each axis of an input of that size; the last one of an axis may reach beyond it."""
        return tuple((s + p - 1) // p for s, p in zip(size, self.patch, strict=True))
