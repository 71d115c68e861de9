"""Slices exported as PNG files → one volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.png import read_png
from medssl.adapters.recording import Recording, sha256_of
from medssl.errors import UnreadableRecording

__all__ = ["read_image_stack"]


def read_image_stack(files: Path | str | Sequence[Path | str]) -> Recording:
    """Reads PNG files of equal size, in the order given, as the slices of one grey volume.

    They know neither voxel size nor orientation, so the recording has no affine; whoever calls knows where
    to take it from. Colour files whose three channels are equal are grey, with a note; others are refused, since a
    weighted mean of colours is no measurement.

    Args:
        files: one slice a file; a single file is a volume of one slice.

    Returns:
        A recording with axes ``"zyx"``: rows of the pictures along y, columns along x.

    Raises:
        UnreadableRecording: no files, one that is missing, empty, damaged or coloured, or sizes that differ.
    """
    paths = [Path(files)] if isinstance(files, str | Path) else [Path(f) for f in files]
    if not paths:
        raise UnreadableRecording("there are no slices to stack", "")
    slices, coloured = zip(*(_read_slice(path) for path in paths), strict=True)
    for path, plane in zip(paths, slices, strict=True):
        if plane.shape != slices[0].shape:
            raise UnreadableRecording(
                f"its size {_size(plane)} differs from {_size(slices[0])} of the first slice, {paths[0].name}", path
            )
    return Recording(
        data=np.stack(slices),
        axes="zyx",
        units=("",),
        source=str(paths[0].parent if len(paths) > 1 else paths[0]),
        source_sha256=sha256_of(*paths),
        notes=("colour files with three equal channels read as grey",) if any(coloured) else (),
    )


def _read_slice(path: Path) -> tuple[NDArray[Any], bool]:
    """(Y, X) and whether the file was a colour file."""
    plane = read_png(path)
    if plane.ndim == 2:
        return plane, False
    if plane.ndim != 3 or plane.shape[-1] != 3:
        raise UnreadableRecording(f"it has transparency, not grey values alone (its array is {plane.shape})", path)
    if not (plane == plane[..., :1]).all():
        raise UnreadableRecording("it is coloured: its red, green and blue differ", path)
    return plane[..., 0], True


def _size(plane: NDArray[Any]) -> str:
    return "x".join(str(n) for n in plane.shape)
