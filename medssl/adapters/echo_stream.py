"""Video files (AVI, MP4, MOV, MPEG, GIF, ...) → recordings, decoded frame by frame with FFmpeg (PyAV).

What containers say of themselves is not believed: frames are counted as they are decoded, the rate comes from their
time stamps. A damaged stream gives what could be decoded, with a note, or a refusal where that is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.dicom_pixels import one_line
from medssl.adapters.echo_clip import DEFAULT_RATE_HZ, MOST_BYTES, Clip, regular_rate
from medssl.adapters.recording import Recording, sha256_of
from medssl.errors import UnreadableRecording

__all__ = ["STREAM_SUFFIXES", "decode_stream", "read_stream"]

STREAM_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mpeg", ".mpg", ".gif", ".mkv", ".webm", ".wmv")


@dataclass
class _Faults:
    """What went wrong while decoding."""

    packets: int = 0
    corrupt: int = 0
    early: int = 0
    first: str = ""
    times: list[float] = field(default_factory=list)
    formats: set[str] = field(default_factory=set)


def read_stream(path: Path | str, *, colour: bool = False, most_bytes: int = MOST_BYTES) -> Recording:
    """Reads one video file.

    Args:
        path: the file.
        colour: keep RGB (axes ``"tyxc"``); otherwise its luminance (``"tyx"``).
        most_bytes: of decoded frames; what comes after is not read, with a note.

    Returns:
        A recording with ``rate_hz``, and ``frame_times`` where frames are not evenly spaced.

    Raises:
        UnreadableRecording: missing, empty, no video, or nothing of it can be decoded.
    """
    path = Path(path)
    if path.is_dir():
        raise UnreadableRecording("it is a folder, not a video file", path)
    if not path.is_file():
        raise UnreadableRecording("it does not exist", path)
    if path.stat().st_size == 0:
        raise UnreadableRecording("the file is empty", path)
    recording = decode_stream(str(path), path, colour=colour, most_bytes=most_bytes)
    return recording.with_(source_sha256=sha256_of(path))


def decode_stream(
    stream: str | BytesIO, path: Path, *, colour: bool = False, most_bytes: int = MOST_BYTES
) -> Recording:
    """Decodes the first video stream of a container, wherever it lies.

    Args:
        stream: path, or bytes in memory (of a DICOM file that holds MPEG).
        path: the file, for messages.
        colour, most_bytes: as for :func:`read_stream`.

    Raises:
        UnreadableRecording: as for :func:`read_stream`.
    """
    import av

    try:
        container = av.open(stream)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise UnreadableRecording(f"it is no video that FFmpeg can open: {_said(error)}", path) from error
    with container:
        video = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not video:
            kinds = sorted({str(s.type) for s in container.streams}) or ["nothing"]
            raise UnreadableRecording(f"it holds no video stream, only {', '.join(kinds)}", path)
        clip, faults = Clip(path, colour=colour, most_bytes=most_bytes), _Faults()
        try:
            for frame, time in _frames(container, video[0], faults):
                if clip.add(frame):
                    faults.times.append(time)
                elif clip.full:
                    break
        except (av.error.FFmpegError, ValueError, OSError) as error:
            faults.packets += 1
            faults.first = faults.first or _said(error)
        if not clip.count and not clip.full:
            why = faults.first or (f"no key frame comes before its {faults.early} frames" if faults.early else "")
            raise UnreadableRecording(f"not one frame of its video can be decoded{': ' if why else ''}{why}", path)
        recording = clip.recording()
        promised = int(video[0].frames or 0)
        notes = _notes(recording, faults, promised, clip.full) + _shape_notes(video)
        return _timed(recording, np.array(faults.times), video[0], notes)


def _frames(container: Any, stream: Any, faults: _Faults) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """RGB or grey frames with their times in seconds (NaN where there is none); damaged packets are passed over.

    Frames that come before the first sound key frame are left out: they tell changes of a picture that is lost.
    """
    import av
    from av.video.reformatter import VideoReformatter

    stream.codec_context.thread_count = 1  # prepare runs one process a core
    colours = VideoReformatter()  # one for all frames, on one thread: setting it up costs more than a frame does
    alone = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}  # older ones use one anyhow
    begun = False
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.FFmpegError as error:
            faults.packets += 1
            faults.first = faults.first or _said(error)
            continue
        for frame in decoded:
            begun = begun or (frame.key_frame and not frame.is_corrupt)
            if not begun:
                faults.early += 1
                continue
            faults.corrupt += bool(frame.is_corrupt)
            faults.formats.add(frame.format.name)
            time = float("nan") if frame.time is None else float(frame.time)
            # 16-bit grey and the like go through RGB as well: FFmpeg then applies range and matrix of the stream
            yield np.asarray(colours.reformat(frame, format="rgb24", **alone).to_ndarray(), dtype=np.uint8), time


def _notes(recording: Recording, faults: _Faults, promised: int, full: bool) -> list[str]:
    count, notes = len(recording.data), []
    if faults.packets:
        notes.append(f"{faults.packets} damaged parts of the stream could not be decoded ({faults.first})")
    if faults.early:
        notes.append(f"{faults.early} frames before the first sound key frame left out: what they build on is lost")
    if faults.corrupt:
        notes.append(f"{faults.corrupt} of {count} frames are damaged and were patched by the decoder")
    if promised and promised != count and not full:
        notes.append(f"the header promises {promised} frames, {count} could be decoded")
    if any(
        "a" in name.removeprefix("gray") and name.startswith(("bgra", "rgba", "argb", "yuva"))
        for name in faults.formats
    ):
        notes.append("transparency left out")
    return notes


def _shape_notes(video: list[Any]) -> list[str]:
    notes = []
    aspect = video[0].sample_aspect_ratio
    if aspect and aspect != 1:
        notes.append(f"pixels are not square ({aspect}): frames kept as stored")
    if len(video) > 1:
        notes.append(f"the first of {len(video)} video streams taken")
    return notes


def _timed(recording: Recording, times: NDArray[np.float64], stream: Any, notes: list[str]) -> Recording:
    rate, even = regular_rate(times)
    stated = stream.average_rate or stream.guessed_rate
    frame_times = None
    if rate is not None and not even and np.all(np.diff(times) > 0):
        frame_times = times - times[0]
        notes.append("frames are not evenly spaced in time: their time stamps are kept")
    elif rate is None or not even:
        rate = float(stated) if stated else None
        if len(times) > 1:
            how = f"the header's {rate:g} frames a second" if rate else f"{DEFAULT_RATE_HZ:g} frames a second"
            notes.append(f"no usable time stamps: {how} taken")
            rate = rate or DEFAULT_RATE_HZ
    return recording.with_(rate_hz=rate, frame_times=frame_times).noted(*notes)


def _said(error: BaseException) -> str:
    """FFmpeg's words, without its number, log and the path or function that it appends."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", one_line(error).split("; last error log")[0])
    return re.sub(r": '[^']*'$", "", text)
