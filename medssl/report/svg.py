"""What charts are made of: SVG as strings, with points that say what they are."""

from __future__ import annotations

import math

from medssl.report.html import Html, escape

__all__ = ["COLOURS", "HEIGHT", "WIDTH", "drawing", "finite", "line", "marker", "number", "point", "text", "upright"]

WIDTH, HEIGHT = 560, 340
COLOURS = 7


def drawing(content: str, title: str, description: str, width: float = WIDTH, height: float = HEIGHT) -> Html:
    """A whole chart; a group, not an image, since its points can be reached one by one."""
    label = escape(f"{title}. {description}")
    style = "chart line" if width == WIDTH else "chart"
    return Html(
        f'<svg class="{style}" viewBox="0 0 {width:g} {height:g}" role="group" aria-label="{label}">{content}</svg>'
    )


def point(shape: str, said: str, *, patient: str = "", reachable: bool = True, more: str = "") -> str:
    """Something with a tooltip.

    The title shows without script too; the page's script turns it into a tooltip for mouse, touch and keyboard, and
    lets the arrow keys go from point to point.

    Args:
        shape: SVG of it.
        said: the tooltip, read aloud too.
        patient: points of one patient light up together.
        reachable: with the tab key where there is no script; not for hundreds of points.
        more: attributes as text.
    """
    owner = f' data-patient="{escape(patient)}"' if patient else ""
    stop = ' tabindex="0"' if reachable else ""
    return f'<g class="point" role="img"{stop}{owner}{more}><title>{escape(said)}</title>{shape}</g>'


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line of a class of the style sheet."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, said: str, *, anchor: str = "start", style: str = "") -> str:
    """Words at a place."""
    given = f' class="{style}"' if style else ""
    return f'<text{given} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def upright(x: float, y: float, said: str, style: str) -> str:
    """Words along the vertical axis."""
    turned = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"'
    return f'<text class="{style}" text-anchor="middle" {turned}>{escape(said)}</text>'


def marker(x: float, y: float, index: int) -> str:
    """The shape of a series; series are told apart by shape and colour."""
    colour = f'fill="var(--s{index % COLOURS})" stroke="var(--bg)" stroke-width="1"'
    shape = index % 4
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {colour}/>'
    if shape == 1:
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {colour}/>'
    if shape == 2:
        return f'<path d="M{x:.1f} {y - 6:.1f}l5.6 10h-11.2z" {colour}/>'
    return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" {colour}/>'


def number(value: float) -> str:
    """Four digits at most."""
    return f"{value:.4g}"


def finite(*values: float | None) -> bool:
    """Whether all of them are numbers that can be drawn."""
    return all(v is not None and math.isfinite(v) for v in values)
