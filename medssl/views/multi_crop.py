"""Few large crops and several small ones of a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views.base import Batch, Sample, Views

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["MultiCrop"]

_SMALL = "small."


class MultiCrop(Views):
    """Multi-crop (SwAV, NeurIPS 2020; DINO, ICCV 2021): large views, and small ones that show less for less work.

    All views are predicted; targets come from the large ones alone. What one family calls a view is the other's size
    only by chance: any two families of a kind serve, each with its own crops, count and augmentation.

    Args:
        large: family of the large views, usually two.
        small: family of the small ones, usually 4 to 10.

    Raises:
        ConfigError: families of different kinds.
    """

    def __init__(self, large: Views, small: Views) -> None:
        if large.kind != small.kind:
            raise ConfigError(
                f"MultiCrop takes two families of one kind, not {type(large).__name__} of {large.kind}s and "
                f"{type(small).__name__} of {small.kind}s"
            )
        self.large, self.small = large, small
        self.kind, self.size, self.count = large.kind, large.size, large.count

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """See ``Views.sizes``: of large views, then of small ones."""
        return (*self.large.sizes, *self.small.sizes)

    def check(self, info: CohortInfo) -> None:
        """See ``Views.check``, of both families."""
        self.large.check(info)
        self.small.check(info)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What the large views read, and under names that begin with ``small.`` what the small ones do."""
        sample = self.large.draw(reader, rng)
        return sample | {_SMALL + key: value for key, value in self.small.draw(reader, rng).items()}

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """See ``Views.augment``, of large views."""
        return self.large.augment(x, generator)

    def augment_aligned(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See ``Views.augment_aligned``, of large views."""
        return self.large.augment_aligned(x, generator)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Large views of a batch: (V, B, C, *size)."""
        return self.large(batch, generator)

    def crops(self, batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """See ``Views.crops``: large views, then small ones."""
        small = {key.removeprefix(_SMALL): value for key, value in batch.items() if key.startswith(_SMALL)}
        return [*self.large.crops(batch, generator), *self.small.crops(small, generator)]
