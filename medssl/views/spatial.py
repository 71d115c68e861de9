"""What views share whose augmentation moves things in space first, and changes their intensity then."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from medssl.views.base import Views

__all__ = ["SpatialViews"]


class SpatialViews(Views):
    """Views of which masks can be moved along, and that can be shown without their changes of intensity."""

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment every row for itself: (N, C, *size) → (N, C, *size), in the type of ``x``."""
        return self.apply(x, self.draw_parameters(tuple(x.shape), generator))

    def augment_aligned(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See ``Views.augment_aligned``: what moves things stays in both."""
        parameters = self.draw_parameters(tuple(x.shape), generator)
        moved = self.move(x, parameters)
        return self.tint(moved, parameters), moved

    def augment_pair(self, x: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment images and their masks alike: spatial transforms on both, intensities on images only.

        Args:
            x: (N, C, *size), float.
            mask: (N, 1, *size) labels of any type, moved by nearest neighbour.
            generator: on the device of both.
        """
        parameters = self.draw_parameters(tuple(x.shape), generator)
        return self.apply(x, parameters), self.move(mask, parameters, nearest=True)

    def apply(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """Transform (N, C, *size) as the parameters say; the same parameters give the same result."""
        return self.tint(self.move(x, parameters), parameters)

    @abstractmethod
    def draw_parameters(self, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """What ``apply`` needs for a batch of that shape; keep it to replay the views."""

    @abstractmethod
    def move(self, x: Tensor, parameters: dict[str, Tensor], *, nearest: bool = False) -> Tensor:
        """Spatial changes alone; ``nearest`` for labels, whose type is kept."""

    @abstractmethod
    def tint(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """Changes of intensity alone."""
