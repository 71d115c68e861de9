"""Clips that are damaged, empty or too short: each is told in one sentence, and costs nothing but itself."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medssl.adapters.echo import read_echo
from medssl.cli import main
from medssl.cohort import Cohort
from medssl.synth.echo import draw_echo_patient, simulate_echo
from medssl.synth.echo_files import write_echo_avi, write_echo_dicom

Frames = NDArray[np.uint8]
T, GOP = 60, 10


def beating(frames: int = T, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    return simulate_echo(rng, draw_echo_patient(rng), frames=frames).frames


def write_stream(path: Path, frames: Frames, codec: str) -> Path:
    """A stream with a key frame every GOP frames."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *frames.shape[1:3], "yuv420p", GOP
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
            for packet in stream.encode(frame.reformat(format="yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def overwritten(path: Path, start: int, stop: int) -> Path:
    """The file with noise in place of the bytes from ``start`` to ``stop`` (from the end where negative)."""
    content = bytearray(path.read_bytes())
    stop = stop if stop > 0 else len(content) + stop
    content[start:stop] = np.random.default_rng(1).bytes(stop - start)
    path.write_bytes(content)
    return path


def shortened(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def changed(path: Path, **tags: object) -> Path:
    import pydicom

    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def empty_stream(path: Path) -> Path:
    """An AVI file whose header stands there without a frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.height, stream.width, stream.pix_fmt = 112, 112, "yuvj420p"
        container.start_encoding()
    return path


def one_pixel() -> Frames:
    frames = np.zeros((30, 112, 112), np.uint8)
    frames[::2, 50, 50] = 255
    return frames


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut_raw.dcm": (lambda p: shortened(write_echo_dicom(p, beating(), 30), 0.7), "bytes of pixel data is less than"),
    "cut_rle.dcm": (
        lambda p: shortened(write_echo_dicom(p, beating(), 30, syntax="rle"), 0.7),
        "the file is cut short",
    ),
    "cut_jpeg.dcm": (
        lambda p: shortened(write_echo_dicom(p, beating(), 30, syntax="jpeg"), 0.7),
        "the file is cut short",
    ),
    "no_frames.dcm": (lambda p: changed(write_echo_dicom(p, beating(), 30), NumberOfFrames=0), "NumberOfFrames is 0"),
    "no_pixels.dcm": (
        lambda p: changed(write_echo_dicom(p, beating(), 30), PixelData=b""),
        "it holds no frame: its pixel data are empty",
    ),
    "no_frames.avi": (empty_stream, "not one frame of its video can be decoded"),
    "one_frame.avi": (lambda p: write_echo_avi(p, beating(1), 30), "1 frame is too few (at least 16)"),
    "few_frames.avi": (lambda p: write_echo_avi(p, beating(15), 30), "15 frames are too few (at least 16)"),
    "one_pixel.dcm": (lambda p: write_echo_dicom(p, one_pixel(), 30), "the sector covers 0.0% of the picture"),
    "black.dcm": (lambda p: write_echo_dicom(p, np.zeros_like(beating()), 30), "all frames are black"),
    "frozen.dcm": (lambda p: write_echo_dicom(p, np.repeat(beating(1), 30, 0), 30), "it is frozen"),
    "cut.mp4": (lambda p: shortened(write_stream(p, beating(), "mpeg4"), 0.5), "it is no video that FFmpeg can open"),
    "noise.mp4": (lambda p: overwritten(write_stream(p, beating(), "mpeg4"), 400, -4000), "frames are too few"),
    "noise.mpg": (lambda p: overwritten(write_stream(p, beating(), "mpeg2video"), 400, -4000), "no key frame comes"),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one clip of every fault, two sound ones, and one that is sound but for a part of its stream."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, (write, _) in BAD.items():
        write(folder / name)
    for number in (1, 2):
        write_echo_avi(folder / f"sound{number}.avi", beating(30, number), 30)
    stream = write_stream(folder / "damaged.avi", beating(), "mpeg4")
    middle = stream.stat().st_size // 2
    overwritten(stream, middle, middle + 1500)
    return folder


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def prepare(source: Path, cohort: Path, *more: str) -> int:
    words = ["prepare", "folder", str(source), str(cohort), "--options", "kind=video", "--workers", "0", "--keep-ids"]
    return main([*words, *more])


def test_each_is_rejected_with_its_reason_and_none_of_the_others_is_lost(mixed: Path, tmp_path: Path) -> None:
    assert prepare(mixed, tmp_path / "cohort", "--max-rejected", "0.9") == 0
    reasons = {Path(row["source"]).name: row["reason"] for row in rows(tmp_path / "cohort" / "rejected.csv")}
    assert set(reasons) == set(BAD)
    for name, (_, reason) in BAD.items():
        assert reason in reasons[name], name
        assert "\n" not in reasons[name] and "Errno" not in reasons[name] and len(reasons[name]) < 300
    manifest = Cohort(tmp_path / "cohort").manifest.set_index("recording")
    assert set(manifest.index) == {"sound1", "sound2", "damaged"}
    assert manifest.loc["sound1", "shape"] == [30, 112, 112]
    assert any("damaged" in note for note in manifest.loc["damaged", "notes"])
    assert manifest.loc["damaged", "shape"][0] >= T - 2 * GOP
    assert main(["cohort", "verify", str(tmp_path / "cohort")]) == 0


def test_too_many_of_them_are_an_error(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(mixed, tmp_path / "cohort") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{len(BAD)} of {len(BAD) + 3} inputs" in last and "rejected.csv" in last
    assert len(Cohort(tmp_path / "cohort")) == 3


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_frames_that_lost_what_they_build_on_are_left_out(tmp_path: Path, codec: str) -> None:
    """Without the first key frame a decoder shows changes on grey, with all that is burnt in: not a clip."""
    name = tmp_path / ("clip.mp4" if codec == "mpeg4" else "clip.mpg")
    (sound,) = read_echo(write_stream(name, beating(), codec)).recordings
    content = name.read_bytes()
    key = content.index(b"\x00\x00\x01\xb6" if codec == "mpeg4" else b"\x00\x00\x01\x00")  # start of the first picture
    overwritten(name, key, key + 600)
    (read,) = read_echo(name).recordings
    assert len(read.data) == T - GOP
    assert f"{GOP - 1} frames before the first sound key frame left out: what they build on is lost" in read.notes
    assert np.abs(sound.data[GOP:].astype(int) - read.data).max() < 3, "the rest is as it was"


MAE = """
method:
  class_path: MaskedAutoencoder
  init_args:
    encoder:
      class_path: VideoViT
      init_args: {size: [32, 32, 32], patch: [4, 16, 16], width: 24, depth: 1, heads: 2, class_token: false}
    views: {class_path: ClipViews, init_args: {size: [32, 32, 32], count: 1, stride: 2}}
    decoder_width: 24
    decoder_depth: 1
    decoder_heads: 2
trainer: {max_steps: 2, batch_size: 2, workers: 0, progress: false, accelerator: cpu}
"""
QUICK = ["--settings.max-steps", "1", "--settings.batch-size", "2", "--settings.workers", "0", "--settings.progress",
         "false", "--settings.size", "32", "32", "32"]  # fmt: skip


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 1 to 17 frames of eight patients, with a label; a cohort that takes them."""
    folder = tmp_path_factory.mktemp("short")
    (folder / "raw").mkdir()
    lines = ["path,patient,label_ef"]
    for number, frames in enumerate((1, 17, 2, 16, 3, 17, 16, 9)):
        write_echo_avi(folder / "raw" / f"{number}.avi", beating(frames, number), 30)
        lines.append(f"raw/{number}.avi,p{number},{40 + number}")
    (folder / "clips.csv").write_text("\n".join(lines))
    words = ["prepare", "table", str(folder / "clips.csv"), str(folder / "cohort"), "--options", "kind=video"]
    assert main([*words, "--preparation", "min_frames=1", "--workers", "0", "--keep-ids"]) == 0
    assert main(["cohort", "split", str(folder / "cohort"), "--test", "2"]) == 0
    return folder


def test_clips_shorter_than_the_window_down_to_one_frame_are_learnt_from(short: Path, tmp_path: Path) -> None:
    assert sorted(s[0] for s in Cohort(short / "cohort").manifest["shape"]) == [1, 2, 3, 9, 16, 16, 17, 17]
    (tmp_path / "mae.yaml").write_text(MAE)
    run = ["pretrain", "--config", str(tmp_path / "mae.yaml"), "--cohort", str(short / "cohort")]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "encoder" / "encoder.json").is_file()


@pytest.mark.slow
def test_predictions_of_sound_clips_beside_damaged_ones(short: Path, mixed: Path, tmp_path: Path) -> None:
    tuned = ["finetune", "--cohort", str(short / "cohort"), "--task", "regression", "--target", "ef", "--encoder"]
    assert main([*tuned, "none", "--budget", "all", "--out", str(tmp_path / "tuned"), *QUICK]) == 0
    assert main(["predict", str(tmp_path / "tuned"), str(mixed), str(tmp_path / "out")]) == 0
    predicted, refused = (rows(tmp_path / "out" / name) for name in ("predictions.csv", "rejected.csv"))
    assert {row["recording"] for row in predicted} >= {"sound1", "sound2", "damaged", "one_frame", "few_frames"}
    assert all(np.isfinite(float(row["prediction"])) for row in predicted)
    reasons = {Path(row["source"]).name: row["reason"] for row in refused}
    assert len(reasons) + len(predicted) == len(BAD) + 3
    for name, reason in reasons.items():
        assert BAD[name][1] in reason and str(mixed) not in reason
