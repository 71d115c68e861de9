"""Parts of example cases: images, contours, strips of signal with labelled events."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.report.html import Html, escape, tag

__all__ = ["contour_path", "png", "recording_picture", "strip_picture", "trace_picture"]


def png(image: NDArray[np.uint8]) -> bytes:
    """A grey image (H, W), or a coloured one (H, W, 3), as PNG."""
    height, width = image.shape[:2]
    rows = np.zeros((height, image[0].size + 1), dtype=np.uint8)  # each row starts with its filter type, 0
    rows[:, 1:] = image.reshape(height, -1)
    kind = 2 if image.ndim == 3 else 0

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def contour_path(labels: NDArray[np.integer], top: int = 0) -> str:
    """SVG path along the pixel edges between different labels.

    Edges are joined into runs, and runs at whose end another begins into lines with short relative steps, which takes a
    third of the room.

    Args:
        labels: (H, W) classes.
        top: added to every y.

    >>> contour_path(np.array([[1, 1]]))
    'M0 0h2v1h-2v-1'
    """
    padded = np.pad(labels, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # edge above pixel row y, one per column
    down = (padded[1:-1, 1:] != padded[1:-1, :-1]).T  # edge left of pixel column x, one per row
    runs = [((x0, y), (x1, y)) for y, x0, x1 in _runs(across)] + [((x, y0), (x, y1)) for x, y0, y1 in _runs(down)]
    at: dict[tuple[int, int], list[int]] = {}
    for i, ends in enumerate(runs):
        for end in ends:
            at.setdefault(end, []).append(i)
    unused = [True] * len(runs)
    parts = []
    for i, (start, end) in enumerate(runs):
        if not unused[i]:
            continue
        unused[i] = False
        parts.append(f"M{start[0]} {start[1] + top}{_step(start, end)}")
        here = end
        while (following := next((j for j in at[here] if unused[j]), None)) is not None:
            unused[following] = False
            first, last = runs[following]
            there = last if first == here else first
            parts.append(_step(here, there))
            here = there
    return "".join(parts)


def _step(a: tuple[int, int], b: tuple[int, int]) -> str:
    return f"h{b[0] - a[0]}" if a[1] == b[1] else f"v{b[1] - a[1]}"


def _runs(edges: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(line, first, past-last) of every run of True along the second axis."""
    change = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, first = np.nonzero(change == 1)
    _, last = np.nonzero(change == -1)
    return [(int(a), int(b), int(c)) for a, b, c in zip(line, first, last, strict=True)]


def strip_picture(
    signal: NDArray[np.floating],
    *,
    rate_hz: float,
    start_s: float,
    channels: Sequence[str],
    events: Sequence[tuple[float, str, Sequence[str]]],
    rows: Sequence[str],
    label: str,
) -> Html:
    """A stretch of signal with a line of answers under it for every arm.

    Args:
        signal: (C, T).
        rate_hz: of it.
        start_s: time of its first sample in the recording.
        channels: C names.
        events: (onset in seconds, true class, answer of each row).
        rows: names of the arms.
        label: read aloud.
    """
    width, lane, line, left = 900, 90, 20, 96
    duration = float(signal.shape[1] / rate_hz)
    top = line + 6
    height = top + lane * len(channels) + line * len(rows) + 24

    def x(t: float) -> float:
        return left + (t - start_s) / duration * (width - left - 10)

    parts = [_say(4, line - 4, "true")]
    for i, name in enumerate(channels):
        parts.append(_say(4, top + lane * (i + 0.5), name))
        parts.append(f'<path class="trace" d="{_trace(signal[i], left, width - left - 10, top + lane * i, lane)}"/>')
    base = top + lane * len(channels)
    for j, name in enumerate(rows):
        parts.append(_say(4, base + line * (j + 1), name if len(name) <= 14 else name[:13] + "…"))
    for onset, true, answers in events:
        parts.append(f'<text x="{x(onset):.1f}" y="{line - 4}" text-anchor="middle">{escape(true)}</text>')
        for j, answer in enumerate(answers):
            good = answer == true
            style = "" if good else ' style="fill:var(--bad);font-weight:700"'
            mark = answer if good else f"{answer}✗"
            place = f'x="{x(onset):.1f}" y="{base + line * (j + 1):.1f}"'
            parts.append(f'<text {place} text-anchor="middle"{style}>{escape(mark)}</text>')
    for second in range(math.ceil(start_s), math.floor(start_s + 0.98 * duration) + 1, max(1, round(duration / 10))):
        parts.append(
            f'<text class="muted small" x="{x(second):.1f}" y="{height - 4}" text-anchor="middle">{second} s</text>'
        )
    return Html(  # a strip keeps its width and scrolls on a phone: squeezed, its letters could not be read
        '<div class="scroll" tabindex="0" role="region" aria-label="signal strip">'
        f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg></div>"
    )


def recording_picture(values: NDArray[Any] | None, aspect: float, label: str) -> Html:
    """A recording as ``medssl.evaluation.thumbnails`` keeps it.

    Args:
        values: (H, W) or (H, W, 3) uint8, or a trace (C, T); None where there is none.
        aspect: width over height of the picture.
        label: read aloud.
    """
    if values is None:
        return tag("p", "no picture", class_="muted")
    if values.dtype != np.uint8:
        return trace_picture(values.astype(np.float64), label)
    data = base64.b64encode(png(values)).decode()
    return tag("img", src=f"data:image/png;base64,{data}", alt=label, style=f"aspect-ratio:{aspect:.3g}")


def trace_picture(signal: NDArray[np.floating], label: str) -> Html:
    """A few channels (C, T) of a signal as a small picture, each over its own range."""
    width, height = 160, 110
    lane = height / len(signal)
    paths = "".join(
        f'<path class="trace" d="{_trace(own, 2, width - 4, lane * i, lane)}"/>' for i, own in enumerate(signal)
    )
    return Html(
        f'<svg class="small-trace" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{paths}</svg>'
    )


def _say(x: float, y: float, text: Any) -> str:
    return f'<text class="muted small" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _trace(samples: NDArray[np.floating], left: float, width: float, top: float, height: float) -> str:
    values = np.asarray(samples, dtype=np.float64)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    y = top + height * (0.95 - 0.9 * (values - low) / max(high - low, 1e-9))
    x = left + width * np.arange(len(values)) / max(len(values) - 1, 1)
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True) if np.isfinite(b))
