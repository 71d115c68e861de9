"""Every recording as a query: patients left out, means over queries, intervals and tests over patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medssl.errors import CohortError
from medssl.evaluation.intervals import patient_interval
from medssl.evaluation.search.measures import expected_scores
from medssl.evaluation.search.relevance import Labelled
from medssl.evaluation.search.scores import DEPTH, HEADLINE, KS, Pair, RankedPair, compare, macro, rank, summarise
from medssl.evaluation.statistics import cluster_means, sign_flip

N, PATIENTS = 60, 12


def pair_of(y: np.ndarray, patients: np.ndarray, *, exclude: str = "patient") -> Pair:
    """A cohort against itself."""
    labelled = Labelled(np.arange(len(y)), np.eye(int(y.max()) + 1, dtype=bool)[y])
    recordings = np.array([f"r{i}" for i in range(len(y))], dtype=object)
    items = patients if exclude == "patient" else None
    return Pair("mine", "mine", labelled, labelled, patients, items, recordings)


@pytest.fixture
def pair() -> Pair:
    rng = np.random.default_rng(0)
    return pair_of(rng.integers(0, 3, N), np.repeat([f"p{i}" for i in range(PATIENTS)], N // PATIENTS).astype(object))


def ranked(pair: Pair, x: np.ndarray, name: str = "encoder") -> RankedPair:
    return rank(name, pair, x, x, rule="any", share=0.5, top=5)


def perfect(pair: Pair) -> np.ndarray:
    return pair.query.has.astype(np.float32)


def noisy(pair: Pair, seed: int, amount: float = 1.0) -> np.ndarray:
    return perfect(pair) + amount * np.random.default_rng(seed).normal(size=(N, 3))


def test_perfect_features_find_everything(pair: Pair) -> None:
    found = ranked(pair, perfect(pair))
    for name in ("recall_at_1", "map_at_10", "ndcg_at_10", "mrr"):
        assert found.scores[name].min() == 1, name
    assert found.hits.all() and found.similarity.min() == pytest.approx(1)


def test_random_features_reach_what_a_random_order_does() -> None:
    rng = np.random.default_rng(1)
    y, patients = rng.choice(4, 1500, p=[0.5, 0.3, 0.15, 0.05]), np.arange(1500).astype(object)
    for entry in summarise(ranked(pair_of(y, patients), rng.normal(size=(1500, 32)))):
        assert entry["mean"] == pytest.approx(entry["random_order"], abs=0.03), entry["metric"]


def test_the_order_of_the_gallery_does_not_matter(pair: Pair) -> None:
    x, order = noisy(pair, 0), np.random.default_rng(5).permutation(N)
    turned = replace(pair, items=Labelled(pair.items.rows[order], pair.items.has[order]),
                     item_owners=pair.query_owners[order])  # fmt: skip
    for name, values in ranked(pair, x).scores.items():
        np.testing.assert_allclose(ranked(turned, x).scores[name], values, err_msg=name)


def test_the_own_patient_answers_only_when_asked_to_and_never_the_recording_itself(pair: Pair) -> None:
    """Vectors that tell patients, not classes."""
    x = np.eye(PATIENTS)[np.unique(pair.query_owners, return_inverse=True)[1]]
    apart = ranked(pair, x)
    assert not (apart.similarity > 0.5).any()
    assert (apart.n_items == N - N // PATIENTS).all()
    together = ranked(replace(pair, item_owners=None), x)
    assert (together.similarity[:, :4] > 0.99).all() and (together.n_items == N - 1).all()
    assert not (together.rows == np.arange(N)[:, None]).any()


def test_a_query_that_only_its_own_patient_matches_is_skipped_and_counted() -> None:
    y = np.array([0, 0, 1, 0, 1, 2])
    patients = np.array(["a", "a", "a", "b", "b", "b"], dtype=object)
    found = ranked(pair_of(y, patients), np.random.default_rng(0).normal(size=(6, 3)))
    assert np.isnan(found.scores["mrr"]).tolist() == [False] * 5 + [True]
    entry = summarise(found)[0]
    assert (entry["n_queries"], entry["n_skipped"], entry["n_patients"]) == (5, 1, 2)
    lonely = pair_of(np.array([0, 0, 1]), np.array(["a", "a", "b"], dtype=object))
    with pytest.raises(CohortError, match="has anything to find"):
        ranked(lonely, np.eye(3))


def test_a_figure_is_the_mean_over_queries_and_its_interval_is_over_patients() -> None:
    rng = np.random.default_rng(2)
    patients = np.repeat([f"p{i:02d}" for i in range(20)], rng.integers(1, 9, 20)).astype(object)
    found = ranked(pair_of(rng.integers(0, 3, len(patients)), patients), rng.normal(size=(len(patients), 4)))
    entry = next(e for e in summarise(found) if e["metric"] == HEADLINE)
    values = found.scores[HEADLINE]
    assert entry["mean"] == pytest.approx(values.mean(), abs=1e-12)
    assert entry["low"] < entry["mean"] < entry["high"] and entry["n_patients"] == 20
    expected = expected_scores(found.n_items, found.n_relevant, KS, DEPTH)[HEADLINE].mean()
    assert entry["random_order"] == pytest.approx(expected)


def test_with_equally_many_queries_each_the_interval_is_that_of_patient_means(pair: Pair) -> None:
    found = ranked(pair, noisy(pair, 0))
    expected = patient_interval(cluster_means(found.scores["mrr"], pair.query_owners))
    entry = next(e for e in summarise(found) if e["metric"] == "mrr")
    assert (entry["low"], entry["high"]) == (pytest.approx(expected.low), pytest.approx(min(expected.high, 1)))


def test_an_encoder_is_compared_with_its_floors_on_the_same_queries(pair: Pair) -> None:
    arms = [ranked(pair, noisy(pair, 0, 0.3), "good"), ranked(pair, noisy(pair, 1, 9.0), "untrained"),
            ranked(pair, noisy(pair, 2, 9.0), "pixels")]  # fmt: skip
    found = compare(arms, {"good": ["untrained", "pixels"]})
    assert [(c["encoder"], c["floor"]) for c in found] == [("good", "untrained"), ("good", "pixels")]
    gain = arms[0].scores[HEADLINE] - arms[1].scores[HEADLINE]
    assert found[0]["difference"] == pytest.approx(gain.mean())
    assert found[0]["p"] == pytest.approx(sign_flip(cluster_means(gain, pair.query_owners)))
    assert all(c["p"] <= c["p_holm"] <= 2 * c["p"] + 1e-12 for c in found)
    assert max(c["p_holm"] for c in found) < 0.01


def test_the_macro_mean_counts_cohorts_equally(pair: Pair) -> None:
    one = ranked(pair, noisy(pair, 0))
    small = pair_of(np.arange(16) % 2, np.repeat([f"q{i}" for i in range(8)], 2).astype(object))
    other = ranked(replace(small, queries="other", gallery="other"), np.random.default_rng(3).normal(size=(16, 3)))
    assert macro([one]) == []
    entry = next(e for e in macro([one, other]) if e["metric"] == HEADLINE)
    means = [r.scores[HEADLINE].mean() for r in (one, other)]
    assert entry["mean"] == pytest.approx(np.mean(means)) and entry["queries"] == "macro mean"
    # the variance of a mean of two is a quarter of the sum of theirs; twice the same cohort halves the variance
    twice = next(e for e in macro([one, one]) if e["metric"] == HEADLINE)
    alone = next(e for e in summarise(one) if e["metric"] == HEADLINE)
    assert (twice["high"] - twice["low"]) == pytest.approx((alone["high"] - alone["low"]) / np.sqrt(2), rel=0.15)


def test_the_table_of_scores_has_a_row_a_query(pair: Pair) -> None:
    frame = ranked(pair, noisy(pair, 0)).frame()
    assert isinstance(frame, pd.DataFrame) and len(frame) == N
    assert {"encoder", "queries", "gallery", "recording", "patient", "n_items", "n_relevant", "mrr"} < set(frame)
