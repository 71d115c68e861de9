"""Every metric a task claims on is described."""

from __future__ import annotations

from medssl.evaluation.metrics.catalogue import HEADLINE, METRICS, info_of


def test_headlines_are_described() -> None:
    assert set(HEADLINE.values()) <= set(METRICS)


def test_a_class_keeps_the_unit_of_its_metric() -> None:
    assert info_of("masd_mm/2").unit == "mm"
    assert not info_of("masd_mm").higher_is_better
    assert info_of("something_new").title == "something_new"
