"""Body-like volumes whose organs keep their places: what position methods must find, with the truth known.

A trunk is painted from ellipsoids in body coordinates (-1..1 along head, front and right), bent by a random affine
and a smooth elastic map of its own, and seen through a scanner with its own gain, shading, blur and noise. Sizes and
densities depend on age, and the class of a patient is one visible change, so that segmentation, classification and
regression all have something to learn and a ceiling that is known.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError

__all__ = ["CLASSES", "ORGANS", "torso_volume", "write_volumes"]

CLASSES = ("normal", "large_spleen", "liver_lesion")
"""What a patient has; the value of the ``class`` column."""


@dataclass(frozen=True)
class _Organ:
    """An ellipsoid: centre and half axes in body coordinates (head, front, right), intensities in CT and MR."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    mr: float


# In painting order: a later one covers an earlier one.
_ANATOMY = {
    "spine": _Organ((0.0, -0.42, 0.0), (9.0, 0.13, 0.13), 400.0, 250.0),
    "lung_right": _Organ((0.45, 0.02, 0.42), (0.46, 0.44, 0.28), -780.0, 40.0),
    "lung_left": _Organ((0.45, 0.02, -0.42), (0.46, 0.44, 0.26), -780.0, 40.0),
    "heart": _Organ((0.34, 0.16, -0.12), (0.22, 0.23, 0.25), 120.0, 330.0),
    "liver": _Organ((-0.22, 0.08, 0.40), (0.27, 0.40, 0.36), 70.0, 420.0),
    "spleen": _Organ((-0.15, -0.22, -0.50), (0.19, 0.15, 0.13), 95.0, 560.0),
    "kidney_right": _Organ((-0.56, -0.26, 0.34), (0.20, 0.12, 0.11), 160.0, 640.0),
    "kidney_left": _Organ((-0.50, -0.26, -0.34), (0.20, 0.12, 0.11), 160.0, 640.0),
}
_BODY = _Organ((0.0, 0.0, 0.0), (9.0, 0.68, 0.90), 20.0, 180.0)
_FAT_HU, _FAT_MR, _AIR_HU = -90.0, 800.0, -1000.0

ORGANS = (*_ANATOMY, "lesion")
"""Names of the mask's labels, 1 first; 0 is everything else."""

_CONTROL = 5  # control points a side of the elastic map


def torso_volume(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (48, 64, 64),
    spacing_mm: tuple[float, float, float] | None = None,
    kind: Literal["normal", "large_spleen", "liver_lesion"] | None = None,
    sex: Literal["M", "F"] | None = None,
    age: float | None = None,
    modality: Literal["ct", "mr"] = "ct",
) -> tuple[NDArray[np.int16], NDArray[np.uint8], dict[str, Any]]:
    """Makes one patient's trunk.

    Args:
        rng: source of everything that is not given.
        shape: (Z, Y, X); axes point to head, front, right (canonical orientation of prepared volumes).
        spacing_mm: voxel size in (z, y, x); by default the trunk fills the grid (about 400 mm of trunk).
        kind: one of :data:`CLASSES`; None draws one.
        sex: ``"M"`` bodies are larger; None draws one.
        age: years; bone density falls, kidneys shrink and fat grows with it. None draws 20..90.
        modality: ``"ct"`` in HU, ``"mr"`` in arbitrary units with shading and a random gain.

    Returns:
        image: (Z, Y, X) int16.
        mask: (Z, Y, X) uint8, labels as in :data:`ORGANS`.
        truth: ``class``, ``age``, ``sex``, ``spacing_mm``, ``centres`` (organ -> mean voxel index (3,)) and
            ``volumes_ml`` (organ -> ml), measured on the mask.

    Raises:
        ConfigError: an unknown kind or modality, or a grid of less than 8 voxels a side.
    """
    if kind is not None and kind not in CLASSES:
        raise ConfigError(f"kind '{kind}' is unknown; use one of {', '.join(CLASSES)}")
    if modality not in ("ct", "mr"):
        raise ConfigError(f"modality '{modality}' is unknown; use ct or mr")
    if len(shape) != 3 or min(shape) < 8:
        raise ConfigError(f"shape {shape} is too small; give three sides of at least 8 voxels")
    what = kind or CLASSES[rng.integers(len(CLASSES))]
    gender = sex or ("M", "F")[rng.integers(2)]
    age = float(rng.uniform(20, 90)) if age is None else float(age)
    spacing = spacing_mm or tuple(400.0 / n for n in shape)
    body = _body_coordinates(rng, shape, spacing, 1.03 if gender == "M" else 0.96)
    mask, inside = _paint_labels(rng, body, what, age)
    image = _expose(rng, mask, inside, body, age, modality)
    return image, mask, _truth(mask, spacing, what, age, gender)


