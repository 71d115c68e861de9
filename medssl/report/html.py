"""HTML as strings: a handful of functions, everything that comes from data is escaped."""

from __future__ import annotations

import html as _html
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Html", "details", "escape", "figure", "listing", "page", "section", "table", "tag"]


class Html(str):
    """Text that is HTML already; plain strings are escaped wherever they are put."""

    __slots__ = ()


def escape(value: object) -> Html:
    """HTML of any value: ``Html`` as it is, everything else escaped."""
    return value if isinstance(value, Html) else Html(_html.escape(str(value), quote=True))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """One element; ``class_`` and ``for_`` lose their underscore, other underscores become dashes.

    >>> tag("p", "a < b", class_="note", data_x=1)
    '<p class="note" data-x="1">a &lt; b</p>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in ("br", "img", "input", "meta", "hr"):
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{''.join(escape(c) for c in children)}</{name}>")


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, numeric: Sequence[int] = ()
) -> Html:
    """A table that scrolls sideways on a narrow screen; the first cell of a row is its header.

    Args:
        head: column headers.
        rows: cells.
        caption: said above it, and to screen readers.
        numeric: columns that are right-aligned.
    """

    def cell(i: int, value: object) -> Html:
        style = "num" if i in numeric else None
        return tag("th", value, scope="row", class_=style) if i == 0 else tag("td", value, class_=style)

    header = [tag("th", h, scope="col", class_="num" if i in numeric else None) for i, h in enumerate(head)]
    body = [tag("tr", *(cell(i, v) for i, v in enumerate(row))) for row in rows]
    inner = tag("table", tag("caption", tag("span", caption)), tag("thead", tag("tr", *header)), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def figure(content: object, caption: object) -> Html:
    """A figure with its caption."""
    return tag("figure", content, tag("figcaption", caption))


def section(title: str, *children: object, id_: str) -> Html:
    """A titled part of the page."""
    return tag("section", tag("h2", title, id=f"{id_}-title"), *children, id=id_, aria_labelledby=f"{id_}-title")


def details(summary: str, *children: object) -> Html:
    """Something that is folded away until asked for."""
    return tag("details", tag("summary", summary), *children)


def listing(summary: str, *children: object) -> Html:
    """As ``details``, for long texts that stay folded on paper too."""
    return tag("details", tag("summary", summary), *children, class_="listing")


def page(title: str, parts: Mapping[str, Html], *, lead: Html, footer: Html) -> Html:
    """A complete page without a single reference to another file.

    Args:
        title: of the document.
        parts: name in the navigation → section; the section's id is the name in lower case with dashes.
        lead: what stands above everything.
        footer: what stands below.
    """
    from medssl.report.script import SCRIPT
    from medssl.report.style import STYLE

    links = [tag("a", name, href=f"#{anchor(name)}") for name in parts]
    head = Html(
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"{tag('title', title)}<style>{STYLE}</style>"
    )
    body = Html(
        f"{tag('a', 'Skip to the content', class_='skip', href='#content')}"
        f"{tag('header', lead)}{tag('nav', *links, aria_label='Sections')}"
        f"{tag('main', *parts.values(), id='content')}{tag('footer', footer)}<script>{SCRIPT}</script>"
    )
    return Html(f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n')


def anchor(name: str) -> str:
    """Id of a section with this name."""
    return "-".join(name.lower().split())
