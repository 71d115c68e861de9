"""Nearest neighbours: patients kept apart, equal similarities in a fixed order."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from medssl.evaluation import neighbours as module
from medssl.evaluation.neighbours import class_votes, neighbours, patient_codes, rank_classes, weighted_mean

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


def exhaustive(bank: np.ndarray, query: np.ndarray, k: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All cosines in double precision; those that agree in ten digits are equal, and the lower row comes first."""
    unit_bank, unit_query = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, query))
    cosine = np.where(own, -np.inf, unit_query @ unit_bank.T)
    order = np.argsort(-cosine.round(10), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosine, order, axis=1)


@pytest.mark.parametrize("kind", ["spread", "copies", "nearly all the same", "beyond single precision"])
@pytest.mark.parametrize("k", [1, 10, 3000])
def test_a_bank_in_blocks_is_ranked_as_a_whole(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision only proposes: copies, and rows it cannot tell apart, stand where double precision puts them."""
    monkeypatch.setattr(module, "_BLOCK", 1000)
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(3000, 16))
    if kind == "copies":
        bank[500:2500] = bank[3]
    elif kind == "nearly all the same":
        bank = 1 + 1e-6 * bank
    elif kind == "beyond single precision":
        bank[1] *= 1e30
    patients = rng.integers(0, 40, 3000).astype(str)
    found = neighbours(bank, bank[:20], k=k, bank_patients=patients, query_patients=patients[:20])
    rows, cosine = exhaustive(bank, bank[:20], k, patients[:20, None] == patients[None])
    admitted = np.isfinite(cosine)
    np.testing.assert_array_equal(found.rows[admitted], rows[admitted])
    np.testing.assert_array_equal(np.isfinite(found.similarity), admitted)
    np.testing.assert_allclose(found.similarity[admitted], cosine[admitted], rtol=0, atol=1e-12)


def test_few_neighbours_of_a_large_block_are_proposed_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    proposed = []

    def watched(*given: Any) -> Any:
        proposed.append(propose(*given))
        return proposed[-1]

    propose = module._candidates
    monkeypatch.setattr(module, "_candidates", watched)
    neighbours(rng.normal(size=(4000, 16)).astype(np.float32), rng.normal(size=(5, 16)), k=3)
    assert proposed[-1] is not None and proposed[-1].shape == (5, 38)
    neighbours(np.ones((4000, 16), dtype=np.float32), rng.normal(size=(5, 16)), k=3)
    assert proposed[-1] is None  # a collapsed encoder: nothing can be told apart


def test_memory_does_not_grow_with_the_bank() -> None:
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((100_000, 64), dtype=np.float32)
    tracemalloc.start()
    neighbours(bank, bank[:256], k=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all cosines alone would take 200 MB


def test_the_same_patient_has_one_code_everywhere() -> None:
    bank, query = patient_codes(np.array(["b", "a", "b"], dtype=object), np.array(["a", "c"], dtype=object))
    assert bank.tolist() == [1, 0, 1] and query.tolist() == [0, 2]
