"""Clips around traced frames: what training draws, and how a whole video is answered clip by clip."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_cohorts import make_cohort
from toy_traced_recipe import FRAMES, HEIGHT, WIDTH, square, traced

from medssl.cohort import Cohort
from medssl.errors import CohortError, ConfigError
from medssl.heads.segmentation import UNKNOWN
from medssl.training.clip_scoring import case_rows, pooled_rows, traced_masks
from medssl.training.clips import LabelledClips, clip_around, frames_of_clips, segment_frames
from medssl.training.inference import Testing as How
from medssl.training.scoring import score_masks, validation_score
from medssl.training.targets import Target, Trace, resolve_target
from medssl.training.windows import Recordings


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients with one clip each."""
    return make_cohort(tmp_path_factory.mktemp("traced"), "traced", patients=4)


@pytest.fixture
def target(clips: Path) -> Target:
    return resolve_target(Cohort(clips), "segmentation", "spot")


def reader(target: Target, cache_gb: float = 1.0) -> Recordings:
    return Recordings(target.cohort, channels=None, rows=target.rows, masks=("spot",), cache_gb=cache_gb)


def how(size: tuple[int, int, int], *, overlap: float = 0.5, period: int = 1) -> How:
    return How(size=size, overlap=overlap, windows=8, batch=4, precision="32-true", period=period)


class Oracle(torch.nn.Module):
    """Finds the bright square of every frame; ``late`` shifts its answers by frames, as a misaligned model would."""

    device = torch.device("cpu")
    classes = ("background", "square")

    def __init__(self, late: int = 0) -> None:
        super().__init__()
        self.late = late

    def predict_volume(self, image: torch.Tensor, **_: object) -> torch.Tensor:
        bright = (image[0] > 0.7).float().roll(self.late, 0)
        return torch.stack([1 - bright, bright])


def test_the_traced_frames_are_known_and_their_phase(target: Target) -> None:
    assert target.classes == ("background", "square") and target.values == (0, 7)
    for item, row in enumerate(target.rows):
        number = int(target.cohort.reader(int(row)).recording.split("-")[1])
        assert target.traces[item] == tuple(Trace(*t) for t in sorted(traced(number).items()))


@pytest.mark.parametrize(("frames", "length", "period"), [(24, 8, 1), (24, 5, 3), (24, 8, 2), (6, 8, 1)])
def test_a_clip_shows_its_frame_at_every_place_it_can(frames: int, length: int, period: int) -> None:
    rng = np.random.default_rng(0)
    for frame in (0, 5, frames - 1):
        starts = [clip_around(frame, frames, length, period, rng) for _ in range(300)]
        shown = frames_of_clips(starts, length, period, frames)
        assert (shown == frame).any(1).all()
        if (frames - 1) // period >= length:  # nothing is repeated in a video that is long enough
            assert (np.diff(shown, axis=1) == period).all()
    if frames == 24:
        places = Counter((5 - clip_around(10, 24, 5, 1, rng)) for _ in range(600))
        assert len(places) == 5 and min(places.values()) > 80


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
@pytest.mark.parametrize("period", [1, 2])
def test_a_training_clip_knows_the_masks_of_its_traced_frames_alone(
    target: Target, cache_gb: float, period: int
) -> None:
    crops = LabelledClips(
        target, np.arange(4), reader(target, cache_gb), size=(6, HEIGHT, WIDTH), foreground=1.0, period=period
    )
    rng, seen = np.random.default_rng(0), set()
    for _ in range(30):
        sample = crops.draw(2, rng)
        x, y = sample["x"][0, 0], sample["y"][0]
        frames = (np.median(x.reshape(6, -1), axis=1).round().astype(int) - 20) // 4
        assert (np.diff(frames) == period).all()
        known = [f in traced(2) for f in frames]
        assert any(known)
        for t, frame in enumerate(frames):
            if known[t]:
                assert np.array_equal(y[t], square(2, frame)) and np.array_equal(x[t] > 200, square(2, frame))
                seen.add(int(frame))
            else:
                assert (y[t] == UNKNOWN).all()
    assert seen == set(traced(2))


def test_clips_smaller_than_a_frame_are_centred_on_the_trace_of_the_frame_they_show(target: Target) -> None:
    crops = LabelledClips(target, np.arange(4), reader(target), size=(4, 8, 8), foreground=1.0)
    rng = np.random.default_rng(0)
    for item in (0, 1, 2, 3):
        sample = crops.draw(item, rng)
        known = (sample["y"][0] != UNKNOWN).any((1, 2))
        assert (sample["y"][0][known] == 1).any()


@pytest.mark.parametrize(("count", "length", "period"), [(24, 8, 1), (24, 8, 2), (5, 8, 1), (23, 4, 3), (1, 4, 2)])
def test_every_frame_is_answered_once_from_a_bounded_number_of_frames(count: int, length: int, period: int) -> None:
    video = np.random.default_rng(0).random((1, count, 3, 4)).astype(np.float32)
    asked: list[int] = []

    def read(frames: np.ndarray) -> np.ndarray:
        asked.append(len(frames))
        return video[:, frames]

    answers = list(segment_frames(Oracle(), read, count, how((length, 3, 4), period=period)))
    assert sorted(frame for frame, _ in answers) == list(range(count))
    assert set(asked) == {length}
    for frame, scores in answers:
        assert np.array_equal(scores[1] > 0.5, video[0, frame] > 0.7)


