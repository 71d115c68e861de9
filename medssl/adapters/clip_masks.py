"""Label masks of whole clips, as files that any viewer of medical images can scroll through."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_clip_mask"]


def write_clip_mask(
    path: Path,
    labels: NDArray[np.unsignedinteger],
    *,
    spacing_mm: tuple[float, ...] | None = None,
    rate_hz: float | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """Writes a NIfTI file with the axes columns, rows, frames, as CAMUS publishes its sequences and masks.

    Third voxel size: seconds from frame to frame; 1 where the rate is not known, as the first two are where the size
    of a pixel is not. The grid has no place in a patient: neither qform nor sform is set. The file appears at once and
    whole.

    Args:
        path: ``.nii`` or ``.nii.gz``; its folder must exist.
        labels: (T, Y, X).
        spacing_mm: (y, x) of a pixel.
        rate_hz: frames a second.
        names: what each label means; kept in the file, as in other masks.
    """
    import nibabel

    image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), None)
    y, x = spacing_mm or (1.0, 1.0)
    image.header.set_zooms((x, y, 1 / rate_hz if rate_hz else 1.0))
    image.header.set_xyzt_units("mm" if spacing_mm else "unknown", "sec" if rate_hz else "unknown")
    if names:
        text = json.dumps({"labels": {str(k): v for k, v in sorted(names.items())}}, ensure_ascii=False)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", text.encode()))
    # the suffix decides the format, so the temporary name keeps it
    partial = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        nibabel.save(image, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
