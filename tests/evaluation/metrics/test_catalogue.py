"""Every metric a task claims on is described."""

from __future__ import annotations

from pathlib import Path

from medssl.evaluation.metrics.catalogue import HEADLINE, METRICS, info_of


def test_headlines_are_described() -> None:
    assert set(HEADLINE.values()) <= set(METRICS)


def test_a_class_keeps_the_unit_of_its_metric() -> None:
    assert info_of("masd_mm/2").unit == "mm"
    assert not info_of("masd_mm").higher_is_better
    assert info_of("something_new").title == "something_new"


def test_the_user_guide_defines_every_metric() -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "evaluate.md"
    text = guide.read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in text] == []
