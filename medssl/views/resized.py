"""Reading a whole box of a volume at another size, with bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["read_fitted", "read_resized"]

SLAB_VOXELS = 16 * 2**20


def read_resized(
    reader: Reader, start: Sequence[int], extent: Sequence[int], size: Sequence[int], *, slab: int = SLAB_VOXELS
) -> NDArray[Any]:
    """A box resized trilinearly (corners aligned), as stored integers.

    The box is read in slabs along z, each resized in the plane at once: no more than ``slab`` voxels of the recording
    and one box of (extent z, size y, size x) are in memory.

    Args:
        reader: of the volume.
        start: first voxel of the box (z, y, x).
        extent: its size in the recording.
        size: its size in the result.
        slab: voxels to read at once.

    Returns:
        (C, *size) in the stored integer type.
    """
    depth = int(extent[0])
    step = max(1, min(depth, slab // max(1, math.prod(int(e) for e in extent[1:]))))
    planes: list[Tensor] = []
    kind: np.dtype[Any] | None = None
    for first in range(0, depth, step):
        count = min(step, depth - first)
        part = reader.read([start[0] + first, *start[1:]], [count, *extent[1:]])
        kind = part.dtype
        tensor = torch.from_numpy(np.ascontiguousarray(part)).float()
        planes.append(functional.interpolate(tensor, size=tuple(size[1:]), mode="bilinear", align_corners=True))
    assert kind is not None
    box = torch.cat(planes, dim=1)[None]
    resized = functional.interpolate(box, size=tuple(size), mode="trilinear", align_corners=True)[0].round_()
    limits = np.iinfo(kind)
    return resized.clamp_(limits.min, limits.max).numpy().astype(kind)


def read_fitted(
    reader: Reader, start: Sequence[int], extent: Sequence[int], size: Sequence[int], key: str = "image"
) -> NDArray[Any]:
    """A box at another size: read as it is where nothing changes, else images trilinearly, masks by the nearest voxel.

    Args:
        reader: of the volume.
        start: first voxel of the box (z, y, x).
        extent: its size in the recording.
        size: its size in the result.
        key: ``"image"`` or ``"mask:NAME"``.

    Returns:
        (C, *size) in the stored integer type; (1, *size) of a mask.
    """
    if tuple(extent) == tuple(size):
        return reader.read(start, size) if key == "image" else reader.read(start, size, key)
    if key == "image":
        return read_resized(reader, start, extent, size)
    box = reader.read(start, extent, key)
    for axis, (e, s) in enumerate(zip(extent, size, strict=True), start=1):
        box = box.take(np.rint(np.linspace(0, e - 1, s)).astype(np.int64), axis=axis)
    return box
