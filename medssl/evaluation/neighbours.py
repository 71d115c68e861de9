"""Nearest neighbours in an embedding space: the one ranking behind k-NN, retrieval and search.

Exact, with memory that depends neither on the number of queries nor on that of the bank: blocks of the bank meet a few
queries at a time. Where few neighbours of a large block are wanted, products in single precision choose candidates and
double precision orders them; the choice is made again in double precision wherever rounding could have left one out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Neighbours", "class_votes", "neighbours", "patient_codes", "rank_classes", "weighted_mean"]

_BLOCK = 8192  # rows of the bank at a time
_QUERIES = 256  # and queries
_CELLS = 2**24  # numbers in one matrix, at most, whatever is asked for
_DECIMALS = 10  # cosines that agree so far are equal: the same row may differ in the last bits by its place in a block
_ROUNDING = 2.0**-23  # twice the relative error of one operation in single precision: of products, and of lengths
_SHORTEST = 1e-15  # length that single precision can still square


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
    k = min(k, len(bank))
    rows = np.zeros((len(query), k), dtype=np.intp)
    similarity = np.full((len(query), k), -np.inf)
    owners = None
    if bank_patients is not None and query_patients is not None:
        owners = patient_codes(bank_patients, query_patients)
    step = max(1, min(_QUERIES, _CELLS // (k + min(len(bank), _BLOCK) + 1)))
    for start in range(0, len(query), step):
        chosen = slice(start, start + step)
        unit = _unit(query[chosen])
        best = Neighbours(np.zeros((len(unit), 0), dtype=np.intp), np.zeros((len(unit), 0)))
        for first in range(0, len(bank), _BLOCK):
            block = slice(first, first + _BLOCK)
            own = None if owners is None else owners[1][chosen, None] == owners[0][None, block]
            found = _of_block(bank[block], unit, own, k)
            best = _joined(best, Neighbours(found.rows + first, found.similarity), k)
        rows[chosen], similarity[chosen] = best
    return Neighbours(rows, similarity)


def patient_codes(*patients: NDArray[np.generic]) -> list[NDArray[np.intp]]:
    """The same patients by the same numbers, in every array; numbers compare a hundred times faster than texts."""
    together = np.unique(np.concatenate([np.asarray(p) for p in patients]), return_inverse=True)[1]
    return np.split(together.astype(np.intp), np.cumsum([len(p) for p in patients])[:-1])


def _of_block(
    block: NDArray[np.floating], unit: NDArray[np.float64], own: NDArray[np.bool_] | None, k: int
) -> Neighbours:
    """All rows of a block with their similarity, or those among which the nearest k are; ascending rows."""
    few = 2 * k + 32
    if 8 * few < len(block):  # looking up scattered rows costs several times what a product does
        candidates = _candidates(block, unit, own, k, few)
        if candidates is not None:
            return Neighbours(candidates, _looked_up(block, unit, own, candidates))
    cosine = unit @ _unit(block).T
    if own is not None:
        cosine[own] = -np.inf
    return Neighbours(np.broadcast_to(np.arange(len(block)), cosine.shape), cosine)


def _candidates(
    block: NDArray[np.floating], unit: NDArray[np.float64], own: NDArray[np.bool_] | None, k: int, few: int
) -> NDArray[np.intp] | None:
    """(q, few) rows that hold the k nearest for certain, by single precision; None where that cannot be told."""
    single = block.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        length = np.sqrt(np.einsum("nd,nd->n", single, single))
    if not (np.isfinite(length).all() and length.min() > _SHORTEST):
        return None
    rough = unit.astype(np.float32) @ single.T
    rough /= length
    if own is not None:
        rough[own] = -np.inf
    columns = np.sort(np.argpartition(rough, -few, axis=1)[:, -few:], axis=1)
    ordered = np.partition(np.take_along_axis(rough, columns, axis=1), (0, few - k), axis=1)
    least, kth = ordered[:, 0], ordered[:, few - k]
    error = np.float32(_ROUNDING * (unit.shape[1] + 4))  # of a cosine, at worst
    certain = (least < kth - 2 * error) | np.isneginf(least)
    return columns if certain.all() else None


def _looked_up(
    block: NDArray[np.floating], unit: NDArray[np.float64], own: NDArray[np.bool_] | None, rows: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(q, c) cosines of each query with its own rows of a block, in double precision."""
    out = np.empty(rows.shape)
    step = max(1, _CELLS // 4 // max(1, rows.shape[1] * block.shape[1]))
    for start in range(0, len(rows), step):
        chosen = slice(start, start + step)
        near = block[rows[chosen]].astype(np.float64)
        length = np.maximum(np.sqrt(np.einsum("qcd,qcd->qc", near, near)), 1e-12)
        out[chosen] = np.einsum("qcd,qd->qc", near, unit[chosen]) / length
    if own is not None:
        out[np.take_along_axis(own, rows, axis=1)] = -np.inf
    return out


def _joined(best: Neighbours, more: Neighbours, k: int) -> Neighbours:
    """The nearest k of both; the rows of ``more`` are higher, so a stable order leaves the lower of equals first."""
    rows = np.concatenate([best.rows, more.rows], axis=1)
    similarity = np.concatenate([best.similarity, more.similarity], axis=1)
    order = np.argsort(-np.round(similarity, _DECIMALS), axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(rows, order, axis=1), np.take_along_axis(similarity, order, axis=1))


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
