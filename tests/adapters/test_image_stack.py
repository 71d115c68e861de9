"""PNG slices become one volume, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medssl.adapters.image_stack import read_image_stack
from medssl.errors import UnreadableRecording


def write(path: Path, pixels: np.ndarray) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=pixels.ndim == 3), str(path))
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_slices_keep_their_values_and_the_given_order(tmp_path: Path, kind: type) -> None:
    planes = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (3, 5, 7)).astype(kind)
    files = [write(tmp_path / f"{name}.png", plane) for name, plane in zip("cab", planes, strict=True)]
    stack = read_image_stack(files)
    np.testing.assert_array_equal(stack.data, planes)
    assert (stack.axes, stack.data.dtype, stack.affine, stack.notes) == ("zyx", kind, None, ())
    assert stack.source == str(tmp_path)
    assert stack.source_sha256 != read_image_stack(files[::-1]).source_sha256
    assert read_image_stack(files[0]).data.shape == (1, 5, 7)


def test_colour_files_are_grey_where_their_channels_are_equal(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (5, 7), dtype=np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=2)
    stack = read_image_stack([write(tmp_path / "a.png", grey), write(tmp_path / "b.png", colour)])
    np.testing.assert_array_equal(stack.data, [grey, grey])
    assert "three equal channels" in stack.notes[0]
    colour[2, 3, 1] ^= 1
    with pytest.raises(UnreadableRecording, match="coloured"):
        read_image_stack(write(tmp_path / "c.png", colour))
    with pytest.raises(UnreadableRecording, match="transparency"):
        read_image_stack(write(tmp_path / "d.png", np.zeros((5, 7, 4), np.uint8)))


def test_sizes_that_differ_name_the_slice(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.png", np.zeros((n, 7), np.uint8)) for n in (5, 5, 6)]
    with pytest.raises(UnreadableRecording, match=r"size 6x7 differs from 5x7 of the first slice, 5\.png") as error:
        read_image_stack(files)
    assert error.value.path.endswith("6.png")
    with pytest.raises(UnreadableRecording, match="no slices"):
        read_image_stack([])


@pytest.mark.parametrize("cut", [1, 13, 40])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    file = write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (20, 20), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(UnreadableRecording, match="damaged"):
        read_image_stack(file)
