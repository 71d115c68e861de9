"""Preparation of volumes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medssl.adapters.recording import Recording
from medssl.cohort.geometry import default_affine
from medssl.cohort.preparation import Preparation
from medssl.cohort.volumes import VolumePreparation
from medssl.configurable import build, spec
from medssl.errors import ConfigError, UnreadableRecording


def head(shape=(20, 24, 28), *, seed: int = 0, **changes) -> Recording:
    """A bright ball in dark noise with a label map of two halves."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    ball = (grid**2).sum(axis=0) < 0.5
    data = np.where(ball, rng.normal(400, 30, shape), rng.normal(10, 3, shape)).astype(np.float32)
    labels = np.where(ball, 1 + (grid[0] > 0), 0).astype(np.uint8)
    fields = {"axes": "zyx", "affine": default_affine((2.0, 1.0, 1.0)), "labels": {"organ": labels, "age": 40.0}}
    return Recording(data, source="head.nii", **(fields | changes))


def network(prepared) -> np.ndarray:
    tail = (-1, 1, 1, 1)
    scaled = prepared.image * prepared.input_scale.reshape(tail) + prepared.input_offset.reshape(tail)
    return scaled.clip(*prepared.input_range)


def test_what_comes_out():
    prepared = VolumePreparation()(head())
    assert prepared.image.dtype == np.int16
    assert prepared.image.shape == (1, 20, 24, 28)
    assert prepared.channels == ("image",)
    assert prepared.spacing_mm == (2.0, 1.0, 1.0)
    assert prepared.masks["organ"].dtype == np.uint8
    assert set(prepared.mask_foreground["organ"]) == {1, 2}
    assert set(prepared.masks) == {"organ"}
    assert prepared.foreground is not None
    inside = prepared.masks["organ"][tuple(prepared.foreground.T)] > 0
    assert inside.mean() > 0.95
    assert 0.2 < network(prepared)[0][prepared.masks["organ"] > 0].mean() <= 1.0
    assert prepared.notes == ()


def test_orientation_does_not_matter():
    """The same head stored as LPI, with its axes in another order, prepares to the same bytes."""
    plain = head()
    turned = head(
        affine=default_affine((2.0, 1.0, 1.0)) @ _flip_and_swap((20, 24, 28)),
        labels={"organ": _stored(plain.labels["organ"])},
    ).with_(data=_stored(plain.data))
    first, second = VolumePreparation()(plain), VolumePreparation()(turned)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.masks["organ"], second.masks["organ"])
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-9)
    np.testing.assert_array_equal(first.foreground, second.foreground)


def _stored(array: np.ndarray) -> np.ndarray:
    return array[::-1, :, ::-1].transpose(2, 0, 1)


def _flip_and_swap(shape: tuple[int, ...]) -> np.ndarray:
    """Index of the stored array → index of the plain one."""
    moved = np.zeros((4, 4))
    moved[3, 3] = 1
    moved[2, 0], moved[2, 3] = -1, shape[2] - 1
    moved[0, 1], moved[0, 3] = -1, shape[0] - 1
    moved[1, 2] = 1
    return moved


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("labels", ["nearest", "onehot_linear"])
def test_image_and_mask_stay_aligned_when_resampled(interpolation, labels):
    prepared = VolumePreparation(spacing_mm=1.0, interpolation=interpolation, label_interpolation=labels)(head())
    assert prepared.image.shape == (1, 40, 24, 28)
    assert prepared.spacing_mm == (1.0, 1.0, 1.0)
    bright = network(prepared)[0] > 0.4
    organ = prepared.masks["organ"] > 0
    dice = 2 * (bright & organ).sum() / (bright.sum() + organ.sum())
    assert dice > 0.95
    centre = prepared.affine @ [19.5, 11.5, 13.5, 1]
    np.testing.assert_allclose(centre, head().affine @ [9.5, 11.5, 13.5, 1], atol=1e-9)


def test_a_spacing_that_is_met_already_touches_nothing():
    native, same = VolumePreparation()(head()), VolumePreparation(spacing_mm=(2.0, 1.0, 1.0001))(head())
    np.testing.assert_array_equal(native.image, same.image)


def test_cropping_keeps_body_masks_and_place():
    prepared = VolumePreparation(crop_foreground=True, margin=1)(head())
    assert prepared.image[0].size < head().data.size
    assert (prepared.masks["organ"] > 0).sum() == (head().labels["organ"] > 0).sum()
    whole = VolumePreparation()(head())
    first = np.argwhere(prepared.masks["organ"])[0]
    same = np.argwhere(whole.masks["organ"])[0]
    np.testing.assert_allclose(prepared.affine @ [*first, 1], whole.affine @ [*same, 1], atol=1e-9)


