"""Clips of video whose single frames are annotated: random ones for training, overlapping ones for whole videos.

A clip that reaches beyond its video shows the first or last frame again, in training as in testing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.heads.segmentation import UNKNOWN
from medssl.training.labelled import LabelledCrops
from medssl.training.windows import Recordings, Starts, middle_start, random_start, start_around
from medssl.views.clip_sampling import clip_frames

if TYPE_CHECKING:
    from medssl.heads.segmentation import SegmentationHead
    from medssl.training.inference import Testing
    from medssl.training.targets import Target

__all__ = ["LabelledClips", "clip_around", "frames_of_clips", "labelled_crops", "read_frames", "segment_frames"]

SIGMA = 0.125
"""Width of the weights of a clip's frames as a share of its length; as of sliding windows in space (nnU-Net, MONAI)."""

LEAST = 1e-3  # of these weights relative to the largest: a frame at the end of the only clip counts too

ReadFrames = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def labelled_crops(
    target: Target, items: NDArray[np.int64], recordings: Recordings, *, size: Starts, foreground: float,
    period: int = 1,
) -> LabelledCrops:  # fmt: skip
    """Training crops of a segmentation target: of volumes, or clips of video around annotated frames."""
    if target.traces is None:
        return LabelledCrops(target, items, recordings, size=size, foreground=foreground)
    return LabelledClips(target, items, recordings, size=size, foreground=foreground, period=period)


def frames_of_clips(starts: Sequence[int], length: int, period: int, frames: int) -> NDArray[np.int64]:
    """Frames that clips show, (S,) starts → (S, length); the first or last one again beyond the video.

    >>> frames_of_clips([-2, 5], 4, 2, 10).tolist()
    [[0, 0, 2, 4], [5, 7, 9, 9]]
    """
    return np.asarray(np.clip(clip_frames(starts, length, period), 0, frames - 1))


def clip_around(frame: int, frames: int, length: int, period: int, rng: np.random.Generator) -> int:
    """Start of a clip that shows ``frame``, each place in the clip equally likely as far as the video reaches.

    Args:
        frame: of the video.
        frames: of the video.
        length: of the clip.
        period: frames of the video from one frame of the clip to the next.
        rng: of the place.

    Returns:
        May be negative, where the video is shorter than the clip.
    """
    before, after = frame // period, (frames - 1 - frame) // period  # frames of the same phase on either side
    if before + 1 + after <= length:
        return frame - (before - middle_start(before + 1 + after, length)) * period
    place = int(rng.integers(max(0, length - 1 - after), min(length - 1, before) + 1))
    return frame - place * period


def read_frames(
    recordings: Recordings, row: int, frames: NDArray[np.int64], start: Sequence[int], size: Sequence[int],
    key: str = "image",
) -> NDArray[Any]:  # fmt: skip
    """Stored integers (C, len(frames), *size) of rising frames of a video, any of them more than once.

    Args:
        recordings: how they are read.
        row: of the manifest.
        frames: numbers inside the video.
        start, size: (y, x) of the part of every frame.
        key: ``"image"``, or ``"mask:NAME"``.
    """
    first, last = int(frames[0]), int(frames[-1])
    part = recordings.read(row, (first, *start), (last - first + 1, *size), key)
    return part[:, frames - first]


