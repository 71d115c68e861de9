"""Small runs and atlases as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

AFFINE = np.array([[3.0, 0, 0, -12], [0, 3.0, 0, -13], [0, 0, 3.5, -9], [0, 0, 0, 1]])
SHAPE = (8, 7, 6)


def write_image(
    file: Path, values: np.ndarray, affine: np.ndarray = AFFINE, *, tr_s: float | None = None, unit: str = "sec"
) -> Path:
    image: Any = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", unit)
    if tr_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    nibabel.save(image, file)
    return file


def bold(volumes: int = 20, *, seed: int = 0) -> np.ndarray:
    """(8, 7, 6, T) around 1000."""
    return 1000 + 10 * np.random.default_rng(seed).normal(size=(*SHAPE, volumes))


def labels() -> np.ndarray:
    """Four regions with the numbers 1, 2, 5, 9."""
    values = np.zeros(SHAPE, dtype=np.int16)
    values[1:3, 1:6, 1:5], values[3:5, 1:6, 1:5] = 1, 2
    values[5:7, 1:3, 1:5], values[5:7, 4:6, 1:5] = 5, 9
    return values


def means(values: np.ndarray, regions: np.ndarray, keep: np.ndarray | bool = True) -> np.ndarray:
    """(N, T), one region after the other."""
    return np.stack([values[(regions == i) & keep].mean(axis=0) for i in np.unique(regions[regions > 0])])
