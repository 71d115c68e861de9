"""Example predictions over the image or signal, from ``STUDY/examples.npz`` of any version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.report.html import Html, figure, section, tag
from medssl.report.pictures import recording_picture, strip_picture
from medssl.report.stacks import stack_case, structure_colours, structure_legend
from medssl.report.study_data import Arrays, Study, chooser, patients_of

__all__ = ["example_section"]

MOST_LETTERS = 3_500_000  # of all stacks; the rest of a page is far smaller


def example_section(study: Study) -> Html:
    """Test cases with every arm's answer at the smallest and the largest budget; empty where none were kept."""
    arrays, arms = study.pictures, study.arms
    budgets = [b for b in study.budgets if any(n.startswith("prediction_") and n.endswith(f"/{b['asked']}")
                                               for n in arrays)]  # fmt: skip
    cases = sorted({int(name[5:]) for name in arrays if name.startswith("kind_")})
    if not budgets or not cases:
        return Html("")
    kind = str(arrays[f"kind_{cases[0]}"])
    slices = kind in ("slice", "stack", "frames")  # a slice: of version 1
    if slices:
        colours = structure_colours(study.summary["classes"])
        solid, dashed = ("solid", "dashed") if colours else ("solid yellow", "dashed cyan")
        boxes = [_box("reference", f"reference ({solid})"), _box("prediction", f"prediction ({dashed})")]
        blocks = _within_bounds(stack_case(arrays, n, budgets, arms, colours) for n in cases)
        names = structure_legend(colours, study.summary["class_names"])
        controls = Html(chooser("examples", budgets, *boxes, last=True) + names)
    else:
        blocks = [
            tag("div", tag("h3", patients_of(b)), *_answered(kind, arrays, cases, b["asked"], arms),
                data_group="examples", data_value=b["asked"])
            for b in budgets
        ]  # fmt: skip
        controls = chooser("examples", budgets, last=True)
    missing = [a for a in arms if not any(n.startswith("prediction_") and f"/{a}/" in n for n in arrays)]
    text = _explanation(kind) + (f" Not kept: {', '.join(missing)}." if missing else "")
    if slices and len(blocks) < len(cases):
        text += f" Of {len(cases)} cases {len(blocks)} are shown, which keeps the page small."
    return section("Examples", tag("p", text), controls, *blocks, id_="examples")


def _within_bounds(blocks: Iterable[Html]) -> list[Html]:
    """The first cases that fit; many arms with many fine structures would make a page of tens of megabytes."""
    kept: list[Html] = []
    for block in blocks:
        if kept and sum(map(len, kept)) + len(block) > MOST_LETTERS:
            break
        kept.append(block)
    return kept


def _explanation(kind: str) -> str:
    if kind == "frames":
        return (
            "The annotated frames of the first test videos, not chosen by result, cropped to the surroundings of the "
            "reference. Solid lines: reference; dashed lines: prediction. What an arm found outside the crop is not "
            "seen here but counts in the Dice of the case, which is the mean over these frames."
        )
    if kind in ("slice", "stack"):
        return (
            "The first test cases, not chosen by result, cropped to the surroundings of the reference. Anterior is up, "
            "the patient's right on the left. Solid lines: reference; dashed lines: prediction. What an arm found "
            "outside the crop is not seen here but counts in the Dice of the case."
        )
    if kind == "picture":
        return (
            "Test recordings of different patients, spread evenly over the true values and not chosen by result, with "
            "the answer of each arm; ✗ marks a wrong class."
        )
    return (
        "Stretches of test recordings with the rarest classes. Above each signal the true class of every event, "
        "below it the answer of each arm; ✗ marks a wrong one."
    )


def _box(name: str, text: str) -> Html:
    return tag("label", tag("input", type="checkbox", checked="", autocomplete="off", data_toggle=name), f" {text}")


def _answered(kind: str, arrays: Arrays, cases: list[int], budget: str, arms: list[str]) -> list[Html]:
    """Signals one below the other, or pictures side by side, with what each arm says of them."""
    if kind == "picture":
        return [tag("ol", *(_place(arrays, n, budget, arms) for n in cases), class_="hits answers")]
    return [_strip(arrays, n, budget, arms) for n in cases]


def _answers(arrays: Arrays, n: int, budget: str, arms: list[str]) -> dict[str, NDArray[Any]]:
    return {a: arrays[f"prediction_{n}/{a}/{budget}"] for a in arms if f"prediction_{n}/{a}/{budget}" in arrays}


def _place(arrays: Arrays, n: int, budget: str, arms: list[str]) -> Html:
    """One picture; numbers are neither right nor wrong."""
    recording, true = str(arrays[f"recording_{n}"]), arrays[f"true_{n}"]
    label = f"Recording {recording}, {arrays[f'what_{n}']}"
    told = []
    for arm, answer in _answers(arrays, n, budget, arms).items():
        wrong = true.dtype.kind == "U" and answer[0] != true[0]
        words = f"{arm}: {_word(answer[0])}" + (" ✗" if wrong else "")
        told.append(tag("span", words, class_="bad" if wrong else None))
    picture = recording_picture(arrays[f"picture_{n}"], float(arrays[f"aspect_{n}"]), label)
    return tag("li", picture, tag("strong", f"true: {_word(true[0])}"), *told, tag("span", recording, class_="muted"))


def _word(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:.4g}"


def _strip(arrays: Arrays, n: int, budget: str, arms: list[str]) -> Html:
    answers, recording = _answers(arrays, n, budget, arms), str(arrays[f"recording_{n}"])
    return figure(_picture(arrays, n, answers, recording), f"Recording {recording}")


def _picture(arrays: Arrays, n: int, answers: Mapping[str, NDArray[Any]], recording: str) -> Html:
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
