"""Every recording as a query: how well each encoder ranks, beside what no training and no network reach.

Spec: M3Ret, section 6. Queries are whole recordings with a known label; their own patient is left out of the gallery;
queries for which nobody else has something relevant are skipped and counted. A figure is the mean over queries, its
interval and tests are over patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import CohortError
from medssl.evaluation.intervals import Interval, patient_interval
from medssl.evaluation.neighbours import Neighbours, neighbours, patient_codes
from medssl.evaluation.search.measures import expected_scores, ranking_scores
from medssl.evaluation.search.relevance import Labelled, Rule, relevant
from medssl.evaluation.statistics import holm, sign_flip

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import Cohort

__all__ = ["DEPTH", "HEADLINE", "KS", "Pair", "RankedPair", "Ranker", "compare", "macro", "rank", "summarise"]

KS = (1, 3, 5, 10)
DEPTH = 1000  # ranks that are looked at; the reciprocal rank of a first hit beyond is 0
HEADLINE = "map_at_10"  # the hit rate is near 1 by chance where classes are few
MACRO = "macro mean"
_CELLS = 2**24  # of a matrix of relevance
Ranker = Callable[..., Neighbours]


@dataclass(frozen=True)
class Pair:
    """Queries of one cohort against the recordings of another, or of the same.

    Attributes:
        queries, gallery: names of the cohorts.
        query, items: what is labelled in each.
        query_owners: (Q,) patient of each query.
        item_owners: (N,) of each item; None where nobody is left out.
        recordings: (Q,) ids of the queries.
    """

    queries: str
    gallery: str
    query: Labelled
    items: Labelled
    query_owners: NDArray[Any]
    item_owners: NDArray[Any] | None
    recordings: NDArray[Any]

    @classmethod
    def of(
        cls, names: tuple[str, str], cohorts: tuple[Cohort, Cohort], labelled: tuple[Labelled, Labelled],
        exclude: Literal["patient", "none"],
    ) -> Pair:  # fmt: skip
        """A pair; with ``exclude`` none a recording is still never its own answer."""
        query, items = labelled
        patients = [
            c.manifest["patient"].to_numpy(dtype=object)[x.rows] for c, x in zip(cohorts, labelled, strict=True)
        ]
        recordings = cohorts[0].manifest["recording"].to_numpy(dtype=object)[query.rows]
        excluded: NDArray[Any] | None = patients[1]
        if exclude == "none":
            excluded = None
        return cls(*names, query, items, patients[0], excluded, recordings)

    @property
    def within(self) -> bool:
        """Whether queries are ranked against their own cohort."""
        return self.queries == self.gallery

    def codes(self) -> tuple[NDArray[np.integer], NDArray[np.integer]] | None:
        """(Q,), (N,) numbers that are equal for what must not answer a query; None where everything may."""
        if self.item_owners is not None:
            query, items = patient_codes(self.query_owners, self.item_owners)
            return query, items
        return (self.query.rows, self.items.rows) if self.within else None


@dataclass(frozen=True)
class RankedPair:
    """What one encoder does with the queries of a pair.

    Attributes:
        encoder: its name.
        pair: the queries and the gallery.
        rows: (Q, top) manifest rows of the nearest items.
        similarity: (Q, top) cosines; −inf beyond the last one.
        hits: (Q, top) whether they are relevant.
        n_items, n_relevant: (Q,) items that could be found, and the relevant ones among them.
        scores: measure → (Q,), NaN where nothing is relevant.
    """

    encoder: str
    pair: Pair
    rows: NDArray[np.int64]
    similarity: NDArray[np.float64]
    hits: NDArray[np.bool_]
    n_items: NDArray[np.int64]
    n_relevant: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]]

    def frame(self) -> pd.DataFrame:
        """One row a query: encoder, cohorts, recording, patient, counts and measures."""
        import pandas as pd

        facts = {
            "encoder": self.encoder, "queries": self.pair.queries, "gallery": self.pair.gallery,
            "recording": self.pair.recordings, "patient": self.pair.query_owners, "n_items": self.n_items,
            "n_relevant": self.n_relevant,
        }  # fmt: skip
        return pd.DataFrame(facts | dict(self.scores))


def rank(
    encoder: str, pair: Pair, query: NDArray[np.floating], items: NDArray[np.floating], *, rule: Rule, share: float,
    top: int, ranker: Ranker = neighbours,
) -> RankedPair:  # fmt: skip
    """Rank and score.

    Args:
        encoder: its name.
        pair: what is asked.
        query: (n, D) features of all recordings of the queries' cohort.
        items: (m, D) of the gallery's.
        rule, share: of relevance.
        top: hits kept.
        ranker: exact, or FAISS.

    Raises:
        CohortError: no query has anything relevant to find.
    """
    codes = pair.codes()
    given = {} if codes is None else {"query_patients": codes[0], "bank_patients": codes[1]}
    n = len(pair.items.rows)
    found = ranker(_of(items, pair.items.rows), _of(query, pair.query.rows), k=min(DEPTH, n), **given)
    hits, n_items, n_relevant = _judged(pair, codes, found, rule, share)
    if not n_relevant.any():
        raise CohortError(
            f"no recording of '{pair.queries}' has anything to find in '{pair.gallery}': no other patient shares its "
            "label; give another --label, or --relevance any"
        )
    scores = ranking_scores(hits, n_relevant, KS)
    kept = slice(0, top)
    return RankedPair(
        encoder, pair, pair.items.rows[found.rows[:, kept]], found.similarity[:, kept], hits[:, kept], n_items,
        n_relevant, scores,
    )  # fmt: skip


def _of(x: NDArray[np.floating], rows: NDArray[np.int64]) -> NDArray[np.floating]:
    """Some rows, without a copy where all are meant."""
    return x if np.array_equal(rows, np.arange(len(x))) else x[rows]


def _judged(
    pair: Pair,
    codes: tuple[NDArray[np.integer], NDArray[np.integer]] | None,
    found: Neighbours,
    rule: Rule,
    share: float,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """(hits (Q, d), items that could be found (Q,), relevant ones (Q,)), a few queries at a time."""
    n = len(pair.items.rows)
    hits = np.zeros(found.rows.shape, dtype=bool)
    n_items, n_relevant = np.full(len(hits), n), np.zeros(len(hits), dtype=np.int64)
    step = max(1, _CELLS // max(1, n))
    for start in range(0, len(hits), step):
        chosen = slice(start, start + step)
        wanted = relevant(pair.query.has[chosen], pair.items.has, rule=rule, share=share)
        if codes is not None:
            own = codes[0][chosen, None] == codes[1][None]
            wanted &= ~own
            n_items[chosen] -= own.sum(1)
        n_relevant[chosen] = wanted.sum(1)
        hits[chosen] = np.take_along_axis(wanted, found.rows[chosen], axis=1)
    return hits & np.isfinite(found.similarity), n_items, n_relevant


def summarise(ranked: RankedPair) -> list[dict[str, Any]]:
    """One entry a measure: mean over queries, interval over patients, and what a random order reaches."""
    expected = expected_scores(ranked.n_items, ranked.n_relevant, KS, DEPTH)
    asked = ranked.n_relevant > 0
    owners = ranked.pair.query_owners[asked]
    out = []
    for metric, values in ranked.scores.items():
        found = patient_interval(_shares(values[asked], owners))
        out.append({
            "encoder": ranked.encoder, "queries": ranked.pair.queries, "gallery": ranked.pair.gallery,
            "metric": metric, **_facts(found), "n_queries": int(asked.sum()), "n_skipped": int((~asked).sum()),
            "n_items": len(ranked.pair.items.rows), "random_order": float(expected[metric][asked].mean()),
        })  # fmt: skip
    return out


def _facts(found: Interval) -> dict[str, Any]:
    """Of a measure from 0 to 1, which its interval may not leave."""
    low, high = (_known(float(np.clip(bound, 0, 1))) for bound in (found.low, found.high))
    return {"mean": found.mean, "low": low, "high": high, "n_patients": found.n, "interval": found.method}


def _known(value: float) -> float | None:
    """None for what does not exist, as in ``summary.json``."""
    return None if math.isnan(value) else value


def _shares(values: NDArray[np.float64], owners: NDArray[Any]) -> NDArray[np.float64]:
    """(P,) values whose mean is the mean over queries and whose spread is that of it, by patients.

    The mean is a ratio: a patient's sum over their number of queries. Linearised (Taylor), each patient gives
    m + P/Q · (sum − number · m).
    """
    _, code = np.unique(owners, return_inverse=True)
    number = np.bincount(code).astype(np.float64)
    mean = values.mean()
    shares: NDArray[np.float64] = mean + len(number) / len(values) * (np.bincount(code, weights=values) - number * mean)
    return shares


def macro(ranked: Sequence[RankedPair]) -> list[dict[str, Any]]:
    """The mean over cohorts, each counting the same, for one encoder; empty for fewer than two.

    Patients of different cohorts are independent: each is moved to the common mean and weighed so that the variance of
    the mean is the mean of the cohorts' variances over their number.
    """
    if len(ranked) < 2:
        return []
    out = []
    for metric in ranked[0].scores:
        parts, chances = [], []
        for r in ranked:
            asked = r.n_relevant > 0
            parts.append(_shares(r.scores[metric][asked], r.pair.query_owners[asked]))
            expected = expected_scores(r.n_items, r.n_relevant, KS, DEPTH)[metric]
            chances.append(float(expected[asked].mean()))
        total, mean = sum(map(len, parts)), float(np.mean([p.mean() for p in parts]))
        moved = [mean + (p - p.mean()) * total / (len(parts) * len(p)) for p in parts]
        found = patient_interval(np.concatenate(moved))
        out.append({
            "encoder": ranked[0].encoder, "queries": MACRO, "gallery": MACRO, "metric": metric, **_facts(found),
            "n_queries": sum(int((r.n_relevant > 0).sum()) for r in ranked),
            "n_skipped": sum(int((r.n_relevant == 0).sum()) for r in ranked),
            "n_items": sum(len(r.pair.items.rows) for r in ranked), "random_order": float(np.mean(chances)),
        })  # fmt: skip
    return out


def compare(ranked: Sequence[RankedPair], floors: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Each encoder against its floors on the same queries: a sign-flip test over patients, Holm over all of them.

    Args:
        ranked: of every encoder and pair.
        floors: encoder → names of its floors.

    Returns:
        One entry an encoder, floor and pair, for ``HEADLINE``: ``difference``, ``low``, ``high``, ``p``, ``p_holm``.
    """
    known = {(r.encoder, r.pair.queries, r.pair.gallery): r for r in ranked}
    out: list[dict[str, Any]] = []
    for (encoder, queries, gallery), mine in known.items():
        for floor in floors.get(encoder, ()):
            other = known.get((floor, queries, gallery))
            if other is None:
                continue
            asked = mine.n_relevant > 0
            gain = mine.scores[HEADLINE][asked] - other.scores[HEADLINE][asked]
            owners = mine.pair.query_owners[asked]
            found = patient_interval(_shares(gain, owners))
            _, code = np.unique(owners, return_inverse=True)
            sums = np.bincount(code, weights=gain) * found.n / len(gain)
            out.append({
                "encoder": encoder, "floor": floor, "queries": queries, "gallery": gallery, "metric": HEADLINE,
                "difference": found.mean, "low": _known(found.low), "high": _known(found.high), "n_patients": found.n,
                "p": sign_flip(sums), "test": "sign flips over patients",
            })  # fmt: skip
    for entry, p in zip(out, holm([float(e["p"]) for e in out]), strict=True):
        entry["p"], entry["p_holm"] = _known(entry["p"]), _known(p)
    return out
