"""The page in a real browser: no error, no request, and everything that moves or answers does so.

Needs Chromium (``apt-get install chromium``); without it these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from toy_pages import beat_study, mask_study, torso_search

from medssl.report import report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 120_000  # a busy machine is no fault of the page
PHONE = {"width": 360, "height": 740}

# Text that is seen, with its colour and the nearest background that is not transparent.
CONTRASTS = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest('script,.skip')) continue;
    const style = getComputedStyle(e);
    const front = parse(e.closest('svg') ? style.fill : style.color);
    let back = [255, 255, 255];
    for (let p = e; p; p = p.parentElement) {
      const c = parse(getComputedStyle(p).backgroundColor);
      if (c.length === 3 || c[3] > 0) { back = c; break; }
    }
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) low.push(`${contrast.toFixed(2)}: ${e.tagName} ${e.textContent.trim().slice(0, 40)}`);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no {' or '.join(NAMES)} on the path")
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as client:
        opened = client.chromium.launch(executable_path=path, args=options, timeout=PATIENCE_MS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Kind of study → address of its page."""
    made = {
        "masks": mask_study(tmp_path_factory.mktemp("masks")),
        "beats": beat_study(tmp_path_factory.mktemp("beats")),
        "search": torso_search(tmp_path_factory.mktemp("search")),
    }
    return {kind: report(study).as_uri() for kind, study in made.items()}


@pytest.fixture
def visit(browser: Any, pages: dict[str, str]) -> Iterator[Any]:
    """Opens a page; at the end there must have been no message of the console and no request but the page itself."""
    contexts, said = [], []

    def go(kind: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url)
                if request.url != pages[kind] and not request.url.startswith("data:") else None)  # fmt: skip
        page.goto(pages[kind])
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []


def tip(page: Any) -> str | None:
    """Text of the tooltip; None while it is hidden."""
    box = page.locator("#tip")
    text: str | None = box.inner_text() if box.is_visible() else None
    return text


def test_the_slider_shows_another_slice_by_mouse_and_keyboard(visit: Any) -> None:
    page = visit("masks")
    slider, tile = page.locator("input[type=range]"), page.locator("svg.slice").last
    middle, picture = page.locator(".slide output").inner_text(), tile.screenshot()
    caption = page.locator(".answers figcaption span").last
    overlap = caption.inner_text()
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator(".slide output").inner_text() == "slice 1 of 13 (z 4 of 20)" != middle
    assert slider.get_attribute("aria-valuetext") == "slice 1 of 13 (z 4 of 20)"
    assert tile.screenshot() != picture and caption.inner_text() != overlap
    page.keyboard.press("ArrowRight")
    assert page.locator(".slide output").inner_text().startswith("slice 2 of 13")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert page.locator(".slide output").inner_text().startswith("slice 13 of 13")
    assert len({s.get_attribute("viewBox") for s in page.locator("svg.slice").all()}) == 1


def test_contours_are_drawn_and_can_be_hidden(visit: Any) -> None:
    page = visit("masks")
    tile = page.locator(".answers:not([hidden]) svg.slice").first
    shown = tile.screenshot()
    page.locator("input[data-toggle=prediction]").uncheck()
    without = tile.screenshot()
    page.locator("input[data-toggle=reference]").uncheck()
    assert len({shown, without, tile.screenshot()}) == 3
    assert not page.locator("svg.slice .reference:visible, svg.slice .prediction:visible").count()


def test_structures_have_colours_of_their_own(visit: Any) -> None:
    page = visit("masks")
    of_legend = {
        li.inner_text(): li.locator("path").evaluate("p => getComputedStyle(p).stroke")
        for li in page.locator("#examples .legend li").all()
    }
    assert list(of_legend) == ["head", "tail"] and len(set(of_legend.values())) == 2
    drawn = page.locator(".answers:not([hidden]) .prediction").first.locator("path")
    strokes = drawn.evaluate_all("all => all.map(p => getComputedStyle(p).stroke)")
    assert strokes == list(of_legend.values())


