"""Test cases of segmentation as stacks: image, reference and every arm's contour in the slices of a volume, or in the
annotated frames of a video, with a slider.

All slices of a case stand under each other in one picture that is stored once; each tile looks at it through a window
that a slider moves. Without script the middle slice is seen.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.report.html import Html, escape, figure, tag
from medssl.report.pictures import contour_path, png
from medssl.report.study_data import Arrays, Entry, patients_of

__all__ = ["stack_case", "structure_colours", "structure_legend"]

COLOURS = 6
GAP = 2  # empty rows between slices, so that a contour at the border does not reach into the next one


def structure_colours(classes: Sequence[str]) -> dict[int, str]:
    """Label value → style of its contours; empty for one structure, whose two contours differ in colour instead."""
    return {int(c): f"k{(i + 1) % COLOURS}" for i, c in enumerate(classes)} if len(classes) > 1 else {}


def structure_legend(colours: Mapping[int, str], names: Mapping[str, str]) -> Html:
    """Which colour is which structure; empty where colours say nothing."""
    items = [
        tag("li", Html(f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true"><path class="{style}" d="M3 7h20"/>'
                       "</svg>"), names.get(str(value), str(value)))
        for value, style in colours.items()
    ]  # fmt: skip
    return tag("ul", *items, class_="legend") if items else Html("")


def stack_case(
    arrays: Arrays, n: int, budgets: Sequence[Entry], arms: Sequence[str], colours: Mapping[int, str]
) -> Html:
    """One case: a slider, the image, the reference, and every arm at every budget.

    Args:
        arrays: of ``STUDY/examples.npz``, of any version.
        n: number of the case.
        budgets: that were kept.
        arms: to show.
        colours: see ``structure_colours``.
    """
    frames = str(arrays[f"kind_{n}"]) == "frames"
    image, reference = (_shown(arrays[f"{part}_{n}"], frames) for part in ("image", "reference"))
    middle = len(image) // 2
    if len(image) > 1:  # not the middle of the stack, but the slice that shows most
        middle = int((reference > 0).sum((1, 2)).argmax())
    view = _View(n, image, tuple(float(v) for v in arrays[f"pixel_mm_{n}"]), middle, colours)
    recording = str(arrays[f"recording_{n}"])
    tiles = [
        figure(view.tile((), f"Recording {recording}, the image"), "image"),
        figure(view.tile(("reference",), f"Recording {recording}, contours of the reference"), "reference"),
    ]
    groups = [_answers(arrays, n, b, arms, view, reference) for b in budgets]
    return tag(
        "div",
        tag("h3", f"Recording {recording}"),
        view.store(reference),
        _slider(arrays, n, len(image), middle),
        tag("div", *tiles, *groups, class_="tiles"),
        class_="case", data_pitch=view.pitch,
    )  # fmt: skip


def _shown(stack: NDArray[Any], frames: bool) -> NDArray[Any]:
    """(S, H, W) as radiologists see it; frames of a video as they were recorded.

    Rows of a prepared slice run to anterior and columns to the right; half a turn puts anterior up and the patient's
    right on the left.
    """
    stack = stack[None] if stack.ndim == 2 else stack
    if frames:
        return stack
    return np.ascontiguousarray(stack[:, ::-1, ::-1])


class _View:
    """Windows onto one case: where its pictures are stored and how a tile refers to them."""

    def __init__(
        self, n: int, image: NDArray[Any], pixel_mm: tuple[float, ...], middle: int, colours: Mapping[int, str]
    ) -> None:
        self.n, self.image, self.middle, self.colours = n, image, middle, colours
        self.slices, self.height, self.width = image.shape
        self.pitch = self.height + GAP
        self.aspect = self.width * pixel_mm[1] / (self.height * pixel_mm[0])

    def store(self, reference: NDArray[Any]) -> Html:
        """The picture of all slices and the contours of the reference, for every tile to refer to."""
        sheet = np.zeros((self.slices, self.pitch, self.width), dtype=np.uint8)
        sheet[:, : self.height] = self.image
        data = base64.b64encode(png(sheet.reshape(-1, self.width))).decode()
        size = f'width="{self.width}" height="{self.slices * self.pitch}"'
        return Html(
            '<svg class="store" width="0" height="0" aria-hidden="true"><defs>'
            f'<image id="case-{self.n}" href="data:image/png;base64,{data}" {size} preserveAspectRatio="none" '
            f'style="image-rendering:pixelated"/><g id="reference-{self.n}">{self.contours(reference)}</g>'
            "</defs></svg>"
        )

    def contours(self, labels: NDArray[Any]) -> str:
        """SVG paths of the contours in every slice, in the place of that slice; one a structure where they differ."""
        if not self.colours:
            return self._path(labels, "")
        return "".join(self._path(labels == value, style) for value, style in self.colours.items())

    def _path(self, labels: NDArray[Any], style: str) -> str:
        steps = "".join(contour_path(own, top=i * self.pitch) for i, own in enumerate(labels))
        given = f' class="{style}"' if style else ""
        return f'<path{given} vector-effect="non-scaling-stroke" d="{steps}"/>' if steps else ""

    def tile(self, parts: Sequence[str], label: str) -> Html:
        """A window: the image, the reference if asked for, and paths given as they are."""
        inner = f'<use href="#case-{self.n}"/>'
        for part in parts:
            inner += f'<use class="reference" href="#reference-{self.n}"/>' if part == "reference" else part
        return Html(
            f'<svg class="slice" viewBox="0 {self.middle * self.pitch} {self.width} {self.height}" '
            f'preserveAspectRatio="none" style="aspect-ratio:{self.aspect:.4g}" role="img" '
            f'aria-label="{escape(label)}">{inner}</svg>'
        )


def _slider(arrays: Arrays, n: int, slices: int, middle: int) -> Html:
    if slices < 2:
        return Html("")
    depth = int(arrays[f"depth_{n}"])
    frames = str(arrays[f"kind_{n}"]) == "frames"
    one, along = ("annotated frame", "frame") if frames else ("slice", "z")
    where = [
        f"{one} {i + 1} of {slices} ({along} {int(z) + 1} of {depth})" for i, z in enumerate(arrays[f"slices_{n}"])
    ]
    number = {"min": 1, "max": slices, "step": 1, "value": middle + 1}
    return tag(
        "div",
        tag("label", "Frame" if frames else "Slice", for_=f"slider-{n}"),
        tag("input", type="range", id=f"slider-{n}", data_slider="", autocomplete="off", **number),
        tag("output", where[middle], for_=f"slider-{n}", data_values="|".join(where)),
        class_="controls slide", hidden="",
    )  # fmt: skip


def _answers(
    arrays: Arrays, n: int, budget: Entry, arms: Sequence[str], view: _View, reference: NDArray[Any]
) -> Html:  # fmt: skip
    """What every arm answered at one budget."""
    tiles = []
    frames = str(arrays[f"kind_{n}"]) == "frames"
    for arm in arms:
        key = f"{n}/{arm}/{budget['asked']}"
        if f"prediction_{key}" not in arrays:
            continue
        answer = _shown(arrays[f"prediction_{key}"], frames)
        path = f'<g class="prediction">{view.contours(answer)}</g>'
        overlaps = [_overlap(a, b, "frame" if frames else "slice") for a, b in zip(reference, answer, strict=True)]
        whole = f" · Dice of the case {float(arrays[f'dice_{key}']):.2f}" if f"dice_{key}" in arrays else ""
        about = f"{arm}, {patients_of(budget)}"
        label = f"Recording {arrays[f'recording_{n}']}, contours of the reference and of {about}"
        said = tag("span", overlaps[view.middle], data_values="|".join(overlaps))
        caption = Html(f"{tag('strong', about)}{escape(whole)} · {said}")
        tiles.append(figure(view.tile(("reference", path), label + whole), caption))
    return tag("div", *tiles, class_="answers", data_group="examples", data_value=budget["asked"])


def _overlap(reference: NDArray[Any], prediction: NDArray[Any], what: str) -> str:
    """Mean Dice of the classes that occur in one slice or frame; that is said, since it is not the study's metric."""
    found = []
    for name in np.union1d(reference, prediction):
        a, b = reference == name, prediction == name
        if name:
            found.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return f"Dice of this {what} {np.mean(found):.2f}" if found else f"nothing in this {what}"
