"""Approximate nearest neighbours by FAISS, for galleries of millions; an extra (``pip install 'medssl[faiss]'``).

An inverted file (Jégou et al., TPAMI 2011): the gallery is cut into cells by k-means, and a query looks into the
nearest ones only. What is found is ordered again by exact cosine, equals by row, as the exact search does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError
from medssl.evaluation.neighbours import Neighbours, patient_codes

__all__ = ["faiss_neighbours", "require_faiss"]

_TRAINED_FROM = 39  # recordings a cell; with fewer the search is exact
_LOOKED_INTO = 32  # cells
_MOST_OWN = 1000  # recordings of one patient that may crowd the first places
_QUERIES = 256
_CELLS = 2**24  # numbers of what was found, at most


def require_faiss() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "--index faiss needs an extra: pip install 'medssl[faiss]'; without --index the search is exact"
        ) from error
    return faiss


def faiss_neighbours(
    bank: NDArray[np.floating],
    query: NDArray[np.floating],
    *,
    k: int,
    bank_patients: NDArray[np.generic] | None = None,
    query_patients: NDArray[np.generic] | None = None,
) -> Neighbours:
    """As ``medssl.evaluation.neighbours.neighbours``, but what lies in other cells is not found.

    Raises:
        ConfigError: FAISS is not installed.
    """
    faiss = require_faiss()
    k = min(k, len(bank))
    owners, more = None, 0
    if bank_patients is not None and query_patients is not None:
        owners = patient_codes(bank_patients, query_patients)
        more = min(_MOST_OWN, int(np.bincount(owners[0]).max(initial=0)))
    index = _index(faiss, _unit(bank))
    rows = np.zeros((len(query), k), dtype=np.intp)
    similarity = np.full((len(query), k), -np.inf)
    step = max(1, min(_QUERIES, _CELLS // ((k + more) * bank.shape[1])))
    for start in range(0, len(query), step):
        chosen = slice(start, start + step)
        unit = _unit(query[chosen])
        found = np.asarray(index.search(unit, min(k + more, len(bank)))[1])
        found = np.sort(found, axis=1)
        near = _unit(bank[np.maximum(found, 0)].reshape(-1, bank.shape[1])).reshape(*found.shape, -1)
        cosine = np.einsum("qcd,qd->qc", near.astype(np.float64), unit.astype(np.float64))
        cosine[found < 0] = -np.inf
        if owners is not None:
            cosine[owners[0][found] == owners[1][chosen, None]] = -np.inf
        order = np.argsort(-cosine.round(6), axis=1, kind="stable")[:, :k]
        rows[chosen, : order.shape[1]] = np.maximum(np.take_along_axis(found, order, axis=1), 0)
        similarity[chosen, : order.shape[1]] = np.take_along_axis(cosine, order, axis=1)
    return Neighbours(rows, similarity)


def _index(faiss: Any, unit: NDArray[np.float32]) -> Any:
    cells = int(4 * math.sqrt(len(unit)))
    inverted = len(unit) >= _TRAINED_FROM * cells
    index = faiss.index_factory(unit.shape[1], f"IVF{cells},Flat" if inverted else "Flat", faiss.METRIC_INNER_PRODUCT)
    if inverted:
        index.train(unit[np.random.default_rng(0).permutation(len(unit))[: _TRAINED_FROM * cells]])
        index.nprobe = _LOOKED_INTO
    index.add(unit)
    return index


def _unit(x: NDArray[np.floating]) -> NDArray[np.float32]:
    x = np.ascontiguousarray(x, dtype=np.float32)
    unit: NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
    return unit
