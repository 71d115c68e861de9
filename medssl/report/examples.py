"""Example predictions over the image or signal, from ``STUDY/examples.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.report.html import Html, figure, section, tag
from medssl.report.pictures import slice_picture, strip_picture

__all__ = ["example_section"]

Arrays = Mapping[str, NDArray[Any]]


def example_section(folder: Path, summary: Mapping[str, Any]) -> Html:
    """Test cases with every arm's answer at the smallest and the largest budget; empty where none were kept."""
    file = folder / "examples.npz"
    if not file.is_file():
        return Html("")
    with np.load(file, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    budgets = [b for b in summary["budgets"] if any(name.endswith(f"/{b['asked']}") for name in arrays)]
    cases = sorted({int(name[5:]) for name in arrays if name.startswith("kind_")})
    if not budgets or not cases:
        return Html("")
    slices = str(arrays[f"kind_{cases[0]}"]) == "slice"
    blocks = [
        tag("div", tag("h3", f"{b['n_patients']:g} labelled patients"),
            *(_case(arrays, n, b["asked"], list(summary["encoders"]), slices) for n in cases),
            data_group="examples", data_value=b["asked"])
        for b in budgets
    ]  # fmt: skip
    options = [tag("option", f"{b['n_patients']:g} labelled patients", value=b["asked"]) for b in reversed(budgets)]
    boxes = (
        [_box("reference", "reference (solid yellow)"), _box("prediction", "prediction (dashed cyan)")]
        if slices
        else []
    )
    controls = tag(
        "div",
        tag("label", "Show ", tag("select", *options, data_choose="examples")),
        *boxes,
        class_="controls",
        hidden="",
    )
    return section("Examples", tag("p", _explanation(slices)), controls, *blocks, id_="examples")


def _explanation(slices: bool) -> str:
    if slices:
        return (
            "The first test cases, in the slice that shows most of the reference; not chosen by result. Anterior is "
            "up, the patient's right on the left. Solid yellow: reference; dashed cyan: prediction."
        )
    return (
        "Stretches of test recordings with the rarest classes. Above each signal the true class of every event, "
        "below it the answer of each arm; ✗ marks a wrong one."
    )


def _box(name: str, text: str) -> Html:
    return tag("label", tag("input", type="checkbox", checked="", data_toggle=name), f" {text}")


def _case(arrays: Arrays, n: int, budget: str, arms: list[str], slices: bool) -> Html:
    answers = {a: arrays[f"prediction_{n}/{a}/{budget}"] for a in arms if f"prediction_{n}/{a}/{budget}" in arrays}
    recording = str(arrays[f"recording_{n}"])
    if not slices:
        return figure(_strip(arrays, n, answers, recording), f"Recording {recording}")
    tiles = [_tile(arrays, n, arm, answer, recording) for arm, answer in answers.items()]
    return tag("div", tag("p", f"Recording {recording}", class_="muted"), tag("div", *tiles, class_="tiles"))


def _tile(arrays: Arrays, n: int, arm: str, answer: NDArray[Any], recording: str) -> Html:
    """One slice as radiologists see it.

    Rows of a prepared slice run to anterior and columns to the right; half a turn puts anterior up and the patient's
    right on the left.
    """
    image, reference, prediction = (a[::-1, ::-1] for a in (arrays[f"image_{n}"], arrays[f"reference_{n}"], answer))
    overlap = _overlap(reference, prediction)
    height, width = (float(v) for v in arrays[f"pixel_mm_{n}"])
    picture = slice_picture(
        image, reference, prediction, pixel_mm=(height, width),
        label=f"Recording {recording}, contours of the reference and of {arm}: {overlap}",
    )  # fmt: skip
    return figure(picture, f"{arm} · {overlap}")


def _overlap(reference: NDArray[Any], prediction: NDArray[Any]) -> str:
    """Dice of this slice, classes together; said to be of the slice, since it is not the metric of the study."""
    a, b = reference > 0, prediction > 0
    total = int(a.sum() + b.sum())
    same = int(((reference == prediction) & a).sum())
    return f"overlap in this slice {2 * same / total:.2f}" if total else "nothing here"


def _strip(arrays: Arrays, n: int, answers: Mapping[str, NDArray[Any]], recording: str) -> Html:
    signal = np.asarray(arrays[f"signal_{n}"], dtype=np.float64)
    start, rate = float(arrays[f"start_s_{n}"]), float(arrays[f"rate_hz_{n}"])
    onsets = np.nan_to_num(arrays[f"onset_s_{n}"], nan=start + signal.shape[1] / rate / 2)
    true = arrays[f"true_{n}"]
    events = [(float(t), str(true[i]), [str(a[i]) for a in answers.values()]) for i, t in enumerate(onsets)]
    wrong = {arm: int((a != true).sum()) for arm, a in answers.items()}
    spoken = ", ".join(f"{arm} {w} wrong" for arm, w in wrong.items())
    return strip_picture(
        signal, rate_hz=rate, start_s=start, channels=[str(c) for c in arrays[f"channels_{n}"]], events=events,
        rows=list(answers), label=f"Recording {recording}: {len(events)} events; {spoken}",
    )  # fmt: skip
