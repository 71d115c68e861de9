"""From voxels to regions: which voxels make a region in one brain, and their mean over time.

The regions are always those of the atlas, in its order, whatever of them a brain shows: a region without voxels is all
NaN. (Common software leaves such regions out, so that columns of two subjects no longer mean the same.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.fmri_atlas import Atlas

__all__ = ["LEAST_COVERED", "Parcellation", "labels_on_grid", "parcellate", "region_means"]

LEAST_COVERED = 0.5
"""Share of a region that must lie in the picture and the brain mask; with less it is invalid (our choice)."""


class Parcellation(NamedTuple):
    """Where the regions of an atlas lie in one brain.

    Attributes:
        members: (N, V) sparse, 1 where a voxel belongs to a region.
        voxels: (V,) flat indices (first axis fastest, as NIfTI stores them) of the voxels of any region.
        covered: (N,) share of each region that lies within the grid and the mask.
    """

    members: Any
    voxels: NDArray[np.int64]
    covered: NDArray[np.float64]


def parcellate(
    atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64], mask: NDArray[np.bool_] | None = None
) -> Parcellation:
    """The voxels of every region on the grid of a functional image.

    Args:
        atlas: labels (brought to the grid by the nearest neighbour, never interpolated), or coordinates (all voxels
            whose centre is at most the radius away).
        shape: (X, Y, Z) of the grid.
        affine: (4, 4) voxel (x, y, z) → RAS+ millimetres.
        mask: (X, Y, Z) of the brain.
    """
    inside = np.ones(shape, dtype=bool) if mask is None else mask
    if atlas.labels is not None:
        region, voxel = _voxels_of_labels(atlas, shape, affine, inside)
        covered = _covered_labels(atlas, shape, affine, inside)
    else:
        region, voxel, covered = _voxels_of_spheres(atlas, shape, affine, inside)
    from scipy.sparse import csr_matrix

    voxels, column = np.unique(voxel, return_inverse=True)
    ones = np.ones(len(region))
    return Parcellation(csr_matrix((ones, (region, column)), shape=(len(atlas), len(voxels))), voxels, covered)


def region_means(
    parcellation: Parcellation, blocks: Iterable[NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean over the finite voxels of every region at every volume.

    Args:
        parcellation: of the image.
        blocks: (X, Y, Z, t) consecutive volumes, a few at a time.

    Returns:
        (N, T) float64, NaN where a region has no finite voxel; and (N,) voxels that are not finite at some volume.
    """
    members, voxels, _ = parcellation
    sizes = np.asarray(members.sum(axis=1)).ravel()
    odd = np.zeros(len(voxels), dtype=bool)
    means = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for block in blocks:
            values = block.reshape(-1, block.shape[3], order="F")[voxels].astype(np.float64)
            finite = np.isfinite(values)
            if finite.all():
                means.append((members @ values) / sizes[:, None])
                continue
            odd |= ~finite.all(axis=1)
            means.append((members @ np.where(finite, values, 0.0)) / (members @ finite.astype(np.float64)))
    return np.concatenate(means, axis=1), np.asarray(members @ odd, dtype=np.int64).ravel()


def labels_on_grid(
    labels: NDArray[np.int32],
    from_affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Labels at the voxel centres of another grid, by the nearest neighbour; 0 beyond the atlas."""
    if labels.shape == shape and np.allclose(from_affine, affine, rtol=0, atol=1e-6):
        return labels
    to_atlas = np.linalg.inv(from_affine) @ affine
    result = np.zeros(shape, dtype=np.int32)
    y, z = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    for x in range(shape[0]):  # plane by plane: coordinates of a whole grid would take more room than the run
        points = np.stack([np.full(y.shape, x), y, z], axis=-1) @ to_atlas[:3, :3].T + to_atlas[:3, 3]
        index = _nearest(points)
        there = _within(index, labels.shape)
        i = np.where(there[..., None], index, 0)
        result[x] = np.where(there, labels[i[..., 0], i[..., 1], i[..., 2]], 0)
    return result


def _nearest(points: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor(points + 0.5 + 1e-9).astype(np.int64)  # rounding errors must not decide ties


def _within(index: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(((index >= 0) & (index < np.asarray(shape))).all(axis=-1))


def _voxels_of_labels(
    atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Region and flat voxel of every labelled voxel inside the mask."""
    assert atlas.labels is not None and atlas.affine is not None
    flat = labels_on_grid(atlas.labels, atlas.affine, shape, affine).ravel(order="F")
    voxel = np.flatnonzero((flat > 0) & inside.ravel(order="F"))
    return np.searchsorted(atlas.ids, flat[voxel]), voxel


def _covered_labels(
    atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64], inside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Share of the atlas's own voxels that fall into the mask: so what the picture cuts off counts too."""
    assert atlas.labels is not None and atlas.affine is not None
    where = np.argwhere(atlas.labels > 0)
    region = np.searchsorted(atlas.ids, atlas.labels[tuple(where.T)])
    to_image = np.linalg.inv(affine) @ atlas.affine
    index = _nearest(where @ to_image[:3, :3].T + to_image[:3, 3])
    there = _within(index, shape)
    i = np.where(there[:, None], index, 0)
    hit = there & inside[i[:, 0], i[:, 1], i[:, 2]]
    return np.bincount(region, hit, len(atlas)) / np.bincount(region, minlength=len(atlas))


def _voxels_of_spheres(
    atlas: Atlas, shape: tuple[int, int, int], affine: NDArray[np.float64], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Region and flat voxel of every voxel near enough to a centre, and the share of each sphere's in the mask."""
    from scipy.spatial import cKDTree

    assert atlas.centres is not None and atlas.radii is not None
    grid = np.stack(np.unravel_index(np.arange(int(np.prod(shape))), shape, order="F"), axis=1)
    tree = cKDTree(grid @ affine[:3, :3].T + affine[:3, 3])
    near = tree.query_ball_point(atlas.centres, atlas.radii * (1 + 1e-9), return_sorted=True)
    counts = np.array([len(voxels) for voxels in near])
    voxel = np.concatenate([np.asarray(voxels, dtype=np.int64) for voxels in near])
    region = np.repeat(np.arange(len(atlas)), counts)
    kept = inside.ravel(order="F")[voxel]
    # a picture that ends inside a sphere shows fewer voxels than the sphere's volume holds
    volume = 4 / 3 * np.pi * atlas.radii**3 / abs(float(np.linalg.det(affine[:3, :3])))
    centre = _nearest((atlas.centres - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T)
    whole = np.where(_within(centre, shape), counts, np.maximum(counts, volume))
    covered = np.bincount(region, kept, len(atlas)) / np.maximum(whole, 1)
    return region[kept], voxel[kept], covered
