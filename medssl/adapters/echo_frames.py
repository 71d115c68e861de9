"""A folder of numbered PNG files, one a frame → one video recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.echo_clip import DEFAULT_RATE_HZ, MOST_BYTES, Clip
from medssl.adapters.png import read_png
from medssl.adapters.recording import Recording, sha256_of
from medssl.errors import UnreadableRecording

__all__ = ["read_frame_folder"]


def read_frame_folder(
    source: Path | str | Sequence[Path | str],
    *,
    rate_hz: float | None = None,
    colour: bool = False,
    most_bytes: int = MOST_BYTES,
) -> Recording:
    """Reads PNG files of equal size as the frames of a clip.

    Args:
        source: a folder, whose files are put in order by the numbers in their names (``frame_2`` before ``frame_10``),
            or the files in order.
        rate_hz: frames a second, which pictures do not tell; 30 is taken, with a note, when not given.
        colour: keep RGB (axes ``"tyxc"``); otherwise grey (``"tyx"``).
        most_bytes: of decoded frames; what comes after is not read, with a note.

    Returns:
        A recording with ``rate_hz`` (None for a single frame).

    Raises:
        UnreadableRecording: no PNG files, or one that is missing, empty or damaged.
    """
    paths = _paths(source)
    place = Path(source) if isinstance(source, str | Path) else paths[0].parent
    clip = Clip(place, colour=colour, most_bytes=most_bytes)
    for path in paths:
        if not clip.add(_read_frame(path)) and clip.full:
            break
    recording = clip.recording().with_(source_sha256=sha256_of(*paths))
    numbers = [found for path in paths if (found := _numbers(path))]
    skipped = numbers[-1][-1] - numbers[0][-1] + 1 - len(numbers) if numbers else 0
    if len(numbers) == len(paths) and skipped > 0 and len({tuple(n[:-1]) for n in numbers}) == 1:
        recording = recording.noted(f"{skipped} numbers between the first and the last frame have no file")
    if clip.count < 2:
        return recording
    if rate_hz is None:
        recording = recording.noted(f"no frame rate is known: {DEFAULT_RATE_HZ:g} frames a second taken")
    return recording.with_(rate_hz=rate_hz or DEFAULT_RATE_HZ)


def _paths(source: Path | str | Sequence[Path | str]) -> list[Path]:
    if not isinstance(source, str | Path):
        paths = [Path(p) for p in source]
        if not paths:
            raise UnreadableRecording("there are no frames to read", "")
        return paths
    folder = Path(source)
    if not folder.exists():
        raise UnreadableRecording("it does not exist", folder)
    if folder.is_file():
        return [folder]
    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() == ".png"), key=lambda p: (_numbers(p), p.name))
    if not paths:
        raise UnreadableRecording("the folder holds no PNG files", folder)
    return paths


def _numbers(path: Path) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", path.stem)]


def _read_frame(path: Path) -> NDArray[np.uint8]:
    """(Y, X) or (Y, X, 3); transparency is left out, 16 bits become 8."""
    frame = read_png(path)
    if frame.ndim == 3:
        frame = frame[..., 0] if frame.shape[-1] == 2 else frame[..., :3]
    return np.ascontiguousarray(frame >> 8 if frame.dtype == np.uint16 else frame, dtype=np.uint8)