class LabelledClips(LabelledCrops):
    """Training clips of a segmentation target of video, each around one of the recording's annotated frames.

    The frame is drawn among those of its recording, its place in the clip at random. Where a clip is smaller than a
    frame, a share is centred on a pixel of a class.

    Args:
        target: the masks, with ``traces``.
        items: indices of the items used.
        recordings: how they are read.
        size: (frames, y, x) of a clip.
        foreground: share of clips centred on a pixel of a class.
        period: frames of the video from one frame of a clip to the next.
    """

    def __init__(
        self, target: Target, items: NDArray[np.int64], recordings: Recordings, *, size: Starts, foreground: float,
        period: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(target, items, recordings, size=size, foreground=foreground)
        assert target.traces is not None
        self.traces, self.period = target.traces, period

    def draw(self, item: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """``x`` (1, C, *size) stored integers, ``y`` (1, *size) class indices, ``UNKNOWN`` in untraced frames."""
        row = int(self.target.rows[item])
        traced = [trace.frame for trace in self.traces[item]]
        frame, count = int(traced[int(rng.integers(len(traced)))]), self.recordings.shape(row)[0]
        first = clip_around(frame, count, self.size[0], self.period, rng)
        shown = frames_of_clips([first], self.size[0], self.period, count)[0]
        start = self._place(row, frame, rng)
        image = read_frames(self.recordings, row, shown, start, self.size[1:])
        known = np.isin(shown, traced)
        y = np.full((1, *self.size), UNKNOWN, dtype=np.uint8)
        mask = read_frames(self.recordings, row, shown[known], start, self.size[1:], f"mask:{self.target.name}")
        y[:, known] = self.class_of[mask]
        return {**self.recordings.fields(row), "x": image[None], "y": y}

    def _place(self, row: int, frame: int, rng: np.random.Generator) -> Starts:
        """(y, x) at which the clip begins in every frame."""
        shape, size = self.recordings.shape(row)[1:], self.size[1:]
        if rng.random() < self.foreground and any(n > s for n, s in zip(shape, size, strict=True)):
            reader = self.target.cohort.reader(row)
            for label in rng.permutation(self.target.values[1:]):  # the next class where this one is absent
                points = reader.foreground(self.target.name, int(label))
                points = points[points[:, 0] == frame]
                if len(points):
                    return start_around(points[int(rng.integers(len(points)))][1:], shape, size)
        return random_start(shape, size, rng)


def segment_frames(
    head: SegmentationHead, read: ReadFrames, count: int, testing: Testing, *, wanted: Collection[int] | None = None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Class probabilities of the frames of a video of any length; call inside ``applied``.

    Clips overlap in time as windows do in space, and a frame's answers are averaged with Gaussian weights of its place
    in them. Never more than one clip's frames are held. Asking for some frames only gives the same numbers for them.

    Args:
        head: the model.
        read: frame numbers (n,) → network input (C, n, Y, X).
        count: frames of the video.
        testing: how the model is applied.
        wanted: frames to answer; None answers all.

    Yields:
        A frame's number and its probabilities (K, Y, X); each frame once, in order for a period of 1.
    """
    length = testing.size[0]
    for phase in range(min(testing.period, count)):
        own = np.arange(phase, count, testing.period)  # a clip steps from one of these to the next
        asked = own if wanted is None else own[np.isin(own, list(wanted))]
        starts = _starts(len(own), length, testing.overlap)
        yield from _phase(head, read, own, np.flatnonzero(np.isin(own, asked)), starts, testing)


def _phase(
    head: SegmentationHead, read: ReadFrames, own: NDArray[np.int64], asked: NDArray[np.intp], starts: Sequence[int],
    testing: Testing,
) -> Iterator[tuple[int, NDArray[np.float32]]]:  # fmt: skip
    """``segment_frames`` of the frames ``own``, of which those at the places ``asked`` are answered."""
    import torch

    length, weights = testing.size[0], _weights(testing.size[0])
    held: dict[int, tuple[Any, float]] = {}
    for i, start in enumerate(starts):
        places = start + np.arange(length)
        inside = [int(p) for p in asked[(asked >= start) & (asked < start + length)]]
        if inside:
            clip = read(own[np.clip(places, 0, len(own) - 1)])
            found = head.predict_volume(
                torch.from_numpy(clip).to(head.device), size=testing.size, overlap=testing.overlap,
                batch=max(1, testing.batch // 4),
            )  # fmt: skip
            for place in inside:
                weight = float(weights[place - start])
                total, sum_of = held.get(place, (0.0, 0.0))
                held[place] = (total + weight * found[:, place - start], sum_of + weight)
        upcoming = starts[i + 1] if i + 1 < len(starts) else len(own)
        for place in sorted(p for p in held if p < upcoming):
            total, sum_of = held.pop(place)
            yield int(own[place]), (total / sum_of).float().cpu().numpy()


def _starts(frames: int, length: int, overlap: float) -> list[int]:
    """Starts of overlapping clips, first and last at the ends of a video; one centred clip where that is short.

    >>> _starts(20, 8, 0.5), _starts(5, 8, 0.5)
    ([0, 4, 8, 12], [-1])
    """
    if frames <= length:
        return [middle_start(frames, length)]
    step = max(1, round(length * (1 - overlap)))
    return [*range(0, frames - length, step), frames - length]


def _weights(length: int) -> NDArray[np.float64]:
    """Gaussian weight of each place in a clip."""
    from_middle = np.arange(length) - (length - 1) / 2
    return np.asarray(np.maximum(np.exp(-0.5 * (from_middle / (SIGMA * length)) ** 2), LEAST))
