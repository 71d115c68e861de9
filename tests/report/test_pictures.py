"""Images survive their encoding; contours follow the pixels."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from medssl.report.pictures import contour_path, png, slice_picture, strip_picture


def test_png_can_be_read_by_others() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 11), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)


def test_the_contour_of_a_rectangle_is_its_outline() -> None:
    labels = np.zeros((6, 8), dtype=int)
    labels[1:4, 2:7] = 1
    runs = set(re.findall(r"M\d+ \d+[HV]\d+", contour_path(labels)))
    assert runs == {"M2 1H7", "M2 4H7", "M2 1V4", "M7 1V4"}


def test_labels_at_the_border_and_neighbouring_classes_have_edges() -> None:
    path = contour_path(np.array([[1, 2]]))
    assert "M1 0V1" in path and "M0 0V1" in path and "M0 0H2" in path
    assert contour_path(np.zeros((3, 3), dtype=int)) == ""


def test_large_slices_are_reduced() -> None:
    image = np.zeros((900, 500), dtype=np.uint8)
    picture = slice_picture(image, image, None, label="x")
    assert 'viewBox="0 0 167 300"' in picture and "prediction" not in picture


def test_events_stand_at_their_time() -> None:
    strip = strip_picture(
        np.zeros((1, 1000)), rate_hz=100, start_s=20, channels=["II"], rows=["scratch"],
        events=[(20.0, "N", ["N"]), (30.0, "V", ["N"])], label="x",
    )  # fmt: skip
    xs = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="16" text-anchor="middle">[NV]<', strip)]
    assert xs == [96.0, 890.0]
    assert strip.count("N✗") == 1
