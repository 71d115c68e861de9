"""Label masks: read them, carry them between grids, and write them in the source's own geometry."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Recording
from medssl.adapters.volume import read_volume
from medssl.errors import MedSSLError, UnreadableRecording

__all__ = ["read_mask", "resample_labels_to", "write_mask"]

_INTEGRAL = 1e-3  # how far a float may lie from a whole number: scaled headers leave such errors
_SLAB = 1 << 22  # output voxels worked on at once, which bounds the memory of resampling


def read_mask(path: Path | str) -> Recording:
    """Reads a label mask: one volume of whole numbers.

    Args:
        path: any volume file, or a DICOM-SEG.

    Returns:
        A recording with the narrowest of uint8, uint16 and int32 that holds its labels.

    Raises:
        UnreadableRecording: not a single volume, colour or multi-channel, or values that are no whole numbers.
    """
    read = read_volume(path)
    if len(read.recordings) != 1:
        why = read.rejected[0].reason if read.rejected else f"it holds {len(read.recordings)} volumes"
        raise UnreadableRecording(f"not one mask: {why}", path)
    mask = read.recordings[0]
    if "c" in mask.axes:
        raise UnreadableRecording(f"a mask has one label a voxel; this has {mask.data.shape[0]} channels", path)
    data, notes = mask.data, []
    if data.dtype.kind == "f":
        whole = np.rint(data)
        if not np.isfinite(data).all() or float(np.abs(data - whole).max()) > _INTEGRAL:
            raise UnreadableRecording("its values are not whole numbers: not a mask", path)
        notes.append(f"labels stored as {data.dtype} cast to whole numbers")
        data = whole
    return mask.with_(data=data.astype(_label_type(data)), units=()).noted(*notes)


def _label_type(labels: NDArray[Any]) -> np.dtype[Any]:
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        return np.dtype(np.int32)
    return np.dtype(np.uint8 if high < 256 else np.uint16 if high < 65536 else np.int32)


def resample_labels_to(array: NDArray[Any], affine_from: NDArray[np.float64], like: Recording) -> NDArray[Any]:
    """Carries labels or class probabilities from one grid to the grid of a recording.

    Probabilities are interpolated linearly and the largest class wins; labels take the nearest voxel. Voxels outside
    the given grid are background (0). Works in slabs of the target, so memory does not grow with the classes.

    Args:
        array: ``(Z, Y, X)`` integer labels, or ``(K, Z, Y, X)`` floating probabilities (or scores) of ``K`` classes,
            class 0 the background.
        affine_from: (4, 4), index of ``array``'s spatial axes → RAS+ millimetres, columns in array order.
        like: the recording whose grid is wanted; only its affine and spatial shape count.

    Returns:
        ``(Z', Y', X')``, in the narrowest unsigned type.

    Raises:
        ValueError: ``array`` is neither, or ``like`` has no affine.
    """
    if like.affine is None:
        raise ValueError("the recording has no affine: its grid has no place in space")
    labels = array.ndim == 3 and array.dtype.kind in "iub"
    if not labels and not (array.ndim == 4 and array.dtype.kind == "f"):
        raise ValueError(f"expected (Z, Y, X) integers or (K, Z, Y, X) floats, got {array.shape} {array.dtype}")
    shape = tuple(like.data.shape[axis] for axis in like.spatial_axes)
    mapping = np.linalg.inv(np.asarray(affine_from, dtype=np.float64)) @ like.affine
    mapping[np.abs(mapping) < 1e-9] = 0.0
    kind = _label_type(array) if labels else np.dtype(np.uint8 if array.shape[0] <= 256 else np.uint16)
    out = np.zeros(shape, kind)
    depth = max(1, _SLAB // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], depth):
        part = out[start : start + depth]
        moved = mapping.copy()
        moved[:3, 3] += mapping[:3, 0] * start
        part[...] = _nearest(array, moved, part.shape) if labels else _winner(array, moved, part.shape)
        part[_outside(array.shape[-3:], moved, part.shape)] = 0
    return out


def _nearest(labels: NDArray[Any], mapping: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[Any]:
    from scipy.ndimage import affine_transform

    source = labels.astype(np.uint8) if labels.dtype == bool else labels
    return np.asarray(
        affine_transform(source, mapping[:3, :3], mapping[:3, 3], output_shape=shape, order=0, mode="nearest")
    )


def _winner(scores: NDArray[Any], mapping: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.intp]:
    from scipy.ndimage import affine_transform

    best = np.full(shape, -np.inf, np.float32)
    winner = np.zeros(shape, np.intp)
    for label, score in enumerate(scores):
        value = affine_transform(
            np.asarray(score, dtype=np.float32),
            mapping[:3, :3],
            mapping[:3, 3],
            output_shape=shape,
            output=np.float32,
            order=1,
            mode="nearest",
        )
        better = value > best
        best[better] = value[better]
        winner[better] = label
    return winner


def _outside(source: tuple[int, ...], mapping: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Target voxels whose centre lies in no voxel of the source grid."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    outside = np.zeros(shape, bool)
    for axis, count in enumerate(source):
        a, b, c, d = (np.float32(v) for v in mapping[axis])
        index = a * z.astype(np.float32) + b * y.astype(np.float32) + c * x.astype(np.float32) + d
        outside |= (index < -0.5 - 1e-3) | (index > count - 0.5 + 1e-3)
    return outside


def write_mask(
    path: Path | str, labels: NDArray[Any], like: Recording, *, names: Mapping[int, str] | None = None
) -> None:
    """Writes labels in the geometry of a source recording.

    A NIfTI mask has the axis order and affine that the source file has when read with nibabel; ``.nrrd`` and ``.mha``
    likewise for ITK; ``.dcm`` becomes a DICOM-SEG that refers to the source series, which is read again from
    ``like.source``. The file appears at once and whole.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or ``.dcm``.
        labels: ``(Z, Y, X)`` integers on the spatial grid of ``like``.
        like: the source as an adapter read it.
        names: what each label means; kept in the file.

    Raises:
        MedSSLError: another suffix; or, for ``.dcm``, a source that is no DICOM series or lacks what a SEG needs.
        ValueError: ``labels`` are no integers, or not on the grid of ``like``.
    """
    path = Path(path)
    shape = tuple(like.data.shape[axis] for axis in like.spatial_axes)
    if labels.shape != shape or labels.dtype.kind not in "iub":
        raise ValueError(f"labels of shape {labels.shape} and type {labels.dtype} do not fit a grid of {shape}")
    if like.affine is None:
        raise ValueError("the recording has no affine: its grid has no place in space")
    labels = labels.astype(_label_type(labels))
    name = path.name.lower()
    writer = next((w for suffixes, w in _WRITERS.items() if name.endswith(suffixes)), None)
    if writer is None:
        raise MedSSLError(f"{path}: masks are written as .nii, .nii.gz, .nrrd, .mha or .dcm; choose one of these names")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix decides the format, so the temporary name keeps it; the prefix hides it from folder scans.
    partial = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        writer(partial, labels, like, dict(names or {}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_nifti(path: Path, labels: NDArray[Any], like: Recording, names: dict[int, str]) -> None:
    import nibabel

    assert like.affine is not None
    affine = like.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(columns.T @ columns, np.eye(3), atol=1e-4):
        image.set_qform(affine, code=1)  # a qform cannot hold a shear
    if names:
        text = json.dumps({"labels": {str(k): v for k, v in sorted(names.items())}}, ensure_ascii=False)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", text.encode()))
    nibabel.save(image, path)


def _write_itk(path: Path, labels: NDArray[Any], like: Recording, names: dict[int, str]) -> None:
    import SimpleITK

    assert like.affine is not None
    lps = like.affine.copy()
    lps[:2] *= -1.0
    columns = lps[:3, :3][:, ::-1]
    spacing = np.linalg.norm(columns, axis=0)
    image = SimpleITK.GetImageFromArray(labels)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((columns / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for label, name in names.items():
        image.SetMetaData(f"label_{label}", name)
    SimpleITK.WriteImage(image, str(path), True)


def _write_dicom(path: Path, labels: NDArray[Any], like: Recording, names: dict[int, str]) -> None:
    from medssl.adapters.dicom_seg_writer import write_segmentation

    write_segmentation(path, labels, like, names)


_WRITERS = {(".nii", ".nii.gz"): _write_nifti, (".nrrd", ".mha"): _write_itk, (".dcm",): _write_dicom}
