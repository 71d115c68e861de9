"""Square plots: patients in pairs, confusion, reliability, maps; and histograms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medssl.report.charts import ticks
from medssl.report.html import Html, tag
from medssl.report.svg import drawing, finite, line, marker, number, point, text, upright

__all__ = ["MapPoint", "confusion_chart", "histogram_chart", "map_chart", "paired_chart", "reliability_chart"]

SIZE, LEFT, BOTTOM, RIGHT = 320, 52, 44, 12
SPAN = SIZE - LEFT - RIGHT


def _square(marks: Sequence[float], x_label: str, y_label: str) -> tuple[list[str], Callable[[float], float]]:
    """Grid, labels and diagonal of two axes with the same marks, and where a value lies along either."""

    def at(v: float) -> float:
        return (v - marks[0]) / (marks[-1] - marks[0]) * SPAN

    base = SIZE - BOTTOM
    parts = []
    for mark in marks:
        parts.append(line(LEFT, base - at(mark), LEFT + SPAN, base - at(mark), "gridline"))
        parts.append(line(LEFT + at(mark), base, LEFT + at(mark), base - SPAN, "gridline"))
        parts.append(text(LEFT - 6, base - at(mark) + 4, number(mark), anchor="end", style="small"))
        parts.append(text(LEFT + at(mark), base + 16, number(mark), anchor="middle", style="small"))
    parts.append(line(LEFT, base, LEFT + SPAN, base - SPAN, "axis"))
    parts.append(text(LEFT + SPAN / 2, SIZE - 8, x_label, anchor="middle", style="muted small"))
    parts.append(upright(12, base - SPAN / 2, y_label, "muted small"))
    return parts, at


def paired_chart(
    first: Sequence[float], second: Sequence[float], patients: Sequence[str], labels: Sequence[str], *, title: str,
    x_label: str, y_label: str, higher_is_better: bool = True,
) -> Html:  # fmt: skip
    """One point a patient: baseline across, encoder up; the diagonal is no difference."""
    pairs = [(a, b, p, t) for a, b, p, t in zip(first, second, patients, labels, strict=True) if finite(a, b)]
    if not pairs:
        return tag("p", "No patient has a value in both arms.", class_="muted")
    marks = ticks(min(min(a, b) for a, b, *_ in pairs), max(max(a, b) for a, b, *_ in pairs), 5)
    parts, at = _square(marks, x_label, y_label)
    for a, b, patient, label in pairs:
        gain = b > a if higher_is_better else b < a
        colour = "var(--good)" if gain else "var(--bad)" if a != b else "var(--muted)"
        place = f'cx="{LEFT + at(a):.1f}" cy="{SIZE - BOTTOM - at(b):.1f}"'
        shape = f'<circle {place} r="4.5" fill="{colour}" fill-opacity=".75"/>'
        parts.append(point(shape, label, patient=patient, reachable=len(pairs) <= 60))
    better = sum((b > a) if higher_is_better else (b < a) for a, b, *_ in pairs)
    summary = f"{better} of {len(pairs)} patients are better with {y_label} than with {x_label}."
    return drawing("".join(parts), title, summary, SIZE, SIZE)


def confusion_chart(counts: Sequence[Sequence[float]], classes: Sequence[str], *, title: str) -> Html:
    """Confusion matrix: rows true, columns predicted, shaded by the share of the row."""
    k = len(classes)
    cell, left, top = 62, 84, 40
    parts = [text(left + k * cell / 2, 14, "predicted", anchor="middle", style="muted small"),
             text(left - 8, top - 8, "true", anchor="end", style="muted small")]  # fmt: skip
    spoken = []
    for i, name in enumerate(classes):
        total = sum(counts[i]) or 1
        parts.append(text(left + (i + 0.5) * cell, top - 8, _short(name, 8), anchor="middle", style="small"))
        parts.append(text(left - 8, top + (i + 0.5) * cell + 4, _short(name), anchor="end", style="small"))
        for j in range(k):
            share = counts[i][j] / total
            x, y = left + j * cell, top + i * cell
            middle = x + cell / 2 - 1
            shape = (
                f'<rect x="{x}" y="{y}" width="{cell - 2}" height="{cell - 2}" fill="var(--s{1 if i == j else 2})" '
                f'fill-opacity="{0.06 + 0.4 * share:.2f}"/>'
                + text(middle, y + cell / 2 - 1, f"{share:.0%}", anchor="middle")
                + text(middle, y + cell / 2 + 15, f"{counts[i][j]:.0f}", anchor="middle", style="small")
            )
            said = f"true {name}, predicted {classes[j]}: {counts[i][j]:.0f} ({share:.0%})"
            parts.append(point(shape, said, reachable=k <= 6))
        spoken.append(f"{counts[i][i] / total:.0%} of {name} found")
    return drawing("".join(parts), title, "; ".join(spoken), left + k * cell, top + k * cell)


def reliability_chart(
    counts: Sequence[float], confidence: Sequence[float], right: Sequence[float], *, title: str, index: int, ece: float
) -> Html:
    """How often answers of a confidence are right, with the number of answers as bars below.

    Args:
        counts: answers in each of B bins of equal width over 0 to 1.
        confidence: mean confidence of each bin.
        right: share of right answers of each bin.
        title: of the chart.
        index: of the arm; gives colour and shape.
        ece: expected calibration error, read aloud.
    """
    parts, at = _square([0, 0.2, 0.4, 0.6, 0.8, 1], "confidence", "share that is right")
    base, most, width = SIZE - BOTTOM, max(*counts, 1), SPAN / len(counts)
    known = [(i, n, c, r) for i, (n, c, r) in enumerate(zip(counts, confidence, right, strict=True)) if n > 0]
    colour = f"var(--s{index % 7})"
    path = "".join(f"{'L' if j else 'M'}{LEFT + at(c):.1f} {base - at(r):.1f}" for j, (_, _, c, r) in enumerate(known))
    parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="1.6" fill="none"/>')
    for i, n, c, r in known:
        tall = 0.25 * SPAN * n / most
        shape = (
            f'<rect x="{LEFT + i * width + 1:.1f}" y="{base - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}" '
            f'fill="var(--muted)" fill-opacity=".35"/>{marker(LEFT + at(c), base - at(r), index)}'
        )
        low, high = i / len(counts), (i + 1) / len(counts)
        said = f"confidence {low:.2f}–{high:.2f}: {n:.0f} answers, {c:.0%} sure on average, {r:.0%} right"
        parts.append(point(shape, said))
    return drawing("".join(parts), title, f"Expected calibration error {ece:.3f}.", SIZE, SIZE)


def histogram_chart(edges: Sequence[float], counts: Sequence[int], *, title: str, x_label: str, what: str) -> Html:
    """Bars over a range.

    Args:
        edges: B + 1 limits of the bins.
        counts: B numbers.
        title: of the chart.
        x_label: below it.
        what: is counted.
    """
    width, height, left, top, bottom = 320, 190, 40, 10, 42
    marks = ticks(0, max(*counts, 1), 4)
    span, tall = width - left - 12, height - top - bottom
    parts = []
    for mark in marks:
        y = height - bottom - tall * mark / marks[-1]
        parts.append(line(left, y, left + span, y, "gridline"))
        parts.append(text(left - 6, y + 4, number(mark), anchor="end", style="small"))
    step = span / len(counts)
    for i, n in enumerate(counts):
        high = tall * n / marks[-1]
        x, y = left + i * step, height - bottom - high
        shape = (  # the whole column answers to the pointer, however low its bar is
            f'<rect x="{x:.1f}" y="{top}" width="{step:.1f}" height="{tall}" fill="transparent"/>'
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{high:.1f}" fill="var(--s1)"/>'
        )
        parts.append(point(shape, f"{number(edges[i])}–{number(edges[i + 1])}: {n} {what}"))
    for i in sorted({0, len(counts) // 2, len(counts)}):
        side = "start" if i == 0 else "end" if i == len(counts) else "middle"
        parts.append(text(left + i * step, height - bottom + 16, number(edges[i]), anchor=side, style="small"))
    parts.append(text(left + span / 2, height - 6, x_label, anchor="middle", style="muted small"))
    most = max(range(len(counts)), key=lambda i: counts[i])
    spoken = (
        f"{sum(counts)} {what} from {number(edges[0])} to {number(edges[-1])}, "
        f"most between {number(edges[most])} and {number(edges[most + 1])}."
    )
    return drawing("".join(parts), title, spoken, width, height)


@dataclass(frozen=True)
class MapPoint:
    """One recording on a map.

    Attributes:
        x, y: where.
        said: tooltip.
        patient: whose it is.
        classes: style classes, one a colouring.
        hue: of its patient, in degrees.
        tested: drawn as a ring.
    """

    x: float
    y: float
    said: str
    patient: str
    classes: str
    hue: int
    tested: bool


def map_chart(points: Sequence[MapPoint], *, title: str, spoken: str) -> Html:
    """Points without axes: only who is near whom has a meaning."""
    xs, ys = [p.x for p in points], [p.y for p in points]
    wide, tall = (max(max(v) - min(v), 1e-9) for v in (xs, ys))
    scale = (SIZE - 24) / max(wide, tall)  # one scale for both, so that distances are not bent
    left, top = (SIZE - scale * wide) / 2, (SIZE - scale * tall) / 2
    parts = [f'<rect class="frame" x=".5" y=".5" width="{SIZE - 1}" height="{SIZE - 1}"/>']
    for p in points:
        x, y = left + scale * (p.x - min(xs)), top + scale * (max(ys) - p.y)
        style = f' style="--h:{p.hue}"'
        kind = f"dot {p.classes}" + (" ring" if p.tested else "")
        shape = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        parts.append(point(shape, p.said, patient=p.patient, reachable=False, more=style))
    return drawing("".join(parts), title, spoken, SIZE, SIZE)


def _short(name: str, most: int = 10) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
