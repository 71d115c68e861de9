"""Measures of a ranking: solved by hand, and their expectation against all orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medssl.evaluation.search.measures import expected_scores, ranking_scores


def test_scores_of_a_ranking_solved_by_hand() -> None:
    """Hits at ranks 2 and 3 of three relevant items."""
    found = ranking_scores(np.array([[False, True, True, False]]), np.array([3]), (1, 3, 10))
    assert [found[f"recall_at_{k}"][0] for k in (1, 3, 10)] == [0, 1, 1]
    assert [found[f"precision_at_{k}"][0] for k in (1, 3, 10)] == pytest.approx([0, 2 / 3, 0.2])
    assert found["map_at_3"][0] == pytest.approx((1 / 2 + 2 / 3) / 3)
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert found["ndcg_at_3"][0] == pytest.approx((1 / np.log2(3) + 1 / 2) / ideal)
    assert found["mrr"][0] == 0.5


def test_a_perfect_ranking_scores_one_and_a_query_with_nothing_to_find_is_left_out() -> None:
    relevant = np.arange(8) < np.array([[3], [8], [0]])
    found = ranking_scores(relevant, relevant.sum(1), (1, 3, 5))
    for name, values in found.items():
        assert np.isnan(values[2])
        if name != "precision_at_5":
            np.testing.assert_allclose(values[:2], 1, err_msg=name)
    assert found["precision_at_5"].tolist()[:2] == [3 / 5, 1]
    missed = ranking_scores(np.zeros((1, 4), dtype=bool), np.array([2]), (1, 3))
    assert all(values[0] == 0 for values in missed.values())


@pytest.mark.parametrize(("items", "relevant"), [(5, 2), (7, 7), (3, 1), (6, 3)])
def test_the_expectation_of_a_random_order_is_the_mean_over_all_orders(items: int, relevant: int) -> None:
    orders = np.array(list(itertools.permutations(range(items)))) < relevant
    found = ranking_scores(orders, np.full(len(orders), relevant), (1, 3, 5, 10))
    expected = expected_scores(np.array([items]), np.array([relevant]), (1, 3, 5, 10), items)
    assert set(found) == set(expected)
    for name, values in found.items():
        assert values.mean() == pytest.approx(expected[name][0], abs=1e-12), name


def test_the_expectation_of_a_query_with_nothing_to_find_is_unknown() -> None:
    found = expected_scores(np.array([4, 4]), np.array([0, 1]), (1,), 4)
    assert np.isnan(found["recall_at_1"][0]) and found["recall_at_1"][1] == 0.25
