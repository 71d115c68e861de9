"""Nearest neighbours: patients kept apart, equal similarities in a fixed order."""

from __future__ import annotations

import numpy as np

from medssl.evaluation.neighbours import class_votes, neighbours, rank_classes, weighted_mean

BANK = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
LABELS = np.array([0, 0, 1, 1])


def test_a_planted_copy_of_the_same_patient_does_not_vote() -> None:
    query = np.array([[0.0, 1.0]])
    patients, own = np.array(["a", "a", "q", "b"]), np.array(["q"])
    free = neighbours(BANK, query, k=1)
    apart = neighbours(BANK, query, k=1, bank_patients=patients, query_patients=own)
    assert free.rows[0, 0] == 2 and apart.rows[0, 0] == 3


def test_a_query_whose_neighbours_are_all_its_own_gets_no_opinion() -> None:
    same = np.array(["q"] * 4)
    found = neighbours(BANK, BANK[:1], k=2, bank_patients=same, query_patients=same[:1])
    np.testing.assert_allclose(class_votes(found, LABELS, classes=2), [[0.5, 0.5]])
    np.testing.assert_allclose(weighted_mean(found, np.array([1.0, 2, 3, 4])), [2.5])


def test_ties_go_to_the_lower_row_and_the_smaller_class() -> None:
    bank = np.repeat(BANK[:1], 4, axis=0)
    found = neighbours(bank, BANK[:1], k=4)
    np.testing.assert_array_equal(found.rows, [[0, 1, 2, 3]])
    votes = class_votes(found, np.array([1, 0, 1, 0]), classes=3)
    np.testing.assert_array_equal(rank_classes(votes), [[0, 1, 2]])


def test_votes_are_shares_and_regression_is_their_mean() -> None:
    found = neighbours(BANK, np.array([[1.0, 0.05]]), k=4)
    votes = class_votes(found, LABELS, classes=2, temperature=0.1)
    np.testing.assert_allclose(votes.sum(1), 1)
    np.testing.assert_allclose(weighted_mean(found, LABELS.astype(float), temperature=0.1), votes[:, 1])


def test_no_query_gives_an_empty_answer() -> None:
    assert neighbours(BANK, np.empty((0, 2)), k=2).rows.shape == (0, 2)
