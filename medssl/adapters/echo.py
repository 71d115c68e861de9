"""Ultrasound clips → recordings: DICOM (:mod:`.echo_dicom`), video files (:mod:`.echo_stream`) and folders of PNG
(:mod:`.echo_frames`).

Everything is decoded frame by frame; nothing is blanked or resized here (see ``medssl.cohort.videos``).
"""

from __future__ import annotations

from pathlib import Path

from medssl.adapters.echo_clip import MOST_BYTES
from medssl.adapters.echo_dicom import read_echo_dicom
from medssl.adapters.echo_frames import read_frame_folder
from medssl.adapters.echo_stream import STREAM_SUFFIXES, read_stream
from medssl.adapters.recording import Read
from medssl.errors import UnreadableRecording

__all__ = ["DICOM_SUFFIXES", "VIDEO_SUFFIXES", "is_video", "read_echo"]

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
VIDEO_SUFFIXES = (*STREAM_SUFFIXES, *DICOM_SUFFIXES)


def is_video(path: Path | str) -> bool:
    """Whether a file name ends like one of the formats of ultrasound clips.

    >>> is_video("clip.AVI"), is_video("notes.txt")
    (True, False)
    """
    return Path(path).name.lower().endswith(VIDEO_SUFFIXES)


def read_echo(
    path: Path | str, *, colour: bool = False, rate_hz: float | None = None, most_bytes: int = MOST_BYTES
) -> Read:
    """Reads one ultrasound clip.

    Args:
        path: a video file, a DICOM file (also without suffix), or a folder of PNG frames.
        colour: keep RGB (axes ``"tyxc"``); otherwise grey (``"tyx"``), B-mode being grey.
        rate_hz: declared frames a second; it replaces what the file says, with a note where the two differ by 1 %.
        most_bytes: of decoded frames that are held; what comes after is not read, with a note.

    Returns:
        One recording.

    Raises:
        UnreadableRecording: missing, empty, damaged beyond use, or of no format known here.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.exists():
        raise UnreadableRecording("it does not exist", path)
    if path.is_dir():
        return Read([read_frame_folder(path, rate_hz=rate_hz, colour=colour, most_bytes=most_bytes)], [])
    if path.stat().st_size == 0:
        raise UnreadableRecording("the file is empty", path)
    if name.endswith(".png"):
        return Read([read_frame_folder([path], rate_hz=rate_hz, colour=colour, most_bytes=most_bytes)], [])
    if name.endswith(DICOM_SUFFIXES) or _is_dicom(path):
        recording = read_echo_dicom(path, colour=colour, most_bytes=most_bytes)
    elif name.endswith(STREAM_SUFFIXES):
        recording = read_stream(path, colour=colour, most_bytes=most_bytes)
    else:
        raise UnreadableRecording(f"no ultrasound format ends like this; known: {', '.join(VIDEO_SUFFIXES)}", path)
    if rate_hz is not None and len(recording.data) > 1:
        stated = recording.rate_hz
        if stated is None or abs(stated / rate_hz - 1) > 0.01:
            said = "no rate" if stated is None else f"{stated:g}"
            recording = recording.noted(f"{rate_hz:g} frames a second as declared; the file says {said}")
        recording = recording.with_(rate_hz=rate_hz, frame_times=None)
    return Read([recording], [])


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
