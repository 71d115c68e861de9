"""Masks of whole clips as files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

from medssl.adapters.clip_masks import write_clip_mask
from medssl.adapters.volume import read_volume


def test_a_clip_mask_has_the_axes_columns_rows_frames(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    file = tmp_path / "clip.nii.gz"
    write_clip_mask(file, labels, spacing_mm=(0.5, 0.25), rate_hz=50.0, names={1: "left ventricle"})
    image = nibabel.load(file)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels.transpose(2, 1, 0))
    np.testing.assert_allclose(image.header.get_zooms(), (0.25, 0.5, 0.02))
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert json.loads(image.header.extensions[0].get_content().rstrip(b"\0")) == {"labels": {"1": "left ventricle"}}
    assert [p.name for p in tmp_path.iterdir()] == ["clip.nii.gz"]


def test_nothing_is_invented_where_size_and_rate_are_not_known(tmp_path: Path) -> None:
    labels = np.zeros((4, 6, 7), dtype=np.uint8)
    labels[2, 3, 1] = 1
    write_clip_mask(tmp_path / "clip.nii", labels)
    image = nibabel.load(tmp_path / "clip.nii")
    assert image.header.get_zooms() == (1.0, 1.0, 1.0) and image.header.get_xyzt_units() == ("unknown", "unknown")
    (read,) = read_volume(tmp_path / "clip.nii").recordings  # as recipes of sequences in NIfTI read them
    assert read.data[2, 3, 1] == 1
