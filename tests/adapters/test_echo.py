"""Ultrasound clips as files: every encoding of the same phantom, and what goes wrong in them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from medssl.adapters.echo import read_echo
from medssl.adapters.echo_colour import ColourCount, grey_of, looks_like_ybr
from medssl.adapters.recording import Recording
from medssl.errors import UnreadableRecording
from medssl.synth.echo import SyntheticEcho, draw_echo_patient, simulate_echo
from medssl.synth.echo_files import write_echo_avi, write_echo_dicom

T, Y, X = 24, 112, 112


@pytest.fixture(scope="module")
def echo() -> SyntheticEcho:
    rng = np.random.default_rng(3)
    return simulate_echo(rng, draw_echo_patient(rng), frames=T)


@pytest.fixture(scope="module")
def avi(echo: SyntheticEcho, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echo_avi(tmp_path_factory.mktemp("avi") / "clip.avi", echo.frames, 50.0)


def one(path: Path, **options) -> Recording:
    (recording,) = read_echo(path, **options).recordings
    return recording


def changed(path: Path, **values) -> Path:
    """The same DICOM file with other header values."""
    data = dcmread(path)
    for name, value in values.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)
    return path


def dicom(folder: Path, frames: NDArray, **values) -> Path:
    return changed(write_echo_dicom(folder / "clip.dcm", frames, 50.0), **values)


def dyed(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flow over grey frames: red in one half of a beat, blue in the other, none between."""
    rgb = np.repeat(frames[..., None], 3, axis=-1)
    rgb[: len(frames) // 3, 40:60, 50:70] = (200, 20, 20)
    rgb[-len(frames) // 3 :, 50:70, 40:60] = (20, 20, 200)
    return rgb


# ------------------------------------------------------------------------------------------------ video files
def test_a_video_file_gives_every_frame_its_rate_and_its_digest(avi: Path, echo: SyntheticEcho) -> None:
    recording = one(avi)
    assert (recording.axes, recording.data.shape, recording.data.dtype) == ("tyx", (T, Y, X), np.uint8)
    assert recording.rate_hz == 50.0 and recording.frame_times is None
    assert recording.notes == ()
    assert len(recording.source_sha256) == 64
    assert np.abs(recording.data.astype(int) - echo.frames).mean() < 1.5, "JPEG at its best loses little"


def test_colour_is_kept_only_when_asked_for(avi: Path) -> None:
    colour = one(avi, colour=True)
    assert (colour.axes, colour.data.shape) == ("tyxc", (T, Y, X, 3))
    assert colour.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(grey_of(colour.data), one(avi).data)


def test_what_could_be_decoded_of_a_truncated_file_is_kept_and_noted(avi: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.avi"
    short.write_bytes(avi.read_bytes()[: avi.stat().st_size // 2])
    recording = one(short)
    assert 5 < len(recording.data) < T
    assert any(f"promises {T} frames" in note for note in recording.notes)
    np.testing.assert_array_equal(recording.data[:5], one(avi).data[:5])


def test_a_file_of_which_nothing_can_be_decoded_is_refused(avi: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.avi"
    whole = bytearray(avi.read_bytes())
    start = whole.index(b"movi")
    whole[start:] = bytes(len(whole) - start)
    broken.write_bytes(whole)
    with pytest.raises(UnreadableRecording, match=r"not one frame|no video"):
        one(broken)


def test_a_file_of_sound_alone_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableRecording, match="no video stream, only audio"):
        one(path)


def test_frames_beyond_the_bound_of_memory_are_not_read(avi: Path) -> None:
    recording = one(avi, most_bytes=10 * Y * X)
    assert len(recording.data) == 10
    assert any("only the first 10 frames" in note for note in recording.notes)
    with pytest.raises(UnreadableRecording, match="one frame takes more"):
        one(avi, most_bytes=100)


def test_uneven_frames_keep_their_time_stamps(tmp_path: Path, echo: SyntheticEcho) -> None:
    import av

    path = tmp_path / "uneven.mkv"
    steps = np.cumsum([0, *([40, 40, 40, 320] * 6)])[:T]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = Y, X, "gray"
        for picture, time in zip(echo.frames, steps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    recording = one(path)
    assert recording.frame_times is not None
    np.testing.assert_allclose(recording.frame_times, steps / 1000, atol=2e-3)
    assert any("not evenly spaced" in note for note in recording.notes)


def test_a_declared_rate_wins_and_says_so(avi: Path) -> None:
    recording = one(avi, rate_hz=25.0)
    assert recording.rate_hz == 25.0
    assert recording.notes == ("25 frames a second as declared; the file says 50",)
    assert one(avi, rate_hz=50.0).notes == ()


# ------------------------------------------------------------------------------------------------ DICOM
@pytest.mark.parametrize("syntax", ["raw", "rle"])
def test_lossless_dicom_is_read_to_the_bit(syntax, tmp_path: Path, echo: SyntheticEcho) -> None:
    path = write_echo_dicom(tmp_path / "a.dcm", echo.frames, 50.0, syntax=syntax, spacing_mm=(1.5, 1.25), patient="P7")
    recording = one(path)
    np.testing.assert_array_equal(recording.data, echo.frames)
    assert recording.rate_hz == pytest.approx(50.0)
    assert recording.spacing_mm == pytest.approx((1.5, 1.25))
    assert recording.ids.patient == "P7"
    assert recording.quality["burned_in_annotation"] == 1.0
    assert recording.notes == ()


def test_jpeg_baseline_in_ybr_full_422_comes_out_grey_not_green(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = write_echo_dicom(tmp_path / "a.dcm", echo.frames, 50.0, syntax="jpeg")
    colour = one(path, colour=True).data.astype(int)
    assert np.ptp(colour, axis=-1).max() <= 3
    assert np.abs(one(path).data.astype(int) - echo.frames).mean() < 2


def test_decoding_frame_by_frame_is_decoding_the_whole_array(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = write_echo_dicom(tmp_path / "a.dcm", echo.frames, 50.0, syntax="jpeg")
    np.testing.assert_array_equal(one(path, colour=True).data, dcmread(path).pixel_array)


def test_monochrome1_is_inverted(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = dicom(tmp_path, 255 - echo.frames, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(one(path).data, echo.frames)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_by_pixel_and_by_plane(planar, tmp_path: Path, echo: SyntheticEcho) -> None:
    rgb = dyed(echo.frames)
    path = dicom(tmp_path, rgb)
    if planar:
        changed(path, PlanarConfiguration=1, PixelData=np.moveaxis(rgb, -1, 1).tobytes())
    np.testing.assert_array_equal(one(path, colour=True).data, rgb)


def test_uncompressed_ybr_full_is_converted_once(tmp_path: Path, echo: SyntheticEcho) -> None:
    ybr = np.stack([echo.frames, *[np.full_like(echo.frames, 128)] * 2], axis=-1)
    path = dicom(tmp_path, ybr, PhotometricInterpretation="YBR_FULL")
    recording = one(path)
    np.testing.assert_array_equal(recording.data, echo.frames)
    assert recording.notes == ()


def test_luminance_and_chrominance_under_a_header_that_says_rgb(tmp_path: Path, echo: SyntheticEcho) -> None:
    ybr = np.stack([echo.frames, *[np.full_like(echo.frames, 128)] * 2], axis=-1)
    assert looks_like_ybr(ybr[0])
    recording = one(dicom(tmp_path, ybr))
    np.testing.assert_array_equal(recording.data, echo.frames)
    assert any("says RGB but the pixels are luminance" in note for note in recording.notes)


def test_rgb_under_a_header_that_says_ybr_is_not_converted_twice(tmp_path: Path, echo: SyntheticEcho) -> None:
    rgb = np.repeat(echo.frames[..., None], 3, axis=-1)
    recording = one(dicom(tmp_path, rgb, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_array_equal(recording.data, echo.frames)
    assert any("not converted a second time" in note for note in recording.notes)


def test_a_palette_is_applied(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = dicom(tmp_path, echo.frames)
    ramp = (np.arange(256, dtype=np.uint16) << 8).tobytes()
    colours = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")}
    tables = {f"{c}PaletteColorLookupTableData": ramp for c in ("Red", "Green", "Blue")}
    data = dcmread(path)
    for name, value in {**colours, **tables}.items():
        data.add_new(name, "US" if name.endswith("Descriptor") else "OW", value)
    data.save_as(path)
    changed(path, PhotometricInterpretation="PALETTE COLOR")
    np.testing.assert_array_equal(one(path).data, echo.frames)


def test_more_than_eight_bits_become_eight(tmp_path: Path, echo: SyntheticEcho) -> None:
    wide = echo.frames.astype(np.uint16) << 4
    path = dicom(tmp_path, echo.frames)
    changed(path, BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=wide.tobytes())
    recording = one(path)
    np.testing.assert_array_equal(recording.data, echo.frames)
    assert "12 bits a pixel brought to 8" in recording.notes


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({"FrameTime": None, "CineRate": "40"}, 40.0),
        ({"FrameTime": None, "FrameTimeVector": [0.0] + [25.0] * (T - 1)}, 40.0),
        ({"FrameTime": None, "RecommendedDisplayFrameRate": "20"}, 20.0),
        ({"FrameTime": "50"}, 20.0),
        ({"FrameTime": None}, 30.0),
    ],
)
def test_where_the_rate_comes_from(values, rate, tmp_path: Path, echo: SyntheticEcho) -> None:
    recording = one(dicom(tmp_path, echo.frames, **values))
    assert recording.rate_hz == pytest.approx(rate)
    assert any("no frame rate" in note for note in recording.notes) == (values == {"FrameTime": None})


def test_a_still_picture_has_no_rate(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = dicom(tmp_path, echo.frames[:1], NumberOfFrames=None, FrameTime=None)
    recording = one(path)
    assert recording.data.shape == (1, Y, X)
    assert recording.rate_hz is None


def region(**values) -> Dataset:
    found = Dataset()
    for name, value in {"RegionSpatialFormat": 1, "RegionDataType": 1, **values}.items():
        setattr(found, name, value)
    return found


def test_the_picture_is_cut_to_the_largest_tissue_region(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = tmp_path / "a.dcm"
    write_echo_dicom(path, echo.frames, 50.0, spacing_mm=(1, 1), region=(10, 5, 101, 98))
    recording = one(path)
    np.testing.assert_array_equal(recording.data, echo.frames[:, 5:99, 10:102])
    assert any("cut to the tissue region" in note for note in recording.notes)


def test_a_region_that_does_not_fit_the_picture_is_not_used(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = tmp_path / "a.dcm"
    write_echo_dicom(path, echo.frames, 50.0, spacing_mm=(1, 1), region=(84, 31, 595, 414))
    recording = one(path)
    assert recording.data.shape == (T, Y, X)
    assert recording.spacing_mm is None
    assert any("does not lie inside the 112x112 picture" in note for note in recording.notes)


def test_m_mode_and_spectral_doppler_are_refused(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = dicom(tmp_path, echo.frames, SequenceOfUltrasoundRegions=[region(RegionSpatialFormat=3, RegionDataType=3)])
    with pytest.raises(UnreadableRecording, match="spectral Doppler"):
        one(path)


def test_another_modality_is_refused(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = dicom(tmp_path, echo.frames, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    with pytest.raises(UnreadableRecording, match="'MR', not ultrasound"):
        one(path)


def test_frames_that_are_missing_are_noted(tmp_path: Path, echo: SyntheticEcho) -> None:
    path = write_echo_dicom(tmp_path / "a.dcm", echo.frames, 50.0, syntax="rle")
    changed(path, NumberOfFrames=T + 6)
    recording = one(path)
    assert len(recording.data) == T
    assert any(f"promises {T + 6} frames" in note for note in recording.notes)


def test_r_waves_and_heart_rate(tmp_path: Path, echo: SyntheticEcho) -> None:
    recording = one(dicom(tmp_path, echo.frames, HeartRate="71", RWaveTimeVector=[100.0, 950.0]))
    assert recording.labels == {"heart_rate": 71.0}
    assert [(e.kind, e.onset_s) for e in recording.events] == [("r_wave", 0.1), ("r_wave", 0.95)]


# ------------------------------------------------------------------------------------------------ folders of PNG
def write_pngs(folder: Path, frames: NDArray[np.uint8], first: int = 1) -> Path:
    import SimpleITK

    folder.mkdir()
    for number, frame in enumerate(frames, start=first):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(frame), str(folder / f"frame_{number}.png"))
    return folder


def test_png_frames_stand_in_the_order_of_their_numbers(tmp_path: Path, echo: SyntheticEcho) -> None:
    recording = one(write_pngs(tmp_path / "clip", echo.frames), rate_hz=50.0)
    np.testing.assert_array_equal(recording.data, echo.frames)
    assert (recording.rate_hz, recording.notes) == (50.0, ())


def test_png_frames_without_a_rate_and_with_a_gap_are_noted(tmp_path: Path, echo: SyntheticEcho) -> None:
    folder = write_pngs(tmp_path / "clip", echo.frames)
    (folder / "frame_5.png").unlink()
    recording = one(folder)
    assert recording.rate_hz == 30.0
    assert any("1 numbers between" in note for note in recording.notes)
    assert any("no frame rate" in note for note in recording.notes)


# ------------------------------------------------------------------------------------------------ colour
def coloured(rgb: NDArray[np.uint8]) -> ColourCount:
    count = ColourCount(rgb.shape[1:3])
    for frame in rgb:
        count.add(frame, grey_of(frame))
    return count


def test_flow_is_told_in_a_clip_that_is_kept_in_grey(tmp_path: Path, echo: SyntheticEcho) -> None:
    recording = one(dicom(tmp_path, dyed(echo.frames)))
    assert recording.quality["coloured_fraction"] > 0.01
    assert any("colour Doppler" in note for note in recording.notes)


def test_grey_stored_as_rgb_has_no_colour(echo: SyntheticEcho) -> None:
    assert coloured(np.repeat(echo.frames[..., None], 3, axis=-1)).coloured_fraction() == 0


def test_a_tinted_grey_map_is_no_flow(echo: SyntheticEcho) -> None:
    sepia = np.stack([echo.frames, echo.frames * 0.8, echo.frames * 0.5], axis=-1).astype(np.uint8)
    count = coloured(sepia)
    assert count.tinted
    assert count.coloured_fraction() == 0
    assert not coloured(dyed(echo.frames)).tinted


def test_coloured_marks_that_never_move_become_white(tmp_path: Path, echo: SyntheticEcho) -> None:
    rgb = np.repeat(echo.frames[..., None], 3, axis=-1)
    rgb[:, 20:24, 90:98] = (0, 220, 0)
    recording = one(dicom(tmp_path, rgb))
    assert (recording.data[:, 20:24, 90:98] == 255).all()
    assert recording.quality["coloured_fraction"] == 0
    assert any("32 pixels of coloured marks" in note for note in recording.notes)
    np.testing.assert_array_equal(np.delete(recording.data, np.s_[20:24], 1), np.delete(echo.frames, np.s_[20:24], 1))
