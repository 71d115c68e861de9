"""Nearest neighbours in an embedding space: k-NN classification and regression on frozen features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Neighbours", "class_votes", "neighbours", "rank_classes", "weighted_mean"]

_CHUNK = 4096  # queries at a time, so that the similarity matrix stays small whatever the cohort


class Neighbours(NamedTuple):
    """Nearest bank rows of every query.

    Attributes:
        rows: (Q, k) rows of the bank, nearest first.
        similarity: (Q, k) cosine; −inf where a query has fewer than k admissible neighbours.
    """

    rows: NDArray[np.intp]
    similarity: NDArray[np.float64]


def neighbours(
    bank: NDArray[np.floating],
    query: NDArray[np.floating],
    *,
    k: int,
    bank_patients: NDArray[np.generic] | None = None,
    query_patients: NDArray[np.generic] | None = None,
) -> Neighbours:
    """The ``k`` bank rows most similar to each query by cosine, the lower row first among equals.

    Args:
        bank: (N, D) features.
        query: (Q, D) features.
        k: neighbours wanted; at most N.
        bank_patients: (N,) patient of each bank row; with ``query_patients``, those of the same patient are excluded.
        query_patients: (Q,) patient of each query.
    """
    unit_bank, unit_query = _unit(bank), _unit(query)
    k = min(k, len(bank))
    index, similarity = [], []
    for start in range(0, len(query), _CHUNK):
        cosine = unit_query[start : start + _CHUNK] @ unit_bank.T
        if bank_patients is not None and query_patients is not None:
            cosine[query_patients[start : start + _CHUNK, None] == bank_patients[None]] = -np.inf
        # stable, so that equal similarities give the same neighbours on every machine
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        index.append(order)
        similarity.append(np.take_along_axis(cosine, order, axis=1))
    if not index:
        return Neighbours(np.zeros((0, k), dtype=np.intp), np.zeros((0, k)))
    return Neighbours(np.concatenate(index), np.concatenate(similarity))


def class_votes(
    found: Neighbours, labels: NDArray[np.integer], *, classes: int, temperature: float = 0.07
) -> NDArray[np.float64]:
    """Votes of the neighbours, weight ``exp(similarity / temperature)``, normalised to shares.

    Args:
        found: neighbours of Q queries.
        labels: (N,) class of every bank row.
        classes: number of classes K.
        temperature: 0.07 (DINO) or 0.1 (InstDisc).

    Returns:
        (Q, K) shares; uniform where a query has no admissible neighbour.
    """
    # subtracting the row maximum leaves shares unchanged and cannot overflow
    top = np.max(found.similarity, axis=1, keepdims=True, initial=-1.0)
    weight = np.exp((found.similarity - top) / temperature)
    one_hot = np.eye(classes)[labels[found.rows]]
    votes = np.einsum("qk,qkc->qc", weight, one_hot)
    total = votes.sum(1, keepdims=True)
    return np.where(total > 0, votes / np.where(total > 0, total, 1), 1 / classes)


def rank_classes(votes: NDArray[np.float64]) -> NDArray[np.intp]:
    """(Q, K) classes from most to least voted; the smaller class index first among equals."""
    return np.argsort(-votes, axis=1, kind="stable")


def weighted_mean(found: Neighbours, values: NDArray[np.floating], *, temperature: float = 0.07) -> NDArray[np.float64]:
    """Regression by neighbours: mean of ``values`` (N,) weighted with ``exp(similarity / temperature)``; (Q,)."""
    top = np.max(found.similarity, axis=1, keepdims=True, initial=-1.0)
    weight = np.exp((found.similarity - top) / temperature)
    total = weight.sum(1)
    mean = np.where(total > 0, total, 1)
    return np.where(total > 0, (weight * values[found.rows]).sum(1) / mean, float(np.mean(values)))


def _unit(z: NDArray[np.floating]) -> NDArray[np.float64]:
    z = np.asarray(z, dtype=np.float64)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    unit: NDArray[np.float64] = z / np.maximum(norm, 1e-12)
    return unit
