"""Clips of video: which frames and which part of them are read, in time as in the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import video

from medssl.errors import CohortError, ConfigError
from medssl.views.clip import ClipViews
from medssl.views.clip_crops import crop_box, crop_offsets, crop_sizes, resized_frames
from medssl.views.clip_frames import repeated_frames, start_count


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(reader: Any, seed: int = 0, **options: Any) -> dict[str, Any]:
    views = ClipViews(options.pop("size", (4, 20, 20)), **{"crop": "whole", **options})
    return views.draw(reader, rng(seed))  # type: ignore[arg-type]


def numbered(frames: int = 24, rate_hz: float | None = 50.0) -> Any:
    """A video whose every pixel says which frame it is of."""
    reader = video(0, (frames, 20, 20))
    reader.data = np.broadcast_to(np.arange(frames, dtype=np.uint8)[None, :, None, None], reader.data.shape).copy()
    reader.rate_hz = rate_hz
    return reader


def test_the_frames_that_are_named_are_the_ones_that_are_read() -> None:
    sample = drawn(numbered(), count=3, stride=3)
    assert sample["x"].shape == (3, 1, 4, 20, 20) and sample["x"].dtype == np.uint8
    np.testing.assert_array_equal(sample["x"][:, 0, :, 5, 5], sample["frames"])
    assert (np.diff(sample["frames"]) == 3).all()


@pytest.mark.parametrize("frames", [1, 2, 5, 7, 9])
def test_a_short_video_repeats_its_last_reachable_frame(frames: int) -> None:
    sample = drawn(numbered(frames), size=(8, 20, 20), stride=2)
    wanted = repeated_frames(frames, 8, 2, 0)
    np.testing.assert_array_equal(sample["x"][0, 0, :, 0, 0], wanted)
    assert wanted.max() < frames and (np.diff(wanted) >= 0).all() and wanted[-1] == wanted[-2]


def test_every_start_is_drawn_and_no_other() -> None:
    starts = {int(drawn(numbered(12), seed=s, count=1, stride=2)["frames"][0, 0]) for s in range(200)}
    assert starts == set(range(start_count(12, 4, 2))) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("rate", "step"), [(50.0, 2.0), (25.0, 1.0), (100.0, 4.0), (30.0, 1.2)])
def test_a_rate_makes_the_stride_the_same_time_in_every_video(rate: float, step: float) -> None:
    sample = drawn(numbered(60, rate), size=(8, 20, 20), stride=2, rate_hz=50.0, count=1)
    seconds = (sample["frames"][0] - sample["frames"][0, 0]) / rate
    np.testing.assert_allclose(seconds, np.arange(8) * 2 / 50, atol=0.5 / rate + 1e-9)
    assert sample["frames"][0, -1] - sample["frames"][0, 0] == round(7 * step)


def test_a_slow_video_shows_frames_more_than_once() -> None:
    frames = drawn(numbered(24, 10.0), stride=1, rate_hz=20.0, count=1)["frames"][0]
    assert (np.diff(frames) <= 1).all() and frames[-1] - frames[0] in (1, 2)


def test_clips_lie_as_near_to_the_first_as_asked() -> None:
    apart = [drawn(numbered(100), seed=s, count=4, gap_s=0.2)["frames"][:, 0] for s in range(40)]
    distances = np.abs(np.stack(apart) - np.stack(apart)[:, :1])
    assert distances.max() == 10
    same = drawn(numbered(100), count=3, gap_s=0.0)["frames"]
    assert (same == same[0]).all()
    anywhere = [drawn(numbered(100), seed=s, count=2)["frames"][:, 0] for s in range(40)]
    assert np.abs(np.diff(np.stack(anywhere))).max() > 50


def test_a_rate_that_is_not_known_is_asked_for() -> None:
    for option in ({"rate_hz": 50.0}, {"gap_s": 1.0}):
        with pytest.raises(CohortError, match="R0 has no frame rate"):
            drawn(numbered(rate_hz=None), **option)
    assert drawn(numbered(rate_hz=None), stride=2)["x"].shape == (2, 1, 4, 20, 20)


@pytest.mark.parametrize("crop", ["whole", "multi_scale", "resized"])
def test_the_crop_is_the_same_in_all_frames_and_what_is_read(crop: Any) -> None:
    reader = video(0, (24, 40, 52))
    reader.data = np.broadcast_to(reader.data[:, :1], reader.data.shape).copy()  # nothing moves
    sample = drawn(reader, size=(4, 16, 16), crop=crop, count=3)
    assert (sample["x"] == sample["x"][:, :, :1]).all()
    for clip, (y, x, height, width) in zip(sample["x"], sample["boxes"].tolist(), strict=True):
        assert 0 <= y <= y + height <= 40 and 0 <= x <= x + width <= 52
        np.testing.assert_array_equal(clip, resized_frames(reader.data[:, :4, y : y + height, x : x + width], (16, 16)))
    assert (sample["boxes"] == sample["boxes"][0]).all() == (crop == "whole")


def test_the_whole_frame_keeps_its_ratio() -> None:
    assert crop_box((600, 800), (112, 112), "whole", (1, 1), rng()).tolist() == [0, 100, 600, 600]
    assert crop_box((112, 112), (112, 112), "whole", (1, 1), rng()).tolist() == [0, 0, 112, 112]
    assert crop_box((100, 50), (10, 20), "whole", (1, 1), rng()).tolist() == [37, 0, 25, 50]


def test_multi_scale_crops_take_neighbouring_scales_and_thirteen_places() -> None:
    frame, seen = (128, 160), set()
    for seed in range(600):
        y, x, height, width = crop_box(frame, (112, 112), "multi_scale", (1, 1), rng(seed)).tolist()
        sizes = crop_sizes(frame, 112)
        assert abs(sizes.index(height) - sizes.index(width)) <= 1
        assert (x, y) in crop_offsets(frame, (height, width))
        seen.add((height, width))
    assert len(seen) == 10  # of 16 pairs, those at most one scale apart


def test_an_edge_near_the_wanted_one_is_not_resized() -> None:
    assert crop_sizes((130, 130), 112) == [130, 112, 97, 85]  # 113 of 130
    assert crop_sizes((110, 110), 112)[0] == 112
    box = crop_box((110, 110), (112, 112), "multi_scale", (1, 1), rng(3))
    assert (box[2:] <= 110).all(), "but never beyond the frame"


def test_resized_crops_have_the_share_of_the_area_that_is_asked_for() -> None:
    boxes = np.stack([crop_box((100, 200), (112, 112), "resized", (0.25, 0.64), rng(s)) for s in range(300)])
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert 50 <= boxes[:, 2].min() < 53 and 77 < boxes[:, 2].max() <= 80
    assert (boxes[:, 0] + boxes[:, 2] <= 100).all() and boxes[:, 1].max() > 100


def test_frames_are_resized_for_themselves_and_stay_integers() -> None:
    frames = rng().integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    half = resized_frames(frames, (4, 4))
    assert half.dtype == np.uint8 and half.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(half[:, 1:2], resized_frames(frames[:, 1:2], (4, 4)))
    flat = np.full((1, 2, 9, 7), 255, np.uint8)
    assert (resized_frames(flat, (12, 5)) == 255).all()
    ramp = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8), (1, 1, 4, 16)).copy()
    inner = resized_frames(ramp, (4, 8))[0, 0, 0, 1:-1]
    np.testing.assert_allclose(inner, np.arange(25, 140, 20), atol=1)


@pytest.mark.parametrize("shape", [(84, 84), (112, 73), (96, 130), (1, 1)])
def test_frames_are_smoothed_where_they_shrink_and_only_there_since_it_shows_nowhere_else(shape: Any) -> None:
    frames = rng().integers(0, 256, (1, 3, *shape)).astype(np.uint8)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(frames).float(), size=(112, 112), mode="bilinear", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(resized_frames(frames, (112, 112)), smooth.numpy(), atol=0.5001)


def test_reads_no_more_than_the_clip_spans() -> None:
    reader = numbered(100)
    sample = drawn(reader, count=2, stride=3, crop="multi_scale")
    for (start, size), frames, box in zip(reader.reads, sample["frames"], sample["boxes"], strict=True):
        assert start == (frames[0], box[0], box[1]) and size == (10, box[2], box[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (16, 16)}, "frames, height and width"),
        ({"stride": 0}, "stride of at least 1"),
        ({"count": 0}, "count"),
        ({"rate_hz": 0.0}, "rate_hz above 0"),
        ({"gap_s": -1.0}, "gap_s of 0 or more"),
        ({"crop": "centre"}, "whole, multi_scale or resized"),
        ({"scale": (0.0, 1.0)}, "rising"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipViews(**{"size": (4, 16, 16), **options})


def test_cohorts_of_another_kind_are_refused() -> None:
    from toys import info

    with pytest.raises(ConfigError, match="cuts videos, but this cohort holds volumes"):
        ClipViews((4, 16, 16)).check(info("volume", 1))


def test_masks_move_with_their_clip() -> None:
    x = torch.zeros(4, 1, 3, 24, 24)
    x[..., 6:16, 8:14] = 1
    mask = (x > 0).to(torch.uint8) * 2
    moved, moved_mask = ClipViews((3, 24, 24)).augment_pair(x, mask, torch.Generator().manual_seed(0))
    inside, labelled = moved > 0.5 * moved.amax(), moved_mask == 2
    assert moved_mask.dtype == torch.uint8 and set(moved_mask.unique().tolist()) == {0, 2}
    assert 2 * (inside & labelled).sum() / (inside.sum() + labelled.sum()) > 0.9 and not torch.equal(moved_mask, mask)
