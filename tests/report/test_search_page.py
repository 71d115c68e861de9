"""The page of a search is drawn from its folder alone, and what comes from data is escaped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_pages import torso_search

from medssl.report import report
from medssl.report.search_page import search_page


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return torso_search(tmp_path_factory.mktemp("search"))


def altered(found: Path, folder: Path, **changes: object) -> Path:
    """The folder of a search with another summary."""
    summary = json.loads((found / "summary.json").read_text(encoding="utf-8"))
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary | changes), encoding="utf-8")
    (folder / "pictures.npz").write_bytes((found / "pictures.npz").read_bytes())
    return folder


def test_the_page_says_what_its_measures_are(found: Path) -> None:
    page = search_page(found)
    for said in ("Recall@k is a hit rate", "min(k, relevant ones)", "gains 0 and 1", "computed exactly",
                 "4 patients", "random order"):  # fmt: skip
        assert said in page, said
    assert page.count('<li><img src="data:image/png;base64,') >= 2 * 6
    assert report(found).read_text(encoding="utf-8") == page


def test_text_from_data_is_escaped(found: Path, tmp_path: Path) -> None:
    strips = json.loads((found / "summary.json").read_text(encoding="utf-8"))["strips"]
    strips[0]["query"] |= {"recording": "<b>r</b>", "labels": {"class": "<script>x</script>"}}
    page = search_page(altered(found, tmp_path / "s", strips=strips))
    assert "&lt;b&gt;r&lt;/b&gt;" in page and "<script>x" not in page


def test_a_page_without_its_pictures_still_lists_the_hits(found: Path, tmp_path: Path) -> None:
    folder = altered(found, tmp_path / "s")
    (folder / "pictures.npz").unlink()
    page = search_page(folder)
    assert "no picture" in page and "data:image" not in page and "Query torso_" in page


def test_a_signal_is_drawn_as_lines(found: Path, tmp_path: Path) -> None:
    folder = altered(found, tmp_path / "s")
    with np.load(folder / "pictures.npz") as stored:
        traces = {name: np.random.default_rng(0).normal(size=(2, 30)).astype(np.float16) for name in stored.files}
    np.savez_compressed(folder / "pictures.npz", **traces)
    assert search_page(folder).count('class="small-trace"') >= 2 * 6
