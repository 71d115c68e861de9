"""Charts put values where they belong."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from medssl.report.charts import LEFT, RIGHT, Series, legend, line_chart, ticks
from medssl.report.plots import confusion_chart, histogram_chart, paired_chart, reliability_chart
from medssl.report.svg import WIDTH


def circles(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]


@pytest.mark.parametrize(("low", "high"), [(0.71, 0.88), (0, 1), (3, 3), (-2, 17), (0.0001, 0.0002), (1e5, 3e6)])
def test_ticks_cover_the_range_with_few_round_numbers(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 8
    assert marks == sorted(marks)


def test_higher_values_stand_higher_and_later_ones_further_right() -> None:
    svg = line_chart([Series("a", [1, 10, 100], [0.2, 0.4, 0.6])], title="t", x_label="x", y_label="y", log_x=True)
    (x1, y1), (x2, y2), (x3, y3) = circles(svg)
    assert x1 < x2 < x3 and y1 > y2 > y3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2), "equal ratios are equally far apart on a logarithmic axis"


def test_missing_values_are_left_out() -> None:
    svg = line_chart([Series("a", [1, 2, 3], [0.2, math.nan, 0.6])], title="t", x_label="x", y_label="y")
    assert len(circles(svg)) == 2
    assert "Nothing was recorded" in line_chart([Series("a", [], [])], title="t", x_label="x", y_label="y")


def test_patients_above_the_diagonal_are_better() -> None:
    svg = paired_chart(
        [0.5, 0.5], [0.7, 0.4], ["p1", "p2"], ["p1: up", "p2: down"], title="t", x_label="scratch", y_label="voco"
    )
    assert "1 of 2 patients are better with voco" in svg
    assert svg.count("var(--good)") == svg.count("var(--bad)") == 1
    errors = paired_chart(
        [5, 5],
        [7, 4],
        ["p1", "p2"],
        ["p1: up", "p2: down"],
        title="t",
        x_label="a",
        y_label="b",
        higher_is_better=False,
    )
    assert re.search(r"<title>p2: down</title>.*?var\(--good\)", errors)


def test_confusion_shares_are_of_the_true_class() -> None:
    svg = confusion_chart([[8, 2], [0, 0]], ["N", "V"], title="t")
    assert "true N, predicted N: 8 (80%)" in svg and "true V, predicted V: 0 (0%)" in svg


def test_points_of_a_reliability_plot_lie_where_confidence_and_accuracy_say() -> None:
    svg = reliability_chart([0, 10, 30], [0, 0.5, 0.9], [0, 0.4, 1.0], title="t", index=0, ece=0.1)
    (x1, y1), (x2, y2) = circles(svg)
    assert x1 == pytest.approx(52 + 0.5 * 256, abs=0.1) and y1 == pytest.approx(276 - 0.4 * 256, abs=0.1)
    assert x2 == pytest.approx(52 + 0.9 * 256, abs=0.1) and y2 == pytest.approx(276 - 256, abs=0.1)
    assert "confidence 0.67–1.00: 30 answers, 90% sure on average, 100% right" in svg


def test_a_histogram_says_its_bins() -> None:
    svg = histogram_chart([0, 10, 20], [3, 9], title="t", x_label="Duration (s)", what="recordings")
    assert "<title>10–20: 9 recordings</title>" in svg and "most between 10 and 20" in svg
    low, high = (float(h) for h in re.findall(r'height="([\d.]+)" fill="var\(--s1\)"', svg))
    assert high == pytest.approx(3 * low, abs=0.2)


@pytest.mark.parametrize("arms", [2, 5, 20])
def test_intervals_of_many_arms_stay_beside_their_budget(arms: int) -> None:
    """Set side by side, neither outside the axes nor among those of the next budget."""
    budgets = [2.0, 4.0, 10.0, 23.0]
    series = [Series(f"arm{i}", budgets, [0.5] * 4, [0.4] * 4, [0.6] * 4) for i in range(arms)]
    svg = line_chart(series, title="t", x_label="x", y_label="y", log_x=True, x_ticks=budgets)
    bars = [float(x) for x in re.findall(r'd="M([\d.]+) [\d.]+V', svg)]
    at = [sorted(bars[i::4]) for i in range(4)]
    assert len(bars) == 4 * arms and len(set(at[0])) == arms
    assert at[0][0] >= LEFT and at[3][-1] <= WIDTH - RIGHT
    assert all(a[-1] < b[0] for a, b in itertools.pairwise(at))


@pytest.mark.parametrize(("lines", "buttons"), [(2, 2), (9, 10)])
def test_a_legend_of_many_lines_hides_all_at_once(lines: int, buttons: int) -> None:
    drawn = legend([f"arm {i}" for i in range(lines)])
    assert drawn.count("<button") == buttons and ('data-series="all"' in drawn) == (buttons > lines)
