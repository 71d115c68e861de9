"""Preparation of volumes: orientation, voxel size, intensity, and where the body and its structures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Recording
from medssl.cohort.foreground import body_threshold, bounding_box, label_coordinates, sample_coordinates
from medssl.cohort.geometry import canonical, default_affine, regridded, shifted, spacing_of
from medssl.cohort.intensity import Encoded, encode_ct, encode_lossless, encode_mr, without_nan
from medssl.cohort.preparation import Preparation, Prepared
from medssl.cohort.resampling import Interpolation, LabelInterpolation, resample_labels, resample_volume
from medssl.errors import ConfigError, UnreadableRecording

__all__ = ["VolumePreparation"]

CT_WINDOW = (-175.0, 250.0)
CT_BODY_HU = -500.0
MR_CODES = {"auto": -1.0, "none": 0.0, "ct": 1.0, "mr": 2.0}


class VolumePreparation(Preparation):
    """Volume → (C, Z, Y, X) int16 whose axes point to Superior, Anterior, Right.

    In this order: frames of a series in time are reduced, NaN replaced, axes permuted and flipped to the nearest
    canonical orientation (exact), resampled about the volume's centre, cropped to the body if asked, intensities turned
    into integers. Masks go the same way, so they stay aligned.

    Args:
        spacing_mm: voxel size (z, y, x), or one number for all axes; None keeps each volume's own.
        interpolation: of the image.
        label_interpolation: of masks.
        antialias: smooth the image along axes that lose resolution.
        intensity: ``"ct"`` keeps Hounsfield units; ``"mr"`` scales by robust percentiles; ``"none"`` keeps values as
            they are; ``"auto"`` is ct for a volume in ``"HU"`` and mr for any other. What was used stands in the
            quality column ``intensity`` (1 ct, 2 mr, 0 none).
        window: physical values that become network input 0 and 1 (ct only); None is (-175, 250) HU.
        percentiles: of the body that become network input 0 and 1 (mr only).
        bits: steps between the two percentiles, as a power of two, for values on no lattice of their own (mr only).
        crop_foreground: cut away the air around the body (and every mask).
        margin: voxels left around it.
        frames: what becomes of a series in time: its first frame, its mean, or a refusal.
    """

    def __init__(
        self,
        *,
        spacing_mm: float | tuple[float, float, float] | None = None,
        interpolation: Interpolation = "linear",
        label_interpolation: LabelInterpolation = "onehot_linear",
        antialias: bool = True,
        intensity: Literal["auto", "ct", "mr", "none"] = "auto",
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] = (0.5, 99.5),
        bits: int = 14,
        crop_foreground: bool = False,
        margin: int = 4,
        frames: Literal["first", "mean", "refuse"] = "first",
    ) -> None:
        self.spacing_mm = _three(spacing_mm)
        self.interpolation: Interpolation = _one_of("interpolation", interpolation, "linear", "cubic")
        self.label_interpolation: LabelInterpolation = _one_of(
            "label_interpolation", label_interpolation, "nearest", "onehot_linear"
        )
        self.antialias = antialias
        self.intensity: str = _one_of("intensity", intensity, "auto", "ct", "mr", "none")
        self.window = tuple(window) if window is not None else CT_WINDOW
        self.percentiles = tuple(percentiles)
        self.bits = bits
        self.crop_foreground = crop_foreground
        self.margin = margin
        self.frames = _one_of("frames", frames, "first", "mean", "refuse")
        if len(self.window) != 2 or self.window[1] <= self.window[0]:
            raise ConfigError(f"window {self.window} is empty; give (low, high) with low < high")
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"percentiles {self.percentiles} are not two rising numbers between 0 and 100")
        if not 8 <= bits <= 14:
            raise ConfigError(f"bits {bits} is not between 8 and 14")

    def __call__(self, recording: Recording) -> Prepared:
        """Prepare one volume. See the class.

        Raises:
            UnreadableRecording: not a volume, constant, without a finite voxel, a mask of another shape or with values
                that are no labels.
        """
        notes: list[str] = []
        image = self._channels_first(recording, notes)
        masks = _masks(recording, image.shape[1:])
        image, bad = without_nan(image)
        if bad:
            notes.append(f"{bad:.3%} of the voxels were NaN or infinite; replaced by the smallest finite value")
        _refuse_constant(image, bad, recording)
        affine = self._affine(recording, notes)
        image, masks, affine = _turn(image, masks, affine, recording)
        image, masks, affine = self._resample(image, masks, affine)
        _refuse_constant(image, bad, recording)
        kind = self._kind(recording)
        if self.crop_foreground:
            image, masks, affine = self._crop(image, masks, affine, kind)
        channels = [self._encode(channel, kind) for channel in image]
        body = self._body(image[0], channels[0], kind)
        clipped = max(c.clipped for c in channels)
        if clipped > 0.001 and kind == "ct":
            notes.append(f"{clipped:.2%} of the voxels lay outside [-1024, 3071] HU and were clipped")
        return Prepared(
            image=np.stack([c.stored for c in channels]),
            scale=np.array([c.scale for c in channels]),
            offset=np.array([c.offset for c in channels]),
            input_scale=np.array([c.input_scale for c in channels]),
            input_offset=np.array([c.input_offset for c in channels]),
            input_range=(min(c.input_range[0] for c in channels), max(c.input_range[1] for c in channels)),
            fill=min(c.fill for c in channels),
            channels=_channel_names(recording, len(channels)),
            masks={name: np.ascontiguousarray(mask) for name, mask in masks.items()},
            units=_units(recording, kind, len(channels)),
            spacing_mm=tuple(round(v, 6) for v in spacing_of(affine)),
            rate_hz=None,
            affine=affine,
            foreground=sample_coordinates(body),
            mask_foreground={name: label_coordinates(mask) for name, mask in masks.items()},
            events=recording.events,
            notes=(*recording.notes, *notes),
            quality={
                "nan_fraction": bad,
                "clipped_fraction": clipped,
                "foreground_fraction": float(np.count_nonzero(body)) / body.size,
                "intensity": MR_CODES[kind],
            },
        )

    def _channels_first(self, recording: Recording, notes: list[str]) -> NDArray[Any]:
        """(C, n0, n1, n2), spatial axes in the order they stand."""
        axes, data = recording.axes, recording.data
        if len(recording.spatial_axes) != 3:
            raise UnreadableRecording(f"axes '{axes}' are not those of a volume", recording.source)
        if data.size == 0:
            raise UnreadableRecording(f"it is empty (shape {data.shape})", recording.source)
        if np.iscomplexobj(data) or data.dtype.kind not in "biuf":
            raise UnreadableRecording(f"its voxels are {data.dtype}, not real numbers", recording.source)
        if "t" in axes:
            count = data.shape[axes.index("t")]
            if self.frames == "refuse" and count > 1:
                raise UnreadableRecording(f"it is a series of {count} frames, one volume is wanted", recording.source)
            if count > 1:
                notes.append(f"{self.frames} of {count} frames taken")
            t = axes.index("t")
            data = data.mean(axis=t, dtype=np.float32) if self.frames == "mean" else np.take(data, 0, axis=t)
            axes = axes.replace("t", "")
        if data.dtype == np.bool_:
            data = data.astype(np.uint8)
        return np.moveaxis(data, axes.index("c"), 0) if "c" in axes else data[np.newaxis]

    @staticmethod
    def _affine(recording: Recording, notes: list[str]) -> NDArray[np.float64]:
        if recording.affine is not None:
            return np.asarray(recording.affine, dtype=np.float64)
        if recording.spacing_mm is None:
            notes.append("no geometry in the source; voxels taken as 1 mm, axes as Superior, Anterior, Right")
            return default_affine((1.0, 1.0, 1.0))
        notes.append("no orientation in the source; axes taken as Superior, Anterior, Right")
        return default_affine(recording.spacing_mm)

    def _resample(
        self, image: NDArray[Any], masks: dict[str, NDArray[np.uint8]], affine: NDArray[np.float64]
    ) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]], NDArray[np.float64]]:
        spacing = np.asarray(spacing_of(affine))
        if self.spacing_mm is None or np.allclose(spacing, self.spacing_mm, rtol=1e-3):
            return image, masks, affine  # the same size to a thousandth: interpolating would only blur
        shape, new_affine = regridded(affine, image.shape[1:], self.spacing_mm)
        ratio = np.asarray(self.spacing_mm) / spacing
        resampled = [
            resample_volume(c, shape, ratio, interpolation=self.interpolation, antialias=self.antialias) for c in image
        ]
        labels = {
            name: resample_labels(mask, shape, ratio, interpolation=self.label_interpolation)
            for name, mask in masks.items()
        }
        return np.stack(resampled), labels, new_affine

    def _kind(self, recording: Recording) -> str:
        if self.intensity != "auto":
            return self.intensity
        return "ct" if "HU" in recording.units else "mr"

    def _encode(self, channel: NDArray[Any], kind: str) -> Encoded:
        if kind == "ct":
            return encode_ct(channel, (self.window[0], self.window[1]))
        if channel.min() == channel.max():  # an empty channel beside others that are not
            return encode_lossless(np.zeros_like(channel))
        if kind == "mr":
            return encode_mr(channel, (self.percentiles[0], self.percentiles[1]), bits=self.bits)
        return encode_lossless(channel)

    def _body(self, channel: NDArray[Any], encoded: Encoded, kind: str) -> NDArray[np.bool_]:
        if kind == "ct":
            return np.asarray(channel > CT_BODY_HU)
        values = (encoded.stored * np.float32(encoded.input_scale) + np.float32(encoded.input_offset)).clip(
            *encoded.input_range
        )
        return np.asarray(values > body_threshold(values))

    def _crop(
        self, image: NDArray[Any], masks: dict[str, NDArray[np.uint8]], affine: NDArray[np.float64], kind: str
    ) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]], NDArray[np.float64]]:
        keep = self._body(image[0], self._encode(image[0], kind), kind)
        for mask in masks.values():
            keep |= mask > 0
        box = bounding_box(keep, margin=self.margin)
        if box is None:
            return image, masks, affine
        return (
            image[(slice(None), *box)],
            {n: m[box] for n, m in masks.items()},
            shifted(affine, [s.start for s in box]),
        )


def _three(spacing_mm: float | Sequence[float] | None) -> tuple[float, float, float] | None:
    if spacing_mm is None:
        return None
    values = (spacing_mm,) * 3 if isinstance(spacing_mm, (int, float)) else tuple(spacing_mm)
    if len(values) != 3 or any(not v > 0 for v in values):
        raise ConfigError(f"spacing_mm {spacing_mm} is not one or three sizes above 0")
    return float(values[0]), float(values[1]), float(values[2])


def _one_of(option: str, value: Any, *allowed: str) -> Any:
    if value not in allowed:
        raise ConfigError(f"{option} '{value}' is unknown; use one of {', '.join(allowed)}")
    return value


def _refuse_constant(image: NDArray[Any], bad: float, recording: Recording) -> None:
    if bad == 1.0:
        raise UnreadableRecording("not one voxel is finite", recording.source)
    if image.min() == image.max():
        raise UnreadableRecording(f"all voxels have the same value ({image.flat[0]:g})", recording.source)


def _masks(recording: Recording, shape: tuple[int, ...]) -> dict[str, NDArray[np.uint8]]:
    """The recording's label maps as uint8; scalars among its labels are not masks."""
    masks = {}
    for name, value in recording.labels.items():
        if not isinstance(value, np.ndarray) or value.ndim < 3:
            continue
        if value.shape != shape:
            raise UnreadableRecording(f"mask '{name}' has shape {value.shape}, the image {shape}", recording.source)
        masks[name] = _uint8_labels(name, value, recording.source)
    return masks


