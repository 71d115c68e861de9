"""Features of single voxels, from which a linear probe tells in seconds what a segmentation could start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from medssl.evaluation.frozen import Frozen
    from medssl.training.targets import Target

__all__ = ["VoxelSamples", "voxel_samples"]

PER_CLASS = 60  # voxels of each class in a crop
CROPS = 2  # of each recording


class VoxelSamples:
    """Labelled voxels with the features that an encoder has of them.

    Attributes:
        x: (n, D), the maps of all scales side by side, each at the voxel's place.
        y: (n,) classes.
        items: (n,) item of the target that the voxel is of.
    """

    def __init__(self, parts: Sequence[tuple[NDArray[np.float32], NDArray[np.int64], int]]) -> None:
        self.x = np.concatenate([x for x, _, _ in parts])
        self.y = np.concatenate([y for _, y, _ in parts])
        self.items = np.concatenate([np.full(len(y), item) for _, y, item in parts])


def voxel_samples(encoder: Frozen, target: Target, items: NDArray[np.int64], *, seed: int = 0) -> VoxelSamples:
    """Equally many voxels of every class, from crops around structures; the same voxels for every encoder.

    Args:
        encoder: in this study.
        target: masks.
        items: of it.
        seed: of crops and voxels.
    """
    import torch

    from medssl.training.clips import labelled_crops
    from medssl.training.windows import Recordings

    recordings = Recordings(
        target.cohort, channels=encoder.channels, rows=target.rows[items], masks=(target.name,), cache_gb=0.5
    )
    crops = labelled_crops(
        target, items, recordings, size=encoder.size, foreground=1.0, period=encoder.settings.clip_period
    )
    network = encoder.encoder.to(encoder.device).eval()
    parts = []
    for item in items:
        for crop in range(CROPS):
            rng = np.random.default_rng([seed, int(item), crop])
            drawn = crops.draw(int(item), rng)
            x = recordings.network_input(int(target.rows[item]), drawn["x"])
            places = _places(drawn["y"][0], len(target.classes), rng)
            with torch.inference_mode():
                maps = network(torch.from_numpy(x).to(encoder.device)).maps
                found = torch.cat([at_places(m[0], places, encoder.size) for m in maps], dim=1)
            labels = drawn["y"][0][tuple(places.T)].astype(np.int64)
            parts.append((found.float().cpu().numpy(), labels, int(item)))
    return VoxelSamples(parts)


def _places(mask: NDArray[np.uint8], classes: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """(n, 3) voxels, at most ``PER_CLASS`` of every class that is there; in video those of annotated frames."""
    found = []
    for k in range(classes):
        voxels = np.argwhere(mask == k)
        found.append(voxels[rng.permutation(len(voxels))[:PER_CLASS]])
    return np.concatenate(found)


def at_places(features: Tensor, places: NDArray[np.intp], size: Sequence[int]) -> Tensor:
    """A map (D, *cells) at voxels (n, 3) of a crop of ``size``, between cells by linear interpolation: (n, D)."""
    import torch
    from torch.nn import functional

    # the centre of voxel i of n lies at (i + 1/2) 2/n - 1; grid_sample wants x first
    scaled = (torch.from_numpy(places).float() + 0.5) * 2 / torch.tensor(size) - 1
    grid = scaled.flip(-1).view(1, 1, 1, -1, 3).to(features)
    sampled = functional.grid_sample(features[None], grid, padding_mode="border", align_corners=False)
    return sampled[0, :, 0, 0].T
