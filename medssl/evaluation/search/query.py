"""The nearest cases of one recording, or of raw files."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.errors import CohortError, ConfigError
from medssl.evaluation.search.arms import Arm, Search, arm_of, notes_of, ranker_of
from medssl.evaluation.search.strips import Pictures, item

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import Cohort

__all__ = ["answer"]

_NOBODY = "\x00"  # no patient is called so


def answer(
    search: Search, query: str, *, recipe: str, options: Mapping[str, Any], out: Path | None
) -> dict[str, Any]:  # fmt: skip
    """Hits of a recording id, or of every recording of a raw file or folder.

    Returns:
        The summary; with ``out`` its files are written.

    Raises:
        MedSSLError: there is no such recording or file, or it does not fit.
    """
    name, gallery = next(iter(search.cohorts.items()))
    recordings = gallery.manifest["recording"].to_numpy(dtype=object)
    known = np.flatnonzero(recordings == query)
    if not len(known) and not Path(query).exists():
        near = difflib.get_close_matches(query, recordings.tolist(), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; ids are in its recordings.parquet"
        raise CohortError(f"'{query}' is no recording of '{gallery.path}' and no file{hint}")
    if not len(known):
        return _of_files(search, Path(query), recipe, options, out)
    pictures, row = Pictures(), int(known[0])
    arms = [arm_of(search, n) for n in search.encoders]
    queries = {arm.name: arm.features[name][known] for arm in arms}
    return _finish(search, arms, queries, [(item(pictures, name, gallery, row=row), row)], [], pictures, out)


def _of_files(
    search: Search, source: Path, recipe: str, options: Mapping[str, Any], out: Path | None
) -> dict[str, Any]:  # fmt: skip
    """Hits of raw files; one that the cohort holds already belongs to the same patient."""
    from medssl.evaluation.search.raw_queries import prepared_queries, same_recording

    _refuse_files(search)
    name, gallery = next(iter(search.cohorts.items()))
    recordings = gallery.manifest["recording"].to_numpy(dtype=object)
    pictures, notes = Pictures(), []
    asked: list[tuple[dict[str, Any], int]] = []
    with tempfile.TemporaryDirectory() as folder:
        fresh = prepared_queries(source, gallery, Path(folder) / "query", recipe=recipe, options=options)
        arms = [arm_of(search, n) for n in search.encoders]
        queries = {arm.name: _features(search, arm, gallery, fresh, Path(folder)) for arm in arms}
        for row in range(len(fresh)):
            place, twin = item(pictures, "query", fresh, row=row), same_recording(fresh, row, gallery)
            if twin is not None:
                place["patient"] = str(gallery.manifest["patient"].iloc[twin])
                notes.append(f"{place['recording']} is recording {recordings[twin]} of {name}, by its bytes")
            asked.append((place, -1 if twin is None else twin))
        if search.exclude == "patient" and any(row < 0 for _, row in asked):
            notes.append("whose a raw file is cannot be told, so recordings of the same patient may be among the hits")
        return _finish(search, arms, queries, asked, notes, pictures, out)


def _refuse_files(search: Search) -> None:
    from medssl.evaluation.embedding_sources import is_file

    for source in search.encoders.values():
        if is_file(source):
            raise ConfigError(f"'{source}' holds embeddings, which cannot read a raw file; give the run that made it")


def _features(search: Search, arm: Arm, gallery: Cohort, fresh: Cohort, folder: Path) -> NDArray[np.float32]:
    """Embeddings of the raw files, read as the gallery was."""
    from medssl.evaluation.embedding import embed_with, reading_of
    from medssl.evaluation.embedding_files import read_embeddings

    assert arm.source is not None
    settings = replace(search.settings, size=tuple(arm.about["size"]))
    file = folder / f"{arm.name}.parquet"
    embed_with(arm.source, fresh, file, settings, reading_of(arm.source, fresh, settings, like=gallery.info))
    return read_embeddings(file).features


def _finish(
    search: Search, arms: list[Arm], queries: Mapping[str, NDArray[np.float32]],
    asked: list[tuple[dict[str, Any], int]], notes: list[str], pictures: Pictures, out: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Rank, describe, write."""
    if search.centre:
        first = next(iter(search.cohorts))
        queries = {arm.name: queries[arm.name] - arm.features[first].mean(0) for arm in arms}
        arms = [arm.centred() for arm in arms]
    strips = [strip for arm in arms for strip in _strips(search, arm, queries[arm.name], asked, pictures)]
    summary = {
        "kind": "search", "mode": "query", "encoder": arms[0].name,
        "encoders": {a.name: a.about["encoder"] for a in arms}, **search.facts(arms[0]), "top": search.top,
        "exclude": search.exclude, "index": search.index, "centre": search.centre, "strips": strips,
        "notes": notes + [n for a in arms for n in notes_of(a, search.cohorts)],
    }  # fmt: skip
    if out is None:
        _show(summary)
    else:
        _write(Path(out), summary, search.cohorts, pictures)
    return summary


