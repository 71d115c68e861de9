"""Images survive their encoding; contours follow the pixels."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from medssl.report.pictures import contour_path, png, strip_picture, trace_picture


def test_png_can_be_read_by_others() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 11), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)
    coloured = np.random.default_rng(1).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(coloured)))), coloured)


def test_a_trace_has_a_line_a_channel_and_says_what_it_is() -> None:
    picture = trace_picture(np.random.default_rng(0).normal(size=(3, 50)), 'Recording "a"')
    assert picture.count("<path") == 3 and 'aria-label="Recording &quot;a&quot;"' in picture
    assert trace_picture(np.zeros((1, 5)), "flat").count("L") == 4


def edges(path: str) -> set[tuple[int, int, int, int]]:
    """Unit edges that a path draws, as (x, y, dx, dy); each may be drawn once only."""
    found: list[tuple[int, int, int, int]] = []
    x = y = 0
    for kind, first, second in re.findall(r"([Mhv])(-?\d+)(?: (-?\d+))?", path):
        if kind == "M":
            x, y = int(first), int(second)
            continue
        step, sign = int(first), (1 if int(first) > 0 else -1)
        for _ in range(abs(step)):
            ahead = (x + sign, y) if kind == "h" else (x, y + sign)
            found.append((min(x, ahead[0]), min(y, ahead[1]), int(kind == "h"), int(kind == "v")))
            x, y = ahead
    assert len(found) == len(set(found))
    return set(found)


def test_the_contour_of_a_rectangle_is_its_outline() -> None:
    labels = np.zeros((6, 8), dtype=int)
    labels[1:4, 2:7] = 1
    assert contour_path(labels) == "M2 1h5v3h-5v-3"
    assert contour_path(labels, top=10) == "M2 11h5v3h-5v-3"


def test_contours_draw_every_edge_between_classes_once() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (13, 17))
    padded = np.pad(labels, 1)
    wanted = {(x, y, 1, 0) for y in range(14) for x in range(17) if padded[y, x + 1] != padded[y + 1, x + 1]}
    wanted |= {(x, y, 0, 1) for y in range(13) for x in range(18) if padded[y + 1, x] != padded[y + 1, x + 1]}
    assert edges(contour_path(labels)) == wanted


def test_nothing_has_no_contour() -> None:
    assert contour_path(np.zeros((3, 3), dtype=int)) == ""


def test_events_stand_at_their_time() -> None:
    strip = strip_picture(
        np.zeros((1, 1000)), rate_hz=100, start_s=20, channels=["II"], rows=["scratch"],
        events=[(20.0, "N", ["N"]), (30.0, "V", ["N"])], label="x",
    )  # fmt: skip
    xs = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="16" text-anchor="middle">[NV]<', strip)]
    assert xs == [96.0, 890.0]
    assert strip.count("N✗") == 1
