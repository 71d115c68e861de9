"""Charts as SVG strings: small, sharp at any size, readable aloud, following the page's colours.

Every chart has a title and a description for screen readers; every data point has a tooltip and can be reached with the
keyboard.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medssl.report.html import Html, escape, tag
from medssl.report.svg import COLOURS, HEIGHT, WIDTH, drawing, finite, line, marker, number, point, text, upright

__all__ = ["Series", "legend", "line_chart", "ticks"]

LEFT, RIGHT, TOP, BOTTOM = 82, 16, 14, 54
MANY = 4  # lines above which one wants to see a few alone


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: for the legend.
        x, y: points; points whose y is not finite are left out.
        low, high: intervals; empty for none.
        labels: tooltip of each point; empty for none.
        markers: draw the points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    labels: Sequence[str] = ()
    markers: bool = True


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that cover a range.

    >>> ticks(0.71, 0.88)
    [0.7, 0.75, 0.8, 0.85, 0.9]
    """
    if not math.isfinite(low) or not math.isfinite(high):
        return [0.0, 1.0]
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / max(1, most - 1)
    scale = 10 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the drawing."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    background: str


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    x_ticks: Sequence[float] | None = None,
) -> Html:
    """Lines with intervals; series keep their colour and shape by their place."""
    xs = [v for s in series for v, y in zip(s.x, s.y, strict=True) if finite(v, y)]
    ys = [v for s in series for part in (s.y, s.low, s.high) for v in part if finite(v)]
    if not xs:
        return tag("p", "Nothing was recorded.", class_="muted")
    frame = _frame(xs, ys, x_label, y_label, log_x, x_ticks)
    aside = _aside(frame, xs, len(series))
    marks = "".join(_series(s, i, (i - (len(series) - 1) / 2) * aside, frame) for i, s in enumerate(series))
    return drawing(frame.background + marks, title, _spoken(series, y_label))


def _frame(
    xs: Sequence[float], ys: Sequence[float], x_label: str, y_label: str, log_x: bool, x_ticks: Sequence[float] | None
) -> _Frame:
    y_marks = ticks(min(ys), max(ys))
    x_marks = sorted(set(x_ticks)) if x_ticks else ticks(min(xs), max(xs))
    scale = (lambda v: math.log(max(v, 1e-9))) if log_x else float
    low, high = scale(min(*xs, *x_marks)), scale(max(*xs, *x_marks))
    pad = 0.06 * (high - low) if x_ticks else 0.0
    low, high = (low - pad, high + pad) if high > low else (low - 1, high + 1)

    def x(v: float) -> float:
        return LEFT + (scale(v) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(v: float) -> float:
        return HEIGHT - BOTTOM - (v - y_marks[0]) / (y_marks[-1] - y_marks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for mark in y_marks:
        parts.append(line(LEFT, y(mark), WIDTH - RIGHT, y(mark), "gridline"))
        parts.append(text(LEFT - 8, y(mark) + 4, number(mark), anchor="end"))
    parts.append(line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    taken = -math.inf
    for mark in x_marks:
        parts.append(line(x(mark), HEIGHT - BOTTOM, x(mark), HEIGHT - BOTTOM + 5, "axis"))
        if x(mark) - taken > 26:  # labels must not run into each other
            parts.append(text(x(mark), HEIGHT - BOTTOM + 21, number(mark), anchor="middle"))
            taken = x(mark)
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, anchor="middle", style="muted"))
    parts.append(upright(14, (HEIGHT - BOTTOM + TOP) / 2, y_label, "muted"))
    return _Frame(x, y, "".join(parts))


def _aside(frame: _Frame, xs: Sequence[float], count: int) -> float:
    """How far apart the intervals of several series at one x are set: within the axes, and clear of the next x."""
    places = sorted({frame.x(v) for v in xs})
    gaps = [b - a for a, b in itertools.pairwise(places)]
    room = min(0.8 * min(gaps, default=math.inf), 2 * (places[0] - LEFT), 2 * (WIDTH - RIGHT - places[-1]))
    return min(7.0, max(room, 0.0) / max(count - 1, 1))


def _series(s: Series, index: int, shift: float, frame: _Frame) -> str:
    colour = f"var(--s{index % COLOURS})"
    shift = shift if s.low else 0.0
    points = [
        (i, frame.x(a) + shift, frame.y(b)) for i, (a, b) in enumerate(zip(s.x, s.y, strict=True)) if finite(a, b)
    ]
    if not points:
        return ""
    path = " ".join(f"{'L' if j else 'M'}{px:.1f} {py:.1f}" for j, (_, px, py) in enumerate(points))
    dash = ("", "", "6 3", "2 3", "8 3 2 3", "4 4", "1 3")[index % COLOURS]
    style = f'stroke="{colour}" stroke-width="2" fill="none"' + (f' stroke-dasharray="{dash}"' if dash else "")
    out = [f'<g data-series="{index}"><path d="{path}" {style}/>']
    for i, px, py in points:
        if s.low and finite(s.low[i], s.high[i]):
            low, high = frame.y(s.low[i]), frame.y(s.high[i])
            bar = f"M{px:.1f} {low:.1f}V{high:.1f}M{px - 4:.1f} {low:.1f}h8M{px - 4:.1f} {high:.1f}h8"
            out.append(f'<path d="{bar}" stroke="{colour}" stroke-width="1.6" fill="none"/>')
        if s.markers:
            out.append(point(marker(px, py, index), s.labels[i] if s.labels else s.name))
    return "".join(out) + "</g>"


def legend(names: Sequence[str]) -> Html:
    """Names with their colour and shape; buttons that hide and show their line in all charts of the section.

    The buttons are dead without script, and then look like plain text.
    """
    shapes = [f'<svg viewBox="0 0 26 14" aria-hidden="true">{marker(13, 7, i)}</svg>' for i in range(len(names))]
    items = [
        tag("li", _switch(Html(shape + escape(name)), i))
        for i, (shape, name) in enumerate(zip(shapes, names, strict=True))
    ]
    if len(names) > MANY:
        items.append(tag("li", _switch("hide or show all", "all")))
    return tag("ul", *items, class_="legend")


def _switch(inner: object, series: int | str) -> Html:
    return tag("button", inner, type="button", disabled="", aria_pressed="true", data_series=series)


def _spoken(series: Sequence[Series], y_label: str) -> str:
    parts = []
    for s in series:
        ends = [(a, b) for a, b in zip(s.x, s.y, strict=True) if finite(a, b)]
        if ends:
            parts.append(f"{s.name}: {y_label} {number(ends[0][1])} at {number(ends[0][0])}, "
                         f"{number(ends[-1][1])} at {number(ends[-1][0])}")  # fmt: skip
    return "; ".join(parts)