def _strips(
    search: Search, arm: Arm, query: NDArray[np.float32], asked: list[tuple[dict[str, Any], int]], pictures: Pictures
) -> Iterator[dict[str, Any]]:
    """The query and its hits by one encoder, for every query."""
    cohorts = list(search.cohorts.items())
    owner = np.concatenate([np.full(len(c), i) for i, (_, c) in enumerate(cohorts)])
    row_of = np.concatenate([np.arange(len(c)) for _, c in cohorts])
    found = ranker_of(search)(_gallery(arm), query, k=search.top, **_excluded(search, asked))
    for i, (place, _) in enumerate(asked):
        hits = [
            item(pictures, *cohorts[owner[at]], row=int(row_of[at]), rank=rank, similarity=float(similarity))
            for rank, (at, similarity) in enumerate(zip(found.rows[i], found.similarity[i], strict=True), start=1)
            if np.isfinite(similarity)
        ]
        yield {"encoder": arm.name, "query": place, "hits": hits}


def _gallery(arm: Arm) -> NDArray[np.float32]:
    parts = list(arm.features.values())
    if len({p.shape[1] for p in parts}) > 1:
        raise ConfigError(f"'{arm.name}' describes these cohorts with vectors of different lengths; search each alone")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _excluded(search: Search, asked: list[tuple[dict[str, Any], int]]) -> dict[str, NDArray[Any]]:
    """What may not answer: the patient's recordings, or the recording itself (a row of the first cohort)."""
    if search.exclude == "patient":
        patients = [c.manifest["patient"].to_numpy(dtype=object) for c in search.cohorts.values()]
        own = np.array([p["patient"] if row >= 0 else _NOBODY for p, row in asked], dtype=object)
        return {"bank_patients": np.concatenate(patients), "query_patients": own}
    n = sum(len(c) for c in search.cohorts.values())
    return {"bank_patients": np.arange(n), "query_patients": np.array([row for _, row in asked])}


def _table(strips: Sequence[Mapping[str, Any]], cohorts: Mapping[str, Cohort]) -> pd.DataFrame:
    """``hits.csv``: one row a query and rank; labels of all cohorts have a column each."""
    import pandas as pd

    facts = ("rank", "similarity", "recording", "patient", "cohort", "kind", "modality")
    labels = list(dict.fromkeys(n for c in cohorts.values() for n in c.info.labels))
    rows = [
        {
            "encoder": strip["encoder"], "query": strip["query"]["recording"],
            "query_patient": strip["query"]["patient"], **{f: hit[f] for f in facts},
            **{f"label_{n}": hit["labels"].get(n, "") for n in labels},
        }
        for strip in strips
        for hit in strip["hits"]
    ]  # fmt: skip
    head = ["encoder", "query", "query_patient", *facts, *(f"label_{n}" for n in labels)]
    return pd.DataFrame(rows, columns=head)


def _show(summary: Mapping[str, Any]) -> None:
    for strip in summary["strips"]:
        print(f"{strip['query']['recording']} ({strip['encoder']}):")
        for hit in strip["hits"]:
            labels = ", ".join(f"{n} {v}" for n, v in hit["labels"].items())
            print(f"  {hit['rank']:>3}  {hit['similarity']:.4f}  {hit['recording']}  {hit['patient']}  "
                  f"{hit['cohort']}  {labels}".rstrip())  # fmt: skip
    for note in summary["notes"]:
        print(f"note: {note}")


def _write(out: Path, summary: dict[str, Any], cohorts: Mapping[str, Cohort], pictures: Pictures) -> None:
    from medssl.training.run import environment, write_atomic, write_json

    out.mkdir(parents=True, exist_ok=True)
    pictures.save(out)
    write_atomic(out / "hits.csv", _table(summary["strips"], cohorts).to_csv(index=False, lineterminator="\n"))
    write_json(out / "summary.json", {**summary, "environment": environment(())})
