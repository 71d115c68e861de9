"""A search without a query: every labelled recording asks, every encoder answers, and the floors answer too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.errors import CohortError
from medssl.evaluation.sampling import spread
from medssl.evaluation.search.arms import Arm, Search, arm_of, floors_of, notes_of, ranker_of
from medssl.evaluation.search.relevance import Labelled, Rule, labels_of
from medssl.evaluation.search.scores import (
    DEPTH,
    HEADLINE,
    KS,
    Pair,
    RankedPair,
    compare,
    macro,
    rank,
    summarise,
)
from medssl.evaluation.search.strips import Pictures, item
from medssl.evaluation.verdict import format_p

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate_search"]

RULES = {
    "any": "they share at least one label", "exact": "their labels are the same",
    "jaccard": "what they have in common is at least {share:g} of what they have together",
}  # fmt: skip


def evaluate_search(
    search: Search, *, label: Sequence[str], rule: Rule, share: float, split: str | None, cross: bool, floors: bool,
    strips: int, seed: int, out: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Figures of every encoder and cohort, their comparison with the floors, and a few strips.

    Returns:
        The summary; with ``out`` its files are written.

    Raises:
        MedSSLError: no such label, nothing to find, or an encoder does not fit.
    """
    labelled, classes = labels_of(list(search.cohorts.values()), label)
    sides = _sides(search, labelled, split)
    arms = [arm_of(search, name) for name in search.encoders]
    own = list(arms)
    below, belong = floors_of(search, arms) if floors else ([], {})
    arms += below
    if search.centre:
        answering = {name: gallery.rows for name, (_, gallery) in zip(search.cohorts, sides, strict=True)}
        arms = [arm.centred(answering) for arm in arms]
    ranked, notes = _ranked(search, list(_pairs(search, sides, cross)), arms, rule, share)
    results = [entry for r in ranked for entry in summarise(r)]
    for arm in arms:
        results += macro([r for r in ranked if r.encoder == arm.name and r.pair.within])
    comparisons = compare(ranked, belong)
    pictures = Pictures()
    summary = {
        "kind": "search", "mode": "evaluation", "encoder": search.main, "metric": HEADLINE, "ks": list(KS),
        "depth": DEPTH, "label": list(label), "classes": list(classes), "relevance": rule,
        "relevance_meaning": RULES[rule].format(share=share), "exclude": search.exclude, "index": search.index,
        "centre": search.centre, "top": search.top, "cross": cross, "split": split, "seed": seed,
        **search.facts(own[0]),
        "encoders": {a.name: a.about["encoder"] for a in arms}, "floors": belong, "results": results,
        "comparisons": comparisons, "notes": notes + [n for a in own for n in notes_of(a, search.cohorts)],
    }  # fmt: skip
    summary["verdict"] = _verdict(summary)
    if out is not None:
        mine = [r for r in ranked if r.encoder == search.main]
        summary["strips"] = [s for r in mine for s in _strips(search, r, strips, seed, pictures)]
        _write(Path(out), summary, ranked, mine, search, pictures)
    print(_table(summary))
    return summary


def _sides(search: Search, labelled: Sequence[Labelled], split: str | None) -> list[tuple[Labelled, Labelled]]:
    """(queries, gallery) of every cohort: all recordings both times, or test against development patients.

    Raises:
        SplitError: a cohort has no such split, or an encoder was pre-trained on its test patients.
        CohortError: a side of it is empty.
    """
    if split is None:
        return [(own, own) for own in labelled]
    from medssl.splits import Split
    from medssl.training.finetune import check_leak

    sides = []
    for (name, cohort), own in zip(search.cohorts.items(), labelled, strict=True):
        found = Split.load(cohort.path, split)
        for source in search.encoders.values():
            check_leak(Path(source), cohort, found)
        asks, answers = (own.of_patients(cohort, p) for p in (found.test, found.development))
        if not len(asks.rows) or not len(answers.rows):
            side = "answers" if len(asks.rows) else "asks"
            raise CohortError(f"nobody with the label {side} in '{name}' by split '{split}'; give another --split")
        sides.append((asks, answers))
    return sides


def _pairs(search: Search, sides: Sequence[tuple[Labelled, Labelled]], cross: bool) -> Iterator[Pair]:
    """Every cohort with itself, then with every other one."""
    names = list(search.cohorts)
    of = dict(zip(names, sides, strict=True))
    wanted = [(n, n) for n in names] + [(a, b) for a in names for b in names if cross and a != b]
    for a, b in wanted:
        yield Pair.of((a, b), (search.cohorts[a], search.cohorts[b]), (of[a][0], of[b][1]), search.exclude)


def _ranked(
    search: Search, pairs: Sequence[Pair], arms: Sequence[Arm], rule: Rule, share: float
) -> tuple[list[RankedPair], list[str]]:
    """Every pair by every arm, and notes on those that an arm cannot compare."""
    ranked: list[RankedPair] = []
    notes: list[str] = []
    for pair in pairs:
        for arm in arms:
            query, items = arm.features[pair.queries], arm.features[pair.gallery]
            if query.shape[1] != items.shape[1]:
                notes.append(
                    f"{arm.name} cannot compare {pair.queries} with {pair.gallery}: its vectors differ in length"
                )
                continue
            ranked.append(
                rank(arm.name, pair, query, items, rule=rule, share=share, top=search.top, ranker=ranker_of(search))
            )
    return ranked, notes


