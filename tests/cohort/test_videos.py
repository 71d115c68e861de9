"""Preparation of ultrasound video, and cohorts of the third kind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from medssl.adapters.recording import Event, Recording
from medssl.cohort import Cohort
from medssl.cohort.store import chunk_shape
from medssl.cohort.verify import cohort_info, cohort_verify
from medssl.cohort.videos import TRACE, VideoPreparation
from medssl.cohort.writer import prepare
from medssl.errors import ConfigError, UnreadableRecording
from medssl.synth.echo import SyntheticEcho, draw_echo_patient, simulate_echo
from medssl.synth.echo_files import write_echonet


def phantom(seed: int = 0, frames: int = 40, size: tuple[int, int] = (160, 200)) -> SyntheticEcho:
    rng = np.random.default_rng(seed)
    return simulate_echo(rng, draw_echo_patient(rng), frames=frames, size=size)


def recording(echo: SyntheticEcho, **changes) -> Recording:
    values = {"rate_hz": echo.rate_hz, "spacing_mm": echo.spacing_mm, "source": "clip.avi", **changes}
    return Recording(**{"data": echo.frames, "axes": "tyx", **values})


@pytest.fixture(scope="module")
def echo() -> SyntheticEcho:
    return phantom()


def test_a_clip_becomes_one_channel_of_the_wanted_size_and_rate(echo: SyntheticEcho) -> None:
    prepared = VideoPreparation(rate_hz=25.0, size=112)(recording(echo))
    assert (prepared.image.shape, prepared.image.dtype, prepared.axes) == ((1, 20, 112, 112), np.uint8, "ctyx")
    assert prepared.rate_hz == 25.0
    assert prepared.input_range == (0.0, 1.0)
    assert (prepared.image * prepared.input_scale[0]).max() <= 1.0
    assert prepared.foreground is not None and prepared.foreground.shape == (4096, 3)


def test_what_is_burnt_in_is_gone_and_what_was_removed_is_on_record(echo: SyntheticEcho) -> None:
    prepared = VideoPreparation(size=None, crop=False)(recording(echo))
    picture = prepared.image[0].max(axis=0)
    assert not picture[echo.burnt].any()
    kept = (picture > 0) & echo.sector
    assert kept.sum() > 0.95 * echo.sector.sum()
    assert prepared.quality["removed_outside"] > 0
    assert prepared.quality["removed_text"] > 0
    assert any("burnt-in marks" in note for note in prepared.notes)
    assert any("outside the sector" in note for note in prepared.notes)


def test_blanking_can_be_left_off(echo: SyntheticEcho) -> None:
    prepared = VideoPreparation(size=None, crop=False, sector="keep", text="keep")(recording(echo))
    np.testing.assert_array_equal(prepared.image[0], echo.frames)
    assert prepared.notes == ()


def test_the_sector_fills_the_picture_and_the_pixel_size_follows(echo: SyntheticEcho) -> None:
    prepared = VideoPreparation(size=64)(recording(echo))
    lit = prepared.image[0].max(axis=0) > 0
    assert lit.any(axis=0).sum() == 64 or lit.any(axis=1).sum() == 64
    assert prepared.spacing_mm is not None
    wide = np.flatnonzero(echo.sector.any(axis=0)).size * echo.spacing_mm[1]
    tall = np.flatnonzero(echo.sector.any(axis=1)).size * echo.spacing_mm[0]
    columns, rows = lit.any(axis=0).sum(), lit.any(axis=1).sum()
    assert prepared.spacing_mm[0] * rows == pytest.approx(tall, rel=0.06)
    assert prepared.spacing_mm[1] * columns == pytest.approx(wide, rel=0.06)
    assert prepared.spacing_mm[0] == pytest.approx(prepared.spacing_mm[1], rel=0.02)


def test_masks_and_annotated_frames_go_along(echo: SyntheticEcho) -> None:
    mask = np.zeros(echo.frames.shape, np.uint8)
    frames = (5, 22)
    for frame in frames:
        mask[frame] = echo.lv[frame]
    events = tuple(Event(f / 50, 0.0, TRACE, "ED") for f in frames)
    prepared = VideoPreparation(rate_hz=20.0, size=112)(recording(echo, labels={"lv": mask, "ef": 50.0}, events=events))
    ticks = [round(e.onset_s * 20.0) for e in prepared.events]
    assert [e.kind for e in prepared.events] == [TRACE, TRACE]
    assert np.flatnonzero(prepared.masks["lv"].any(axis=(1, 2))).tolist() == ticks
    assert abs(ticks[0] / 20 - 5 / 50) <= 0.5 / 20 + 1e-9
    inside = prepared.image[0, ticks[0]][prepared.masks["lv"][ticks[0]] > 0].mean()
    outside = prepared.image[0, ticks[0]][prepared.masks["lv"][ticks[0]] == 0]
    assert inside < 0.8 * outside[outside > 0].mean(), "the cavity is darker than tissue, in the very same frame"


def test_black_frames_at_the_ends_are_dropped_and_times_follow(echo: SyntheticEcho) -> None:
    black = np.zeros((3, *echo.frames.shape[1:]), np.uint8)
    clip = np.concatenate([black, echo.frames, black[:1]])
    events = (Event(3 / 50, 0.0, TRACE, "ED"), Event(0.0, 0.0, "r_wave", "R"))
    prepared = VideoPreparation(size=None)(recording(echo, data=clip, events=events))
    assert prepared.image.shape[1] == len(echo.frames)
    assert [(e.kind, e.onset_s) for e in prepared.events] == [(TRACE, pytest.approx(0.0))]
    assert any("4 black frames" in note for note in prepared.notes)
    assert any("1 events lie outside" in note for note in prepared.notes)


def test_colour_is_three_channels(echo: SyntheticEcho) -> None:
    rgb = np.repeat(echo.frames[..., None], 3, axis=-1)
    prepared = VideoPreparation(size=64)(recording(echo, data=rgb, axes="tyxc", channels=("red", "green", "blue")))
    assert prepared.image.shape == (3, 40, 64, 64)
    assert prepared.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(prepared.image[0], prepared.image[2])


def test_uneven_frames_come_out_at_an_even_rate(echo: SyntheticEcho) -> None:
    times = np.cumsum([0, *([0.02] * 38), 0.5])
    prepared = VideoPreparation(size=64)(recording(echo, frame_times=times))
    assert prepared.rate_hz == echo.rate_hz
    assert prepared.image.shape[1] == int(times[-1] * 50 + 1e-6) + 1


REFUSED = {
    "15 frames are too few": lambda e: {"data": e.frames[:15]},
    "all frames are black": lambda e: {"data": np.zeros_like(e.frames)},
    "it is frozen": lambda e: {"data": np.repeat(e.frames[:1], 30, axis=0)},
    "the sector covers": lambda e: {"data": np.pad(e.frames, ((0, 0), (0, 200), (0, 200)))},
    "colour Doppler": lambda e: {"quality": {"coloured_fraction": 0.2}},
    "mask 'lv' has shape": lambda e: {"labels": {"lv": np.zeros((3, 4, 5), np.uint8)}},
    "are not those of a video": lambda e: {"axes": "zyx"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_the_quality_gate(reason: str, echo: SyntheticEcho) -> None:
    with pytest.raises(UnreadableRecording, match=reason):
        VideoPreparation()(recording(echo, **REFUSED[reason](echo)))


def test_a_clip_that_repeats_every_frame_is_not_frozen(echo: SyntheticEcho) -> None:
    prepared = VideoPreparation(size=64)(recording(echo, data=np.repeat(echo.frames, 2, axis=0)[: 2 * 40 - 1]))
    assert prepared.image.shape[1] == 79
    thrice = VideoPreparation(size=64)(recording(echo, data=np.repeat(echo.frames, 3, axis=0)))
    assert any("repeats the one before" in note for note in thrice.notes)


@pytest.mark.parametrize(
    "bad", [{"size": 4}, {"rate_hz": 0.0}, {"aspect": "crop"}, {"sector": "maybe"}, {"min_frames": 0}]
)
def test_settings_that_make_no_sense_are_refused(bad: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        VideoPreparation(**bad)


# ------------------------------------------------------------------------------------------------ cohorts
@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    write_echonet(folder / "raw", patients=4, frames=40)
    settings = {"rate_hz": 25.0, "size": 64}
    prepare("echonet_dynamic", folder / "raw", folder / "cohort", preparation=settings, workers=0, keep_ids=True)
    return folder / "cohort"


def test_a_cohort_of_video_says_what_it_is(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = Cohort(cohort).info
    assert (info.kind, info.channels, info.rate_hz, info.n_recordings) == ("video", ("image",), 25.0, 4)
    statistics = info.statistics["image"]
    stored = np.concatenate([Cohort(cohort).reader(i).read_all().ravel() for i in range(4)]) / 255
    assert statistics["mean"] == pytest.approx(stored.mean(), rel=1e-4)
    assert statistics["std"] == pytest.approx(stored.std(), rel=1e-4)
    text = cohort_info(cohort)
    assert "frames (t, y, x): 20 x 64 x 64" in text
    assert "rate: 25 frames a second, 0.8 to 0.8 s each" in text
    cohort_verify(cohort)
    assert "all as written" in capsys.readouterr().out


def test_a_reader_gives_windows_of_frames(cohort: Path) -> None:
    reader = pickle.loads(pickle.dumps(Cohort(cohort).reader(1)))
    assert (reader.shape, reader.rate_hz, reader.affine) == ((20, 64, 64), 25.0, None)
    whole = reader.read_all()
    assert (whole.shape, whole.dtype) == ((1, 20, 64, 64), np.uint8)
    np.testing.assert_array_equal(reader.read((3, 10, 20), (8, 30, 16)), whole[:, 3:11, 10:40, 20:36])
    beyond = reader.read((15, 0, 0), (10, 64, 64))
    np.testing.assert_array_equal(beyond[:, :5], whole[:, 15:])
    assert not beyond[:, 5:].any(), "frames that do not exist are black"
    assert reader.read((0, 0, 0), (20, 64, 64), "mask:lv").any(axis=(0, 2, 3)).sum() == 2
    assert set(reader.events("trace")["value"]) == {"ED", "ES"}
    assert (reader.foreground() < reader.shape).all()
    assert reader.foreground("lv", 1).shape[0] > 0


def test_chunks_are_16_whole_frames_without_shuffle(cohort: Path) -> None:
    assert chunk_shape((1, 200, 112, 112), itemsize=1, axes="ctyx") == (1, 16, 112, 112)
    assert chunk_shape((3, 10, 64, 80), itemsize=1, axes="ctyx") == (1, 10, 64, 80)
    row = Cohort(cohort).manifest.iloc[0]
    layout = json.loads((cohort / "arrays" / row["array"] / "image" / "zarr.json").read_text())
    sharding = layout["codecs"][0]["configuration"]
    assert sharding["chunk_shape"] == [1, 16, 64, 64]
    blosc = sharding["codecs"][1]["configuration"]
    assert (blosc["cname"], blosc["shuffle"]) == ("lz4", "noshuffle")
    assert layout["dimension_names"] == ["c", "t", "y", "x"]
    assert row["axes"] == "ctyx"


def test_a_second_preparation_gives_the_same_fingerprint(cohort: Path, tmp_path: Path) -> None:
    raw = cohort.parent / "raw"
    again = prepare(
        *("echonet_dynamic", raw, tmp_path / "again"),
        preparation={"rate_hz": 25.0, "size": 64},
        workers=2,
        keep_ids=True,
    )
    assert again.fingerprint == Cohort(cohort).info.fingerprint


def test_patients_are_split_as_for_any_cohort(cohort: Path) -> None:
    from medssl.splits.making import split

    made = split(cohort, test=1, name="video")
    assert len(made.test) == 1
    assert (cohort / "splits" / "video.json").is_file()


def test_what_is_known_of_a_clip_and_copies_of_it_can_be_audited(cohort: Path) -> None:
    from medssl.audit.duplicates import find_duplicates
    from medssl.audit.facts import manifest_facts
    from medssl.audit.sides import place, read_sides
    from medssl.splits.making import split

    opened = Cohort(cohort)
    facts = manifest_facts(opened)
    assert {"shape t", "shape y", "n_samples", "quality_sector_fraction"} <= set(facts)
    split(cohort, test=1, name="audited")
    found = find_duplicates(opened, place(read_sides(cohort, "audited"), opened.manifest["patient"].tolist()))
    assert found.said.startswith("4 videos by 16³ points")
    assert found.constant.size == 0


@pytest.mark.parametrize(
    "settings", [{"rate_hz": 20.0, "size": 112}, {"size": 96, "aspect": "stretch"}, {"size": None, "crop": False}]
)
def test_what_is_found_in_a_prepared_clip_can_be_carried_back(echo: SyntheticEcho, settings: dict) -> None:
    """The cavity of every frame, prepared as a mask and carried back, lies where it was, in the very same frames."""
    black = np.zeros((3, *echo.frames.shape[1:]), np.uint8)
    lv = np.concatenate([black, echo.lv.astype(np.uint8), black[:1]])
    clip = recording(echo, data=np.concatenate([black, echo.frames, black[:1]]), labels={"lv": lv})
    prepared = VideoPreparation(**settings)(clip)
    grid = prepared.grid
    assert grid is not None and grid.source == lv.shape
    shown_by = grid.prepared_frames()
    assert (shown_by[:3] == -1).all() and shown_by[-1] == -1 and (shown_by[3:-1] >= 0).all()
    for frame, place in enumerate(shown_by):
        if place < 0:
            continue
        assert abs(grid.shown[place] - frame) == np.abs(grid.shown - frame).min()
        mask = prepared.masks["lv"][place]
        back = grid.labels(np.stack([1 - mask, mask]).astype(np.float32))
        truth = lv[grid.shown[place]]
        assert 2 * np.count_nonzero(back & truth) / (back.sum() + truth.sum()) > 0.93