def test_asking_for_some_frames_gives_the_same_numbers_as_asking_for_all() -> None:
    class Fickle(Oracle):
        """Answers differently at every place of a clip, and in every clip."""

        def predict_volume(self, image: torch.Tensor, **_: object) -> torch.Tensor:
            place = torch.arange(image.shape[1]).view(-1, 1, 1) / 10
            p = (image[0] + place + image.mean()).sigmoid()
            return torch.stack([1 - p, p])

    video = np.random.default_rng(1).random((1, 21, 2, 2)).astype(np.float32)
    options = (lambda frames: video[:, frames], 21, how((8, 2, 2)))
    whole = dict(segment_frames(Fickle(), *options))
    some = dict(segment_frames(Fickle(), *options, wanted=[3, 20]))
    assert set(some) == {3, 20}
    for frame, scores in some.items():
        assert np.array_equal(scores, whole[frame])
    # frame 3 lies in the clip that starts at 0 alone; frame 5 in those at 0 and 4, weighted by its place in them
    clip = [Fickle().predict_volume(torch.from_numpy(video[:, s : s + 8]))[:, 5 - s] for s in (0, 4)]
    weight = [float(np.exp(-0.5 * ((5 - s - 3.5) / 1) ** 2)) for s in (0, 4)]
    expected = sum(w * c for w, c in zip(weight, clip, strict=True)) / sum(weight)
    np.testing.assert_allclose(whole[5], expected.numpy(), rtol=1e-5)


def test_a_perfect_model_scores_one_and_a_model_that_is_a_frame_late_scores_nothing(target: Target) -> None:
    items = np.arange(4)
    testing = how((8, HEIGHT, WIDTH))
    perfect = score_masks(Oracle(), target, items, reader(target), testing)
    names = ["dice", "dice_ed", "dice_es", "dice_pooled", "dice_pooled_ed", "dice_pooled_es"]
    assert {perfect.metrics[n] for n in names} == {1.0} and perfect.metrics["area_error"] == 0
    assert not any(name.startswith(("hd95", "nsd", "masd", "volume")) for name in perfect.metrics)
    late = score_masks(Oracle(late=1), target, items, reader(target), testing)
    assert max(late.metrics[n] for n in names) < 0.3
    decisions = SimpleNamespace(target=target)
    assert validation_score(Oracle(), decisions, items, reader(target), testing) == 1.0
    assert list(perfect.examples["slices_0"]) == sorted(traced(0)) and int(perfect.examples["depth_0"]) == FRAMES


def test_pooled_dice_weighs_pixels_and_the_mean_weighs_videos(target: Target) -> None:
    recordings = reader(target)
    masks = [traced_masks(Oracle(), target, item, recordings, how((8, HEIGHT, WIDTH))) for item in range(4)]
    masks[0].prediction[list(masks[0].phases).index("ES")] = 0  # 16 pixels of one video are missed
    pooled = {r["metric"]: r["value"] for r in pooled_rows(masks, {1: "square"}) if r["label"] == ""}
    assert pooled["dice_pooled"] == pytest.approx(2 * (4 * 52 - 16) / (2 * 4 * 52 - 16))
    assert pooled["dice_pooled_es"] == pytest.approx(2 * 48 / (48 + 64)) and pooled["dice_pooled_ed"] == 1.0
    rows = {r.metric: r.value for r in case_rows(masks[0], {1: "square"}, None) if r.label == ""}
    assert (rows["dice"], rows["dice_es"], rows["dice_ed"], rows["area_error"]) == (0.5, 0.0, 1.0, -0.5)


def test_distances_are_given_where_all_videos_have_a_pixel_size(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, "traced", patients=2, spacing_mm=0.5)
    target = resolve_target(Cohort(cohort), "segmentation", "spot")
    found = score_masks(Oracle(), target, np.arange(2), reader(target), how((8, HEIGHT, WIDTH))).metrics
    assert found["hd95_mm"] == 0 and found["nsd"] == 1


def test_a_mask_that_says_in_no_frame_what_it_shows_is_refused(tmp_path: Path) -> None:
    cohort = Cohort(make_cohort(tmp_path, "traced", patients=2, events=False))
    with pytest.raises(CohortError, match="says in which frames 'spot' was traced"):
        resolve_target(cohort, "segmentation", "spot")


def test_a_cohort_without_masks_and_an_unknown_name_are_refused(tmp_path: Path, clips: Path) -> None:
    with pytest.raises(ConfigError, match="no segmentation target 'lv'; it has: none"):
        resolve_target(Cohort(make_cohort(tmp_path, "video", patients=1)), "segmentation", "lv")
    with pytest.raises(ConfigError, match="no segmentation target 'lv'; it has: spot"):
        resolve_target(Cohort(clips), "segmentation", "lv")


def test_a_trace_beyond_its_clip_is_refused(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path, "traced", patients=2)
    file = folder / "events.parquet"
    events = pd.read_parquet(file)
    events.loc[1, "onset_s"] = 9.0
    events.to_parquet(file, index=False)
    with pytest.raises(CohortError, match=r"P0-0 has a traced frame at 9 s, outside its 24 frames"):
        resolve_target(Cohort(folder), "segmentation", "spot")
