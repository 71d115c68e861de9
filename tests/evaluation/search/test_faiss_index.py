"""The approximate search, where FAISS is installed; a clear sentence where it is not."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from medssl.errors import ConfigError
from medssl.evaluation.neighbours import neighbours
from medssl.evaluation.search.faiss_index import faiss_neighbours, require_faiss

MISSING = importlib.util.find_spec("faiss") is None


@pytest.mark.skipif(not MISSING, reason="faiss is installed")
def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'medssl\[faiss\]'"):
        require_faiss()


@pytest.mark.skipif(MISSING, reason="the extra faiss is not installed")
def test_a_small_gallery_is_searched_exactly() -> None:
    rng = np.random.default_rng(0)
    bank, patients = rng.normal(size=(200, 16)), rng.integers(0, 30, 200).astype(str)
    given = {"k": 5, "bank_patients": patients, "query_patients": patients[:20]}
    found, exact = faiss_neighbours(bank, bank[:20], **given), neighbours(bank, bank[:20], **given)
    np.testing.assert_array_equal(found.rows, exact.rows)
    np.testing.assert_allclose(found.similarity, exact.similarity, atol=1e-6)


@pytest.mark.skipif(MISSING, reason="the extra faiss is not installed")
def test_a_large_gallery_is_searched_nearly_exactly() -> None:
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(40_000, 8)).astype(np.float32)
    found, exact = faiss_neighbours(bank, bank[:50], k=10), neighbours(bank, bank[:50], k=10)
    same = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), exact.rows.tolist(), strict=True)]
    assert np.mean(same) > 8
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(50))
