"""From an item to its recordings."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl.adapters.recording import Ids, Recording
from medssl.cohort.geometry import default_affine
from medssl.cohort.reading import SignalItem, place_mask, read_channels, read_item
from medssl.cohort.recipe import Item
from medssl.errors import UnreadableRecording


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "image.nii.gz", np.arange(120, dtype=np.float32).reshape(4, 5, 6))


def test_ids_labels_site_and_masks_are_filled_in(tmp_path, image):
    organ = (np.arange(120).reshape(4, 5, 6) > 60).astype(np.uint8)
    mask = save(tmp_path / "mask.nii.gz", organ)
    item = Item(image, Ids("p1", "s1", "r1"), {"organ": mask}, {"age": 40.0, "sex": None}, site="A", scanner="X")
    read = read_item("volume", item)
    (recording,) = read.recordings
    assert read.rejected == []
    assert recording.ids == Ids("p1", "s1", "r1")
    assert (recording.site, recording.scanner) == ("A", "X")
    assert recording.labels["age"] == 40.0
    assert recording.labels["sex"] is None
    np.testing.assert_array_equal(recording.labels["organ"] > 0, recording.data > 60)


def test_a_mask_with_its_axes_in_another_order_is_turned_exactly(tmp_path, image):
    organ = (np.arange(120).reshape(4, 5, 6) % 7 == 0).astype(np.uint8)
    affine = np.eye(4)
    flipped = nib.as_closest_canonical(nib.Nifti1Image(organ, affine)).as_reoriented([[1, -1], [0, 1], [2, -1]])
    mask = tmp_path / "mask.nii.gz"
    nib.save(flipped, mask)
    assert nib.load(mask).shape != (4, 5, 6)
    (recording,) = read_item("volume", Item(image, Ids("p", "", "r"), {"organ": mask})).recordings
    np.testing.assert_array_equal(recording.labels["organ"] > 0, recording.data % 7 == 0)


@pytest.mark.parametrize(
    ("shape", "shift", "reason"),
    [((4, 5, 7), 0.0, "its image 6x5x4 voxels"), ((4, 5, 6), 3.0, "lies elsewhere")],
)
def test_a_mask_on_another_grid_rejects_the_item(tmp_path, image, shape, shift, reason):
    affine = np.eye(4)
    affine[0, 3] = shift
    mask = save(tmp_path / "mask.nii.gz", np.ones(shape, dtype=np.uint8), affine)
    read = read_item("volume", Item(image, Ids("p", "", "r"), {"organ": mask}))
    assert read.recordings == []
    assert read.rejected[0].source == str(image)
    assert reason in read.rejected[0].reason
    assert "mask 'organ'" in read.rejected[0].reason


def test_a_mask_that_cannot_be_read_rejects_the_item_and_names_itself(tmp_path, image):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not a volume")
    read = read_item("volume", Item(image, Ids("p", "", "r"), {"organ": broken}))
    assert read.recordings == []
    assert "broken.nii.gz" in read.rejected[0].reason


def test_an_unreadable_image_is_rejected_not_raised(tmp_path):
    read = read_item("volume", Item(tmp_path / "gone.nii.gz", Ids("p", "", "r")))
    assert read.recordings == []
    assert "does not exist" in read.rejected[0].reason


def test_rounding_in_a_header_is_no_other_grid():
    image = Recording(np.zeros((4, 5, 6)), "zyx", affine=default_affine((1.0, 1.0, 1.0)))
    mask = Recording(np.ones((4, 5, 6), np.uint8), "zyx", affine=default_affine((1.0, 1.0, 1.0)) + 1e-5)
    assert place_mask(mask, image, "mask") is mask.data
    far = mask.with_(affine=default_affine((1.0, 1.0, 1.3)))
    with pytest.raises(UnreadableRecording, match=r"1x1x1\.3"):
        place_mask(far, image, "mask")


def test_bare_numbers_get_their_rate_unit_and_names_from_the_item(tmp_path):
    file = tmp_path / "trace.csv"
    np.savetxt(file, np.random.default_rng(0).normal(size=(500, 2)), delimiter=",")
    item = SignalItem(file, Ids("p", "", "r"), rate_hz=125.0, units="uV", channels=("C3", "C4"))
    (recording,) = read_item("signal", item).recordings
    assert (recording.rate_hz, recording.channels, recording.units) == (125.0, ("C3", "C4"), ("uV", "uV"))
    assert "rate" in read_item("signal", Item(file, Ids("p", "", "r"))).rejected[0].reason


def test_channels_in_files_of_their_own(tmp_path, image):
    second = save(tmp_path / "second.nii.gz", np.ones((4, 5, 6), dtype=np.float32))
    read = read_channels(Item((image, second), Ids("p", "", "r")), ("T1", "T2"))
    (recording,) = read.recordings
    assert recording.axes == "czyx"
    assert recording.data.shape == (2, 6, 5, 4)
    assert recording.channels == ("T1", "T2")
    assert len(recording.source_sha256) == 64
    other = save(tmp_path / "other.nii.gz", np.ones((4, 5, 7), dtype=np.float32))
    refused = read_channels(Item((image, other), Ids("p", "", "r")), ("T1", "T2"))
    assert "channel has 7x5x4 voxels" in refused.rejected[0].reason