def test_the_legend_hides_lines_and_the_arrow_keys_skip_them(visit: Any) -> None:
    page = visit("masks")
    chart, names = page.locator("#result svg.chart").first, page.locator("#result .legend button")
    assert names.all_inner_texts() == ["scratch", "voco"]
    names.first.click()
    assert names.first.get_attribute("aria-pressed") == "false"
    assert not chart.locator("[data-series='0'] .point").first.is_visible()
    assert chart.locator("[data-series='1'] .point").first.is_visible()
    page.keyboard.press("Tab")
    while not page.evaluate("document.activeElement.matches('.point')"):
        page.keyboard.press("Tab")
    assert "voco, 2 patients" in (tip(page) or "")
    names.first.press("Enter")
    assert chart.locator("[data-series='0'] .point").first.is_visible()


def test_points_answer_to_mouse_keyboard_and_escape(visit: Any) -> None:
    page = visit("masks")
    chart = page.locator("#result svg.chart").first
    chart.locator(".point").nth(1).hover()
    assert "scratch, 10 patients" in (tip(page) or "")
    page.mouse.move(2, 2)
    assert tip(page) is None
    page.keyboard.press("Tab")
    while not page.evaluate("document.activeElement.matches('.point')"):
        page.keyboard.press("Tab")
    assert "scratch, 2 patients" in (tip(page) or "")
    page.keyboard.press("End")
    assert "voco, 10 patients" in (tip(page) or "")
    page.keyboard.press("Escape")
    assert tip(page) is None
    page.keyboard.press("ArrowLeft")
    assert "voco, 2 patients" in (tip(page) or "")
    page.keyboard.press("Tab")
    assert page.evaluate("!document.querySelector('#result svg.chart').contains(document.activeElement)")
    assert page.locator("svg title").count() == 0, "the browser's own tooltip would stand beside ours"


def test_a_finger_near_a_point_is_enough(visit: Any) -> None:
    page = visit("masks", viewport=PHONE, has_touch=True)
    point = page.locator("#patients .point").nth(3)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.touchscreen.tap(box["x"] - 1, box["y"] + box["height"] / 2)
    assert (tip(page) or "").startswith("patient p")
    place = page.locator("#tip").bounding_box()
    assert place["x"] >= 0 and place["x"] + place["width"] <= PHONE["width"]
    page.locator("h1").tap()
    assert tip(page) is None


def test_the_same_patient_lights_up_in_every_chart(visit: Any) -> None:
    page = visit("masks")
    page.locator("#map-of-features select").select_option("patient")
    page.locator("#map-of-features .point").nth(5).hover(force=True)
    lit = page.locator(".point.same")
    assert len({p.get_attribute("data-patient") for p in lit.all()}) == 1 and lit.count() > 4


def test_choosers_choose(visit: Any) -> None:
    page = visit("beats")
    for part in ("patients", "classes", "calibration", "examples"):
        blocks = page.locator(f"#{part} [data-group]")
        for value in ("2", "all"):
            page.locator(f"#{part} select").select_option(value)
            assert {b.get_attribute("data-value") for b in blocks.all() if b.is_visible()} == {value}
    colours = set()
    for way in ("label", "site", "patient"):
        page.locator("#map-of-features select").select_option(way)
        dots = page.locator("#map-of-features svg").last
        colours.add(tuple(dots.locator("circle").evaluate_all("c => c.map(e => getComputedStyle(e).fill)")))
    assert len(colours) == 3


@pytest.mark.parametrize("kind", ["masks", "beats", "search"])
def test_nothing_reaches_over_the_edge_of_a_phone(visit: Any, kind: str) -> None:
    page = visit(kind, viewport=PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["masks", "beats", "search"])
def test_text_stands_out_from_its_background(visit: Any, kind: str, scheme: str) -> None:
    assert visit(kind, color_scheme=scheme).evaluate(CONTRASTS) == []


def test_paper_has_no_controls_no_night_and_nothing_folded(visit: Any) -> None:
    page = visit("masks", color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator(".controls").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#classes table").is_visible() and not page.locator("#provenance pre").first.is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#classes table").is_visible()


def test_without_script_everything_is_visible(visit: Any) -> None:
    page = visit("masks", java_script_enabled=False)
    assert not page.locator(".controls").first.is_visible()
    assert all(tile.is_visible() for tile in page.locator("svg.slice").all())
    assert page.locator("#patients [data-value='2']").is_visible()
    assert page.locator("#patients [data-value='all']").is_visible()
