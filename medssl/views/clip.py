"""Clips of video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.errors import CohortError, ConfigError
from medssl.views.base import Sample
from medssl.views.clip_augment import ClipAugmentation, apply_intensity, apply_spatial, draw_parameters
from medssl.views.clip_crops import Crop, crop_box, resized_frames
from medssl.views.clip_frames import repeated_frames, start_count
from medssl.views.spatial import SpatialViews

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["ClipViews"]


class ClipViews(SpatialViews):
    """Clips of one video, each augmented for itself; crop and augmentation are the same in all frames of a clip.

    A video that is shorter than a clip repeats its last frame.

    Args:
        size: of a clip: frames, height, width.
        count: clips of a video.
        stride: frames from one frame of a clip to the next.
        rate_hz: rate that ``stride`` counts in: with 50, a stride of 2 is 40 ms in every video, whatever its own rate,
            by the frame nearest in time. None counts each video's own frames.
        gap_s: how far, in seconds, the other clips may start from the first. None takes any clip of the video.
        crop: ``"multi_scale"``: one of a few crops, resized (VideoMAE, DISCOVR); ``"resized"``: a random share of the
            frame; ``"whole"``: as much of it as has the ratio of ``size``.
        scale: smallest and largest share of the frame's area, for ``"resized"``.
        augmentation: transforms and strengths.
    """

    kind = "video"

    def __init__(
        self,
        size: tuple[int, int, int],
        *,
        count: int = 2,
        stride: int = 1,
        rate_hz: float | None = None,
        gap_s: float | None = None,
        crop: Crop = "multi_scale",
        scale: tuple[float, float] = (0.4, 1.0),
        augmentation: ClipAugmentation | None = None,
    ) -> None:
        if len(size) != 3 or min(size) < 1 or count < 1 or stride < 1:
            raise ConfigError(
                f"ClipViews needs frames, height and width of 1 or more, a count and a stride of at least 1, not {size}"
                f", {count} and {stride}"
            )
        if (rate_hz is not None and not rate_hz > 0) or (gap_s is not None and not gap_s >= 0):
            raise ConfigError(
                f"ClipViews takes a rate_hz above 0 and a gap_s of 0 or more seconds, or none, not {rate_hz} and "
                f"{gap_s}"
            )
        if crop not in ("whole", "multi_scale", "resized") or not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(
                "ClipViews takes a crop of whole, multi_scale or resized and a scale of two rising numbers above 0, up "
                f"to 1, not {crop} and {scale}"
            )
        self.size = (int(size[0]), int(size[1]), int(size[2]))
        self.count, self.stride, self.rate_hz, self.gap_s = count, stride, rate_hz, gap_s
        self.crop: Crop = crop
        self.scale = (float(scale[0]), float(scale[1]))
        self.augmentation = augmentation or ClipAugmentation()

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """Clips of one video.

        Returns:
            ``x`` (count, C, *size) stored integers, ``frames`` (count, T) of the video that they show, ``boxes``
            (count, 4) of its frames: y, x, height, width; and input fields.
        """
        frames = self._frames(reader, rng)
        boxes = [crop_box(reader.shape[1:], self.size[1:], self.crop, self.scale, rng) for _ in frames]
        x = np.stack([self._read(reader, f, b) for f, b in zip(frames, boxes, strict=True)])
        return {**reader.input_fields(), "x": x, "frames": np.stack(frames), "boxes": np.stack(boxes)}

    def draw_parameters(self, shape: tuple[int, ...], generator: torch.Generator) -> dict[str, Tensor]:
        """What ``apply`` needs for a batch of that shape; keep it to replay the views."""
        return draw_parameters(shape[0], self.augmentation, generator)

    def move(self, x: Tensor, parameters: dict[str, Tensor], *, nearest: bool = False) -> Tensor:
        """See ``SpatialViews.move``: flip, rotation and scaling, the same in all frames."""
        return apply_spatial(x, parameters, nearest=nearest)

    def tint(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """See ``SpatialViews.tint``."""
        return apply_intensity(x, parameters)

    def _step(self, reader: Reader) -> float:
        """Frames of this video from one frame of a clip to the next."""
        if self.rate_hz is None:
            return float(self.stride)
        return self.stride * self._rate(reader) / self.rate_hz

    def _frames(self, reader: Reader, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Frames that each clip shows."""
        total, step = int(reader.shape[0]), self._step(reader)
        most = start_count(total, self.size[0], step)
        starts = [int(rng.integers(most))]
        reach = most if self.gap_s is None else round(self.gap_s * self._rate(reader))
        low, high = max(0, starts[0] - reach), min(most, starts[0] + reach + 1)
        starts += [int(rng.integers(low, high)) for _ in range(self.count - 1)]
        return [repeated_frames(total, self.size[0], step, start) for start in starts]

    def _read(self, reader: Reader, frames: NDArray[np.int64], box: NDArray[np.int64]) -> NDArray[Any]:
        (first, last), (y, x, height, width) = frames[[0, -1]].tolist(), box.tolist()
        part = reader.read((first, y, x), (last - first + 1, height, width))
        return resized_frames(part[:, frames - first], self.size[1:])

    @staticmethod
    def _rate(reader: Reader) -> float:
        if not reader.rate_hz:
            raise CohortError(
                f"recording {reader.recording} has no frame rate; leave rate_hz and gap_s of ClipViews out, or prepare "
                "the cohort with a rate"
            )
        return float(reader.rate_hz)