def _uint8_labels(name: str, value: NDArray[Any], source: str) -> NDArray[np.uint8]:
    if value.dtype == np.uint8:
        return value
    if value.dtype.kind == "f":
        whole = np.rint(value)
        if not np.isfinite(value).all() or np.abs(value - whole).max() > 1e-3:
            raise UnreadableRecording(f"mask '{name}' has values that are not whole numbers", source)
        value = whole
    if value.min() < 0 or value.max() > 255:
        raise UnreadableRecording(
            f"mask '{name}' has labels from {value.min():g} to {value.max():g}; 0 to 255 can be stored, "
            "merge them in the recipe",
            source,
        )
    return np.asarray(value.astype(np.uint8))


def _turn(
    image: NDArray[Any], masks: Mapping[str, NDArray[np.uint8]], affine: NDArray[np.float64], recording: Recording
) -> tuple[NDArray[Any], dict[str, NDArray[np.uint8]], NDArray[np.float64]]:
    try:
        turned, new_affine = canonical(image, affine)
    except ValueError as error:
        raise UnreadableRecording(f"its orientation cannot be told: {error}", recording.source) from error
    return turned, {name: canonical(mask, affine)[0] for name, mask in masks.items()}, new_affine


def _channel_names(recording: Recording, count: int) -> tuple[str, ...]:
    if recording.channels and len(recording.channels) == count:
        return recording.channels
    return ("image",) if count == 1 else tuple(f"channel_{i}" for i in range(count))


def _units(recording: Recording, kind: str, count: int) -> tuple[str, ...]:
    if len(recording.units) == count:
        return recording.units
    return (recording.units[0] if recording.units else "HU" if kind == "ct" else "",) * count