def _body_coordinates(
    rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float], size: float
) -> NDArray[np.float32]:
    """(3, Z, Y, X): where in the standard body each voxel of this patient lies."""
    axes = [(np.arange(n) - (n - 1) / 2) * s / 200.0 for n, s in zip(shape, spacing_mm, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    angles = rng.normal(0, np.deg2rad(4), 3)
    scale = np.diag(1 / (size * rng.normal(1, 0.05, 3).clip(0.88, 1.12)))
    matrix = (scale @ _rotation(angles)).astype(np.float32)
    shift = rng.normal(0, 0.03, 3).astype(np.float32)
    bent = np.tensordot(matrix, grid, axes=1) + shift[:, None, None, None]
    coarse = rng.normal(0, 0.035, (3, _CONTROL, _CONTROL, _CONTROL)).astype(np.float32)
    return np.asarray(bent + _upsample(coarse, shape), dtype=np.float32)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation by three angles about the three axes in turn."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def _upsample(coarse: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """(C, k, k, k) control values to (C, *shape), smoothly: one small matrix an axis."""
    weights = []
    for n in shape:
        position = np.linspace(0, coarse.shape[1] - 1, n)[:, None] - np.arange(coarse.shape[1])[None]
        kernel = np.exp(-0.5 * (position / 0.7) ** 2)
        weights.append((kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32))
    fine: NDArray[np.float32] = np.einsum("cijk,zi,yj,xk->czyx", coarse, *weights, optimize=True)
    return fine


def _inside(body: NDArray[np.float32], centre: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(Z, Y, X) True within an ellipsoid of body coordinates."""
    distance = np.zeros(body.shape[1:], dtype=np.float32)
    for axis in range(3):
        distance += ((body[axis] - np.float32(centre[axis])) / np.float32(radii[axis])) ** 2
    return distance <= 1


def _paint_labels(
    rng: np.random.Generator, body: NDArray[np.float32], kind: str, age: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The organ labels, and 0/1/2 for air, fat, lean body."""
    old = (age - 55) / 35
    shell = 1 - 0.10 - 0.04 * old + rng.normal(0, 0.01)
    outer = np.array(_BODY.radii)
    inside = _inside(body, np.zeros(3), outer).astype(np.uint8)
    inside += _inside(body, np.zeros(3), outer * shell)
    mask = np.zeros(body.shape[1:], dtype=np.uint8)
    for label, (name, organ) in enumerate(_ANATOMY.items(), start=1):
        radii = np.array(organ.radii) * rng.normal(1, 0.06, 3).clip(0.85, 1.15)
        if name.startswith("kidney"):
            radii *= 1 - 0.12 * old
        if name == "spleen" and kind == "large_spleen":
            radii *= 1.45
        centre = np.array(organ.centre) + rng.normal(0, 0.015, 3)
        mask[_inside(body, centre, radii)] = label
        if name == "liver":
            liver = centre, radii
    if kind == "liver_lesion":
        place = liver[0] + liver[1] * rng.uniform(-0.4, 0.4, 3)
        lesion = _inside(body, place, np.full(3, rng.uniform(0.09, 0.14)))
        mask[lesion & (mask == ORGANS.index("liver") + 1)] = ORGANS.index("lesion") + 1
    mask[inside == 0] = 0
    return mask, inside


def _expose(
    rng: np.random.Generator,
    mask: NDArray[np.uint8],
    inside: NDArray[np.uint8],
    body: NDArray[np.float32],
    age: float,
    modality: str,
) -> NDArray[np.int16]:
    """What the scanner makes of it: tissue values, texture, partial volume, shading and noise."""
    from scipy.ndimage import gaussian_filter

    ct = modality == "ct"
    tissue = np.array(
        [0.0, *(o.hu if ct else o.mr for o in _ANATOMY.values()), 30.0 if ct else 620.0], dtype=np.float32
    )
    spine = ORGANS.index("spine") + 1
    tissue[spine] -= 3.0 * (age - 55) * (1.0 if ct else 0.5)
    tissue[1:] += rng.normal(0, 6 if ct else 15, tissue.size - 1)
    ground = np.array([_AIR_HU, _FAT_HU, _BODY.hu] if ct else [0.0, _FAT_MR, _BODY.mr], dtype=np.float32)
    image = np.where(mask > 0, tissue[mask], ground[inside])
    texture = _upsample(rng.normal(0, 1, (1, 12, 12, 12)).astype(np.float32), image.shape)[0]
    image += texture * np.float32(8 if ct else 25) * (inside > 0)
    image = gaussian_filter(image, rng.uniform(0.5, 0.8))
    if ct:
        image += rng.normal(0, rng.uniform(8, 20), image.shape).astype(np.float32)
        return np.asarray(np.clip(np.rint(image), -1024, 3071), dtype=np.int16)
    slope = rng.normal(0, 0.12, 3).astype(np.float32)
    shading = 1 + np.tensordot(slope, body, axes=1)
    noise = rng.normal(0, rng.uniform(8, 20), (2, *image.shape)).astype(np.float32)
    # Magnitude images have Rician noise: it never goes below zero.
    magnitude = np.hypot(image * shading + noise[0], noise[1]) * rng.uniform(0.5, 2.0)
    return np.asarray(np.clip(np.rint(magnitude), 0, 32767), dtype=np.int16)


def _truth(mask: NDArray[np.uint8], spacing: Sequence[float], kind: str, age: float, sex: str) -> dict[str, Any]:
    labels = np.arange(1, len(ORGANS) + 1)
    counts = np.bincount(mask.ravel(), minlength=len(ORGANS) + 1)
    centres: dict[str, tuple[float, ...]] = {}
    sums = []
    for axis in range(3):
        index = np.arange(mask.shape[axis], dtype=np.float64).reshape([-1 if a == axis else 1 for a in range(3)])
        weights = np.broadcast_to(index, mask.shape).ravel()
        sums.append(np.bincount(mask.ravel(), weights=weights, minlength=len(ORGANS) + 1))
    for label in labels:
        if counts[label]:
            centres[ORGANS[label - 1]] = tuple(float(s[label] / counts[label]) for s in sums)
    millilitres = float(np.prod(spacing)) / 1000
    return {
        "class": kind,
        "age": round(age, 1),
        "sex": sex,
        "spacing_mm": tuple(float(s) for s in spacing),
        "centres": centres,
        "volumes_ml": {ORGANS[i - 1]: float(counts[i]) * millilitres for i in labels if counts[i]},
    }


def write_volumes(
    folder: str | Path,
    *,
    patients: int,
    seed: int,
    shape: tuple[int, int, int] = (48, 64, 64),
    modality: Literal["ct", "mr"] = "ct",
) -> Path:
    """Writes a cohort in the layout of the Medical Segmentation Decathlon, and ``labels.csv`` beside it.

    Args:
        folder: made if missing; ``dataset.json``, ``imagesTr/``, ``labelsTr/``, ``labels.csv`` go into it.
        patients: how many; classes come in turn, so each has its share.
        seed: the same seed gives the same bytes; a patient does not depend on how many there are.
        shape: (Z, Y, X) of every volume.
        modality: as in :func:`torso_volume`.

    Returns:
        The folder.

    Raises:
        ConfigError: ``patients`` is less than one.
    """
    import nibabel

    if patients < 1:
        raise ConfigError(f"patients={patients}: at least one is needed")
    folder = Path(folder)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        kind: Any = CLASSES[number % len(CLASSES)]
        image, mask, truth = torso_volume(rng, shape=shape, kind=kind, modality=modality)
        name = f"torso_{number + 1:03d}"
        affine = _affine(shape, truth["spacing_mm"])
        for part, array in (("imagesTr", image), ("labelsTr", mask)):
            nibabel.save(nibabel.Nifti1Image(array.T, affine), folder / part / f"{name}.nii.gz")
        rows.append({"patient": name, "class": truth["class"], "age": truth["age"], "sex": truth["sex"]})
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["patient", "class", "age", "sex"])
        writer.writeheader()
        writer.writerows(rows)
    _write_dataset_json(folder, [str(row["patient"]) for row in rows], modality)
    return folder


def _affine(shape: Sequence[int], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """RAS+ affine of the (x, y, z) array, the middle of the grid at the origin."""
    spacing = np.array(spacing_mm[::-1])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape[::-1]) - 1) / 2
    return affine


def _write_dataset_json(folder: Path, names: Sequence[str], modality: str) -> None:
    content = {
        "name": "SyntheticTorso",
        "description": "Synthetic trunks with known organs, made by medssl.synth",
        "tensorImageSize": "3D",
        "modality": {"0": {"ct": "CT", "mr": "MRI"}[modality]},
        "labels": {"0": "background", **{str(i): organ for i, organ in enumerate(ORGANS, start=1)}},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