def test_hounsfield_units_are_kept_and_auto_finds_them():
    data = np.random.default_rng(0).integers(-1000, 1000, (8, 8, 8)).astype(np.int16)
    recording = Recording(data, "zyx", affine=default_affine((1, 1, 1)), units=("HU",))
    prepared = VolumePreparation()(recording)
    np.testing.assert_array_equal(prepared.image[0], data)
    assert prepared.fill == -1024
    assert prepared.quality["intensity"] == 1
    assert prepared.units == ("HU",)
    bone = VolumePreparation(window=(-200.0, 1000.0))(recording)
    assert network(bone)[0, 0, 0, 0] == pytest.approx((np.clip(data[0, 0, 0], -200, 1000) + 200) / 1200)


def test_channels_are_scaled_one_by_one():
    data = np.stack([head().data, head(seed=1).data * 1000])
    recording = head().with_(data=data, axes="czyx", channels=("T1", "T2"), labels={})
    prepared = VolumePreparation(intensity="mr")(recording)
    assert prepared.channels == ("T1", "T2")
    assert prepared.scale[1] > 100 * prepared.scale[0]
    np.testing.assert_allclose(
        network(prepared).mean(axis=(1, 2, 3))[0], network(prepared).mean(axis=(1, 2, 3))[1], atol=0.02
    )


@pytest.mark.parametrize(("frames", "level"), [("first", 0.0), ("mean", 1.0)])
def test_frames_in_time(frames, level):
    series = np.stack([head().data, head().data + 2.0])
    recording = head().with_(data=series, axes="tzyx", labels={})
    prepared = VolumePreparation(frames=frames, intensity="none")(recording)
    values = prepared.image * prepared.scale.reshape(-1, 1, 1, 1) + prepared.offset.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(values[0] - head().data, level, atol=0.05)
    assert any("2 frames" in note for note in prepared.notes)
    with pytest.raises(UnreadableRecording, match="2 frames"):
        VolumePreparation(frames="refuse")(recording)


def test_nan_voxels_are_replaced_and_told():
    data = head().data.copy()
    data[0] = np.nan
    prepared = VolumePreparation()(head().with_(data=data))
    assert prepared.quality["nan_fraction"] == pytest.approx(1 / 20)
    assert any("NaN" in note for note in prepared.notes)
    assert (network(prepared)[0, 0] == 0).all()


def test_missing_geometry_is_told():
    prepared = VolumePreparation()(head(affine=None))
    assert prepared.spacing_mm == (1.0, 1.0, 1.0)
    assert any("no geometry" in note for note in prepared.notes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": np.full((4, 4, 4), 7.0), "labels": {}}, "same value"),
        ({"data": np.full((4, 4, 4), np.nan), "labels": {}}, "finite"),
        ({"data": np.zeros((0, 4, 4)), "labels": {}}, "empty"),
        ({"data": np.zeros((2, 50)), "axes": "ct", "labels": {}}, "not those of a volume"),
        ({"labels": {"organ": np.zeros((20, 24, 27), np.uint8)}}, "has shape"),
        ({"labels": {"organ": np.full((20, 24, 28), 300)}}, "merge them"),
        ({"labels": {"organ": np.full((20, 24, 28), -1)}}, "merge them"),
        ({"labels": {"organ": np.full((20, 24, 28), 0.5)}}, "not whole numbers"),
        ({"affine": np.zeros((4, 4))}, "orientation"),
        ({"data": head().data.astype(np.complex64)}, "not real numbers"),
    ],
)
def test_what_cannot_be_prepared_is_refused_with_its_reason(change, reason):
    with pytest.raises(UnreadableRecording, match=reason):
        VolumePreparation()(head().with_(**change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm"),
        ({"intensity": "pet"}, "intensity 'pet'"),
        ({"window": (100.0, 100.0)}, "window"),
        ({"percentiles": (99.0, 1.0)}, "percentiles"),
        ({"bits": 20}, "bits"),
        ({"interpolation": "sinc"}, "interpolation 'sinc'"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        VolumePreparation(**options)


def test_settings_survive_being_written_down():
    settings = json.loads(json.dumps(spec(VolumePreparation(spacing_mm=(1.0, 2.0, 3.0), intensity="ct", margin=2))))
    again = build(settings, Preparation)
    first, second = VolumePreparation(spacing_mm=(1.0, 2.0, 3.0), intensity="ct", margin=2)(head()), again(head())
    np.testing.assert_array_equal(first.image, second.image)
    assert spec(again) == settings
