"""Orientation and grids: every voxel keeps its place in the world."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from medssl.cohort.geometry import canonical, default_affine, regridded, same_grid, shifted, spacing_of

SHAPE = (3, 4, 5)


def world(affine: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    return affine[:3, :3] @ np.asarray(index, dtype=float) + affine[:3, 3]


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((-1, 1), repeat=3)))
def test_any_of_the_48_orientations_becomes_superior_anterior_right(order, signs):
    data = np.arange(60).reshape(SHAPE)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
        affine[row, axis] = sign * (axis + 1.5)
    affine[:3, :3] = rotation(0.2) @ affine[:3, :3]  # a little oblique, as scanners are
    affine[:3, 3] = (10, -20, 30)

    turned, new = canonical(data, affine)

    assert [int(np.abs(new[:3, axis]).argmax()) for axis in range(3)] == [2, 1, 0]
    assert all(new[row, axis] > 0 for axis, row in enumerate((2, 1, 0)))
    assert np.shares_memory(turned, data)
    for index in np.ndindex(turned.shape):
        source = np.unravel_index(int(turned[index]), SHAPE)  # voxels are numbered by where they were
        np.testing.assert_allclose(world(new, index), world(affine, source), atol=1e-9)


def test_leading_axes_are_left_alone():
    data = np.zeros((7, 3, 4, 5))
    turned, _ = canonical(data, np.diag([1.0, 1.0, 1.0, 1.0]))  # axis 0 is R here
    assert turned.shape == (7, 5, 4, 3)


def test_an_affine_without_orientation_is_refused():
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="singular"):
        canonical(np.zeros(SHAPE), flat)


def test_regridding_keeps_centre_and_outer_faces():
    affine = default_affine((2.0, 1.0, 1.0))
    shape, new = regridded(affine, (10, 12, 9), (1.0, 2.0, 3.0))
    assert shape == (20, 6, 3)
    assert spacing_of(new) == (1.0, 2.0, 3.0)
    for corner in (-0.5, 0.5):  # half a voxel beyond the first, half beyond the last centre
        old_face = [corner if corner < 0 else n - 0.5 for n in (10, 12, 9)]
        new_face = [corner if corner < 0 else n - 0.5 for n in shape]
        np.testing.assert_allclose(world(new, new_face), world(affine, old_face), atol=1e-9)


def test_a_size_that_does_not_divide_keeps_the_exact_spacing_and_the_centre():
    affine = default_affine((1.0, 1.0, 1.0))
    shape, new = regridded(affine, (10, 10, 10), (3.0, 3.0, 3.0))
    assert shape == (3, 3, 3)
    np.testing.assert_allclose(world(new, (1, 1, 1)), world(affine, (4.5, 4.5, 4.5)))


def test_grids_are_compared_where_an_error_is_largest():
    affine = default_affine((1.0, 1.0, 1.0))
    shape = (100, 100, 100)
    assert same_grid(affine, affine + 1e-6, shape)
    assert not same_grid(affine, shifted(affine, (1, 0, 0)), shape)
    stretched = affine.copy()
    stretched[:3, :3] *= 1.01  # a hundredth of a voxel at the origin, a whole one at the far corner
    assert same_grid(affine, stretched, (2, 2, 2))
    assert not same_grid(affine, stretched, shape)
