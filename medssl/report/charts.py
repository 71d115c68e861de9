"""Charts as SVG strings: small, sharp at any size, readable aloud, following the page's colours.

Every chart has a title and a description for screen readers; every data point has a tooltip and can be reached with the
keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medssl.report.html import Html, escape, tag

__all__ = ["Series", "confusion_chart", "legend", "line_chart", "paired_chart", "ticks"]

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 68, 16, 14, 46
COLOURS = 7


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
    xs = [v for s in series for v, y in zip(s.x, s.y, strict=True) if _finite(v, y)]
    ys = [v for s in series for part in (s.y, s.low, s.high) for v in part if _finite(v)]
    if not xs:
        return tag("p", "Nothing was recorded.", class_="muted")
    frame = _frame(xs, ys, x_label, y_label, log_x, x_ticks)
    marks = "".join(_series(s, i, len(series), frame) for i, s in enumerate(series))
    return _svg(frame.background + marks, title, _spoken(series, y_label))


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
        parts.append(_line(LEFT, y(mark), WIDTH - RIGHT, y(mark), "gridline"))
        parts.append(_text(LEFT - 8, y(mark) + 4, _number(mark), anchor="end"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    taken = -math.inf
    for mark in x_marks:
        parts.append(_line(x(mark), HEIGHT - BOTTOM, x(mark), HEIGHT - BOTTOM + 5, "axis"))
        if x(mark) - taken > 26:  # labels must not run into each other
            parts.append(_text(x(mark), HEIGHT - BOTTOM + 19, _number(mark), anchor="middle"))
            taken = x(mark)
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, anchor="middle", style="muted"))
    parts.append(_upright(14, (HEIGHT - BOTTOM + TOP) / 2, y_label, "muted"))
    return _Frame(x, y, "".join(parts))


def _series(s: Series, index: int, count: int, frame: _Frame) -> str:
    colour = f"var(--s{index % COLOURS})"
    # overlapping intervals at one x are set side by side
    shift = (index - (count - 1) / 2) * 7 if s.low else 0.0
    points = [
        (i, frame.x(a) + shift, frame.y(b)) for i, (a, b) in enumerate(zip(s.x, s.y, strict=True)) if _finite(a, b)
    ]
    if not points:
        return ""
    path = " ".join(f"{'L' if j else 'M'}{px:.1f} {py:.1f}" for j, (_, px, py) in enumerate(points))
    dash = ("", "", "6 3", "2 3", "8 3 2 3", "4 4", "1 3")[index % COLOURS]
    style = f'stroke="{colour}" stroke-width="2" fill="none"' + (f' stroke-dasharray="{dash}"' if dash else "")
    out = [f'<path d="{path}" {style}/>']
    for i, px, py in points:
        if s.low and _finite(s.low[i], s.high[i]):
            low, high = frame.y(s.low[i]), frame.y(s.high[i])
            bar = f"M{px:.1f} {low:.1f}V{high:.1f}M{px - 4:.1f} {low:.1f}h8M{px - 4:.1f} {high:.1f}h8"
            out.append(f'<path d="{bar}" stroke="{colour}" stroke-width="1.6" fill="none"/>')
        if s.markers:
            label = escape(s.labels[i] if s.labels else s.name)
            out.append(
                f'<g tabindex="0" role="img" aria-label="{label}"><title>{label}</title>{_marker(px, py, index)}</g>'
            )
    return "".join(out)


def _marker(x: float, y: float, index: int) -> str:
    colour = f'fill="var(--s{index % COLOURS})" stroke="var(--bg)" stroke-width="1"'
    shape = index % 4
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {colour}/>'
    if shape == 1:
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {colour}/>'
    if shape == 2:
        return f'<path d="M{x:.1f} {y - 6:.1f}l5.6 10h-11.2z" {colour}/>'
    return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" {colour}/>'


def legend(names: Sequence[str]) -> Html:
    """Names with their colour and shape."""
    items = [
        tag("li", Html(f'<svg viewBox="0 0 26 14" aria-hidden="true">{_marker(13, 7, i)}</svg>'), name)
        for i, name in enumerate(names)
    ]
    return tag("ul", *items, class_="legend")


def paired_chart(
    first: Sequence[float], second: Sequence[float], labels: Sequence[str], *, title: str, x_label: str, y_label: str,
    higher_is_better: bool = True,
) -> Html:  # fmt: skip
    """One point a patient: baseline across, encoder up; the diagonal is no difference."""
    pairs = [(a, b, t) for a, b, t in zip(first, second, labels, strict=True) if _finite(a, b)]
    if not pairs:
        return tag("p", "No patient has a value in both arms.", class_="muted")
    size, left, bottom = 320, 52, 44
    marks = ticks(min(min(a, b) for a, b, _ in pairs), max(max(a, b) for a, b, _ in pairs), 5)
    span = size - left - 12

    def at(v: float) -> float:
        return (v - marks[0]) / (marks[-1] - marks[0]) * span

    parts = []
    for mark in marks:
        parts.append(_line(left, size - bottom - at(mark), left + span, size - bottom - at(mark), "gridline"))
        parts.append(_line(left + at(mark), size - bottom, left + at(mark), size - bottom - span, "gridline"))
        parts.append(_text(left - 6, size - bottom - at(mark) + 4, _number(mark), anchor="end", style="small"))
        parts.append(_text(left + at(mark), size - bottom + 16, _number(mark), anchor="middle", style="small"))
    parts.append(_line(left, size - bottom, left + span, size - bottom - span, "axis"))
    for a, b, label in pairs:
        gain = b > a if higher_is_better else b < a
        colour = "var(--good)" if gain else "var(--bad)" if a != b else "var(--muted)"
        spoken = escape(label)
        parts.append(
            f'<circle tabindex="0" role="img" aria-label="{spoken}" cx="{left + at(a):.1f}" '
            f'cy="{size - bottom - at(b):.1f}" r="4.5" fill="{colour}" fill-opacity=".75">'
            f"<title>{spoken}</title></circle>"
        )
    parts.append(_text(left + span / 2, size - 8, x_label, anchor="middle", style="muted small"))
    parts.append(_upright(12, size - bottom - span / 2, y_label, "muted small"))
    better = sum((b > a) if higher_is_better else (b < a) for a, b, _ in pairs)
    summary = f"{better} of {len(pairs)} patients are better with {y_label} than with {x_label}."
    return _svg("".join(parts), title, summary, size, size)


def confusion_chart(counts: Sequence[Sequence[float]], classes: Sequence[str], *, title: str) -> Html:
    """Confusion matrix: rows true, columns predicted, shaded by the share of the row."""
    k = len(classes)
    cell, left, top = 62, 84, 40
    parts = [_text(left + k * cell / 2, 14, "predicted", anchor="middle", style="muted small")]
    spoken = []
    for i, name in enumerate(classes):
        total = sum(counts[i]) or 1
        parts.append(_text(left + (i + 0.5) * cell, top - 8, _short(name), anchor="middle", style="small"))
        parts.append(_text(left - 8, top + (i + 0.5) * cell + 4, _short(name), anchor="end", style="small"))
        for j in range(k):
            share = counts[i][j] / total
            x, y = left + j * cell, top + i * cell
            label = escape(f"true {name}, predicted {classes[j]}: {counts[i][j]:.0f} ({share:.0%})")
            parts.append(
                f'<g tabindex="0" role="img" aria-label="{label}"><title>{label}</title>'
                f'<rect x="{x}" y="{y}" width="{cell - 2}" height="{cell - 2}" fill="var(--s{1 if i == j else 2})" '
                f'fill-opacity="{0.06 + 0.5 * share:.2f}"/>'
                + _text(x + cell / 2 - 1, y + cell / 2 - 1, f"{share:.0%}", anchor="middle")
                + _text(
                    x + cell / 2 - 1, y + cell / 2 + 15, f"{counts[i][j]:.0f}", anchor="middle", style="muted small"
                )
                + "</g>"
            )
        spoken.append(f"{counts[i][i] / total:.0%} of {name} found")
    return _svg("".join(parts), title, "; ".join(spoken), left + k * cell, top + k * cell)


def _svg(content: str, title: str, description: str, width: int = WIDTH, height: int = HEIGHT) -> Html:
    label = escape(f"{title}. {description}")  # a group, not an image: its points can be reached one by one
    style = "chart line" if width == WIDTH else "chart"
    return Html(
        f'<svg class="{style}" viewBox="0 0 {width} {height}" role="group" aria-label="{label}">{content}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "") -> str:
    given = f' class="{style}"' if style else ""
    return f'<text{given} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _upright(x: float, y: float, text: str, style: str) -> str:
    turned = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"'
    return f'<text class="{style}" text-anchor="middle" {turned}>{escape(text)}</text>'


def _spoken(series: Sequence[Series], y_label: str) -> str:
    parts = []
    for s in series:
        ends = [(a, b) for a, b in zip(s.x, s.y, strict=True) if _finite(a, b)]
        if ends:
            parts.append(f"{s.name}: {y_label} {_number(ends[0][1])} at {_number(ends[0][0])}, "
                         f"{_number(ends[-1][1])} at {_number(ends[-1][0])}")  # fmt: skip
    return "; ".join(parts)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _short(name: str, most: int = 10) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _finite(*values: float | None) -> bool:
    return all(v is not None and math.isfinite(v) for v in values)
