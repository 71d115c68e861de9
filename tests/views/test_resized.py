"""Reading a box at another size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases_voco_omni import labelled_volume
from torch.nn import functional
from toys import volume

from medssl.views.resized import read_fitted, read_resized


@pytest.mark.parametrize("slab", [1, 500, 10**9])
def test_slabs_give_what_one_trilinear_interpolation_gives(slab: int) -> None:
    reader = volume(1, (13, 20, 17), channels=2)
    found = read_resized(reader, (1, 2, 3), (10, 15, 12), (7, 8, 24), slab=slab)  # type: ignore[arg-type]
    box = torch.from_numpy(reader.data[:, 1:11, 2:17, 3:15]).float()[None]
    wanted = functional.interpolate(box, size=(7, 8, 24), mode="trilinear", align_corners=True)[0].numpy()
    assert found.dtype == np.int16
    np.testing.assert_allclose(found, wanted, atol=0.51)
    assert all(np.prod(size) <= max(slab, 15 * 12) for _, size in reader.reads[:-1])


def test_same_size_reads_the_voxels_themselves() -> None:
    reader = volume(0, (5, 6, 7))
    np.testing.assert_array_equal(read_resized(reader, (0, 0, 0), (5, 6, 7), (5, 6, 7)), reader.data)  # type: ignore[arg-type]


def test_one_voxel_fills_any_box() -> None:
    reader = volume(0, (1, 1, 1))
    assert (read_resized(reader, (0, 0, 0), (1, 1, 1), (2, 3, 4)) == reader.data[0, 0, 0, 0]).all()  # type: ignore[arg-type]


def test_images_are_interpolated_and_masks_are_not() -> None:
    reader = labelled_volume(0, (6, 9, 12))
    box: tuple[tuple[int, ...], ...] = ((1, 1, 2), (4, 7, 9), (8, 7, 3))
    image = read_fitted(reader, *box)  # type: ignore[arg-type]
    np.testing.assert_array_equal(image, read_resized(reader, *box))  # type: ignore[arg-type]
    mask = read_fitted(reader, *box, key="mask:organs")  # type: ignore[arg-type]
    assert mask.dtype == np.uint8 and mask.shape == (1, 8, 7, 3)
    z = [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(mask[0], reader.labels[1:5, 1:8, 2:11][np.ix_(z, range(7), [0, 4, 8])])


def test_a_box_of_the_same_size_is_read_as_it_is() -> None:
    reader = labelled_volume(0, (6, 9, 12))
    place: tuple[tuple[int, ...], ...] = ((-1, 0, 2), (3, 4, 5), (3, 4, 5))
    np.testing.assert_array_equal(read_fitted(reader, *place), reader.read(*place[:2]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        read_fitted(reader, *place, key="mask:organs"),  # type: ignore[arg-type]
        reader.read(*place[:2], key="mask:organs"),
    )
