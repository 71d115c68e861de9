"""Batches that hold several recordings of a patient."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.methods.patient_batches import patient_order


def pairs(patients: np.ndarray, order: np.ndarray, batch: int) -> list[int]:
    """In each batch, recordings whose patient stands in it more than once."""
    rows = patients[order].reshape(-1, batch)
    return [sum(np.unique(row, return_counts=True)[1][np.unique(row, return_inverse=True)[1]] > 1) for row in rows]


@pytest.mark.parametrize(
    ("patients", "batch", "together", "least"),
    [
        (np.repeat(np.arange(20), 2), 8, 2, 8),  # all have two
        (np.repeat(np.arange(10), 5), 10, 2, 8),
        (np.r_[np.arange(40), np.arange(6)], 8, 2, 2),  # few have two, one pair for each of five batches
        (np.repeat(np.arange(12), 3), 9, 3, 9),
        (np.repeat(np.arange(20), 2), 5, 2, 4),  # an odd batch holds two pairs and one more
        (np.zeros(30, int), 6, 9, 6),  # one patient, and sets that would not fit
    ],
)
def test_every_batch_holds_patients_with_several(patients: np.ndarray, batch: int, together: int, least: int) -> None:
    orders = [patient_order(patients, batch, together, np.random.default_rng(seed)) for seed in range(5)]
    for order in orders:
        assert len(order) == len(patients) // batch * batch == len(set(order.tolist()))
        assert min(pairs(patients, order, batch)) >= least
    assert not np.array_equal(orders[0], orders[1]), "redrawn every epoch"
    np.testing.assert_array_equal(orders[0], patient_order(patients, batch, together, np.random.default_rng(0)))
    assert set(np.concatenate(orders).tolist()) == set(range(len(patients))), "no recording is left out for good"


def test_fewer_recordings_than_a_batch_all_stand_in_it() -> None:
    order = patient_order(np.array([0, 1, 0, 2]), 16, 2, np.random.default_rng(0))
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_large_cohorts_take_little_time() -> None:
    patients = np.random.default_rng(0).integers(0, 30_000, 100_000)
    order = patient_order(patients, 256, 2, np.random.default_rng(0))  # 100 ms; loops over patients take seconds
    assert len(set(order.tolist())) == 100_000 // 256 * 256
