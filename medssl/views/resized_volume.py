"""Random shares of volumes, resized: views of recordings that have little in common but being volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl.errors import ConfigError
from medssl.views.base import Sample
from medssl.views.placement import uniform_start
from medssl.views.resized import read_resized
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["ResizedVolumeViews"]


class ResizedVolumeViews(VolumeViews):
    """Random resized crops of volumes (M3Ret, 2025): each covers a share of the volume, whatever its size in voxels.

    Unlike ``VolumeViews``, whose crops have one size in voxels or millimetres, these show a whole organ and a whole
    body alike; things have no fixed size in them. Crops have the ratio of height and width that ``size`` has.

    Args:
        size: in voxels (z, y, x) that every crop is resized to.
        count: crops of a volume.
        scale: smallest and largest share of the plane (y, x), of the largest crop of its ratio.
        depth: smallest and largest share of the slices.
        augmentation: transforms and strengths.

    Raises:
        ConfigError: shares that do not rise above 0 up to 1.
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        count: int = 2,
        scale: tuple[float, float] = (0.4, 1.0),
        depth: tuple[float, float] = (0.5, 1.0),
        augmentation: VolumeAugmentation | None = None,
    ) -> None:
        super().__init__(size, count=count, augmentation=augmentation)
        if any(not 0 < low <= high <= 1 for low, high in (scale, depth)):
            raise ConfigError(
                "ResizedVolumeViews takes a scale and a depth of two rising numbers above 0, up to 1, not "
                f"{scale} and {depth}"
            )
        self.scale, self.depth = (scale[0], scale[1]), (depth[0], depth[1])

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Crops of one volume: ``x`` (count, C, *size) stored integers, ``starts`` and ``extents`` (count, 3)."""
        extents = [self._share(reader.shape, rng) for _ in range(self.count)]
        starts = [uniform_start(reader.shape, extent, rng) for extent in extents]
        crops = [
            read_resized(reader, start.tolist(), extent, self.size)
            for start, extent in zip(starts, extents, strict=True)
        ]
        fields = {**reader.input_fields(), "x": np.stack(crops)}
        return {**fields, "starts": np.stack(starts), "extents": np.array(extents, np.int64)}

    def _share(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
        """Voxels (z, y, x) that one crop covers."""
        slices, *plane = shape
        edge = min(n / s for n, s in zip(plane, self.size[1:], strict=True)) * np.sqrt(rng.uniform(*self.scale))
        height, width = (min(n, max(1, round(s * edge))) for n, s in zip(plane, self.size[1:], strict=True))
        return max(1, round(slices * rng.uniform(*self.depth))), height, width
