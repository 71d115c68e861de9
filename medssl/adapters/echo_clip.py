"""Gathers the frames of a clip one by one: grey or colour, within a bound of memory, with what is coloured counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.echo_colour import ColourCount, grey_of
from medssl.adapters.recording import Recording
from medssl.errors import UnreadableRecording

__all__ = ["DEFAULT_RATE_HZ", "MOST_BYTES", "Clip", "regular_rate"]

MOST_BYTES = 1 << 30
"""Decoded frames of one clip that are held; what comes after them is not read, and a note says so."""

DEFAULT_RATE_HZ = 30.0
"""Taken, with a note, where neither a header nor time stamps tell the rate."""

DOPPLER = 0.01


class Clip:
    """Frames of one clip, appended as they are decoded.

    Args:
        source: the file, for messages.
        colour: keep three channels; otherwise grey.
        most_bytes: of decoded frames that are kept.
    """

    def __init__(self, source: Path, *, colour: bool = False, most_bytes: int = MOST_BYTES) -> None:
        self.source, self.colour, self.most_bytes = source, colour, most_bytes
        self.count = self.other_size = 0
        self.full = False
        self._data: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._colours: ColourCount | None = None

    def add(self, frame: NDArray[np.uint8]) -> bool:
        """Append a frame (Y, X) or (Y, X, 3), RGB. Returns whether it was taken.

        A frame of another size than the first is left out and counted; past the bound of memory nothing is taken.
        """
        if self.count and frame.shape[:2] != self._data.shape[1:3]:
            self.other_size += 1
            return False
        if not self.count:
            self._colours = ColourCount(frame.shape[:2])
        shape = (*frame.shape[:2], 3) if self.colour else frame.shape[:2]
        if (self.count + 1) * int(np.prod(shape)) > self.most_bytes:
            self.full = True
            return False
        if self.count == len(self._data):
            self._grow(shape)
        if frame.ndim == 2:
            self._data[self.count] = frame[..., None] if self.colour else frame
        else:
            assert self._colours is not None
            grey = grey_of(frame)
            self._colours.add(frame, grey)
            self._data[self.count] = frame if self.colour else grey
        self.count += 1
        return True

    def _grow(self, shape: tuple[int, ...]) -> None:
        """Room for half as many frames again; the block is moved by the kernel, not copied, where that is possible."""
        most = self.most_bytes // int(np.prod(shape))
        room = max(min(max(64, self.count * 3 // 2), most), self.count + 1)
        if not self.count:
            self._data = np.empty((room, *shape), dtype=np.uint8)
        else:
            self._data.resize((room, *shape), refcheck=False)

    def recording(self) -> Recording:
        """What was gathered: data, axes, channels, and notes on colour, size and length.

        Raises:
            UnreadableRecording: there is no frame.
        """
        if not self.count:
            raise UnreadableRecording(
                f"one frame takes more than the {self.most_bytes} bytes allowed" if self.full else "it holds no frame",
                self.source,
            )
        self._data.resize((self.count, *self._data.shape[1:]), refcheck=False)
        notes: list[str] = []
        quality: dict[str, float] = {}
        if self.full:
            notes.append(f"only the first {self.count} frames were read: more would take over {self.most_bytes} bytes")
        if self.other_size:
            notes.append(f"{self.other_size} frames of another size than the first were left out")
        assert self._colours is not None
        if self._colours.frames:
            share = self._colours.coloured_fraction()
            quality["coloured_fraction"] = share
            if share > DOPPLER:
                notes.append(f"colour Doppler or another colour map: {share:.1%} of the picture is coloured")
            if self._colours.tinted:
                notes.append("a tinted grey map" + ("" if self.colour else ", read as grey"))
            overlay = self._colours.overlay()
            if overlay.any() and not self.colour:
                self._data[:, overlay] = 255  # coloured text would turn grey like tissue; white it is found as burnt in
                notes.append(f"{int(overlay.sum())} pixels of coloured marks that never move were made white")
        return Recording(
            data=self._data,
            axes="tyxc" if self.colour else "tyx",
            channels=("red", "green", "blue") if self.colour else (),
            source=str(self.source),
            notes=tuple(notes),
            quality=quality,
        )


def regular_rate(times: NDArray[np.float64]) -> tuple[float | None, bool]:
    """Frames a second of rising time stamps (T,) in seconds, and whether they are regular.

    Regular means that no frame is further than half an interval from where an even clock would put it.

    >>> regular_rate(np.array([0.0, 0.04, 0.08, 0.12]))
    (25.0, True)
    """
    if len(times) < 2 or not np.isfinite(times).all() or times[-1] <= times[0]:
        return None, False
    step = (times[-1] - times[0]) / (len(times) - 1)
    even = times[0] + step * np.arange(len(times))
    return float(1 / step), bool(np.all(np.diff(times) > 0) and np.abs(times - even).max() <= step / 2)