def _strips(search: Search, ranked: RankedPair, most: int, seed: int, pictures: Pictures) -> Iterator[dict[str, Any]]:
    """A few queries that have something to find, drawn without looking at what was found."""
    pair = ranked.pair
    asking = np.flatnonzero(ranked.n_relevant > 0)
    for i in asking[spread(pair.query_owners[asking], most, seed=seed)]:
        query = item(pictures, pair.queries, search.cohorts[pair.queries], row=int(pair.query.rows[i]))
        hits = [
            item(pictures, pair.gallery, search.cohorts[pair.gallery], row=int(row), rank=place,
                 similarity=float(similarity), relevant=bool(hit))
            for place, (row, similarity, hit) in enumerate(
                zip(ranked.rows[i], ranked.similarity[i], ranked.hits[i], strict=True), start=1)
            if np.isfinite(similarity)
        ]  # fmt: skip
        yield {
            "encoder": ranked.encoder, "gallery": pair.gallery, "query": query, "hits": hits,
            "n_relevant": int(ranked.n_relevant[i]), "n_items": int(ranked.n_items[i]),
        }  # fmt: skip


def _hits(search: Search, ranked: RankedPair) -> pd.DataFrame:
    """One row a query and rank."""
    import pandas as pd

    pair, top = ranked.pair, ranked.rows.shape[1]
    manifest = search.cohorts[pair.gallery].manifest
    rows = ranked.rows.ravel()
    frame = pd.DataFrame({
        "encoder": ranked.encoder, "query": np.repeat(pair.recordings, top), "queries": pair.queries,
        "query_patient": np.repeat(pair.query_owners, top), "rank": np.tile(np.arange(1, top + 1), len(ranked.rows)),
        "similarity": ranked.similarity.ravel(), "recording": manifest["recording"].to_numpy(dtype=object)[rows],
        "patient": manifest["patient"].to_numpy(dtype=object)[rows], "cohort": pair.gallery,
        "kind": search.cohorts[pair.gallery].info.kind, "relevant": ranked.hits.ravel(),
    })  # fmt: skip
    return frame[np.isfinite(ranked.similarity.ravel())]


def _write(
    out: Path, summary: dict[str, Any], ranked: Sequence[RankedPair], mine: Sequence[RankedPair], search: Search,
    pictures: Pictures,
) -> None:  # fmt: skip
    import pandas as pd

    from medssl.training.run import environment, write_atomic, write_json

    out.mkdir(parents=True, exist_ok=True)
    pictures.save(out)
    hits = pd.concat([_hits(search, r) for r in mine], ignore_index=True)
    write_atomic(out / "hits.csv", hits.to_csv(index=False, lineterminator="\n"))
    scores = pd.concat([r.frame() for r in ranked], ignore_index=True)
    beside = out / ".scores.part"
    scores.to_parquet(beside)
    beside.replace(out / "scores.parquet")
    write_json(out / "summary.json", {**summary, "environment": environment(())})


def _verdict(summary: Mapping[str, Any]) -> str:
    """One or two sentences on the first cohort (the macro mean of several)."""
    main = summary["encoder"]
    found = [r for r in summary["results"] if r["encoder"] == main and r["metric"] == HEADLINE]
    first = found[-1] if found[-1]["queries"] == "macro mean" else found[0]
    where = "on average over the cohorts" if first is found[-1] and len(found) > 1 else f"in {first['queries']}"
    told = f"{main} reaches mAP@10 {first['mean']:.3f} {where}; a random order would reach {first['random_order']:.3f}."
    own = [c for c in summary["comparisons"] if c["encoder"] == main]
    better = [c for c in own if c["p_holm"] is not None and c["p_holm"] < 0.05 and c["difference"] > 0]
    worse = [c for c in own if c["p_holm"] is not None and c["p_holm"] < 0.05 and c["difference"] < 0]
    if not own:
        return told
    for listed, word in ((better, "better"), (worse, "worse")):
        if listed:
            each = "; ".join(
                f"{c['floor']} ({_where(c)}, {c['difference']:+.3f}, {format_p(c['p_holm'])})" for c in listed
            )
            told += f" Reliably {word} than {each}."
    if not better and not worse:
        told += " It does not differ reliably from its floors."
    return told


def _where(entry: Mapping[str, Any]) -> str:
    same = entry["queries"] == entry["gallery"]
    return str(entry["queries"]) if same else f"{entry['queries']} → {entry['gallery']}"


def _table(summary: Mapping[str, Any]) -> str:
    """The headline figures as plain lines."""
    shown = ("recall_at_1", "recall_at_5", "map_at_10", "ndcg_at_10", "mrr")
    lines = [f"{'':<42}" + "".join(f"{m.replace('_at_', '@'):>12}" for m in shown)]
    values: dict[tuple[str, str], dict[str, float]] = {}
    chance: dict[str, dict[str, float]] = {}
    for r in summary["results"]:
        values.setdefault((_where(r), r["encoder"]), {})[r["metric"]] = r["mean"]
        chance.setdefault(_where(r), {})[r["metric"]] = r["random_order"]
    for (where, name), row in values.items():
        lines.append(f"{f'{where}, {name}':<42}" + "".join(f"{row[m]:>12.3f}" for m in shown))
    lines += [f"{f'{w}, random order':<42}" + "".join(f"{row[m]:>12.3f}" for m in shown) for w, row in chance.items()]
    return "\n".join([*lines, summary["verdict"], *(f"note: {n}" for n in summary["notes"])])
