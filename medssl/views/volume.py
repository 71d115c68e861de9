"""Crops of volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.errors import ConfigError
from medssl.views.base import Sample
from medssl.views.batch_style import VolumeStyle
from medssl.views.placement import Start, centred_start, covered, nearby_start, read_crops, uniform_start
from medssl.views.resized import read_resized
from medssl.views.spatial import SpatialViews
from medssl.views.volume_augment import STYLE, VolumeAugmentation, apply_intensity, apply_spatial, draw_parameters

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["VolumeViews"]


class VolumeViews(SpatialViews):
    """Crops of one volume that overlap, each augmented for itself.

    The first crop lies anywhere, or about a voxel of the body; the others share at least ``min_overlap`` of their
    volume with it, so that all show the same anatomy.

    Args:
        size: crop in voxels (z, y, x).
        count: crops of a volume.
        min_overlap: least shared volume with the first crop, 0 to 1.
        foreground: share of volumes whose first crop is centred about a voxel of the body.
        size_mm: extent (z, y, x) that is read and resized to ``size``; for cohorts whose volumes keep their own
            spacing. None reads ``size`` voxels.
        augmentation: transforms and strengths.
        batch_style: give all volumes of a batch the style of one of them, another one for every view.
    """

    kind = "volume"

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        count: int = 2,
        min_overlap: float = 0.5,
        foreground: float = 0.5,
        size_mm: tuple[float, float, float] | None = None,
        augmentation: VolumeAugmentation | None = None,
        batch_style: VolumeStyle | None = None,
    ) -> None:
        if len(size) != 3 or any(s < 1 for s in size) or count < 1:
            raise ConfigError(f"VolumeViews needs three positive sizes and a count of at least 1, not {size}, {count}")
        if not (0 <= min_overlap <= 1 and 0 <= foreground <= 1):
            raise ConfigError(
                f"VolumeViews takes min_overlap and foreground from 0 to 1, not {min_overlap} and {foreground}"
            )
        self.size = tuple(int(s) for s in size)
        self.count = count
        self.min_overlap, self.foreground = min_overlap, foreground
        self.size_mm = size_mm
        self.augmentation = augmentation or VolumeAugmentation()
        self.batch_style = batch_style

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Crops of one volume: ``x`` (count, C, *size) stored integers, ``starts`` (count, 3), and input fields."""
        extent = self._extent(reader)
        starts = self._starts(reader, extent, rng)
        style = {} if self.batch_style is None else self.batch_style.fields(reader, extent, self.size)
        return {**reader.input_fields(), **style, "x": self._read(reader, starts, extent), "starts": np.stack(starts)}

    def draw_parameters(self, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """What ``apply`` needs for a batch of that shape; keep it to replay the views."""
        return self._jittered_alike(draw_parameters(shape, self.augmentation, generator), STYLE)

    def move(self, x: Tensor, parameters: dict[str, Tensor], *, nearest: bool = False) -> Tensor:
        """See ``SpatialViews.move``: flips, turns, rotation and scaling."""
        return apply_spatial(x, parameters, nearest=nearest)

    def tint(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """See ``SpatialViews.tint``."""
        return apply_intensity(x, parameters)

    def _extent(self, reader: Reader) -> tuple[int, ...]:
        """Voxels of this volume that one crop covers."""
        return covered(reader, self.size, self.size_mm)

    def _starts(self, reader: Reader, extent: tuple[int, ...], rng: np.random.Generator) -> list[Start]:
        points = reader.foreground() if rng.random() < self.foreground else ()
        if len(points):
            first = centred_start(reader.shape, extent, points[rng.integers(len(points))], rng)
        else:
            first = uniform_start(reader.shape, extent, rng)
        others = [nearby_start(reader.shape, extent, first, self.min_overlap, rng) for _ in range(self.count - 1)]
        return [first, *others]

    def _read(self, reader: Reader, starts: list[Start], extent: tuple[int, ...]) -> NDArray[Any]:
        if extent == self.size:
            return read_crops(reader, starts, self.size)
        return np.stack([read_resized(reader, s.tolist(), extent, self.size) for s in starts])
