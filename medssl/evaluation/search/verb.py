"""The verb ``search``: the nearest cases of a query, or how well an encoder retrieves when every recording asks.

OUT/summary.json        what was asked, hits or figures, what the strips show
OUT/hits.csv            one row a query and rank
OUT/scores.parquet      one row an encoder and query (no QUERY)
OUT/pictures.npz        small pictures of the strips
OUT/embeddings/         of every encoder and cohort; read again by the next call
OUT/report.html         all of it to look at
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl.errors import ConfigError
from medssl.evaluation.embedding import EmbedSettings, View
from medssl.evaluation.embedding_sources import is_file
from medssl.evaluation.search.arms import Search
from medssl.evaluation.search.relevance import Rule

if TYPE_CHECKING:
    from medssl.cohort import Cohort

__all__ = ["search"]


def search(
    encoder: str,
    cohort: Path,
    query: str | None = None,
    *,
    also: Sequence[Path] = (),
    beside: Mapping[str, str] | None = None,
    label: Sequence[str] = (),
    relevance: Rule = "any",
    jaccard: float = 0.5,
    split: str | None = None,
    cross: bool = False,
    top: int = 10,
    exclude: Literal["patient", "none"] = "patient",
    centre: bool = False,
    floors: bool = True,
    index: Literal["exact", "faiss"] = "exact",
    strips: int = 6,
    seed: int = 0,
    recipe: str = "auto",
    options: dict[str, Any] | None = None,
    view: View = "auto",
    windows: int = 8,
    size: Sequence[int] | None = None,
    batch: int = 16,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    allow_mismatch: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """The nearest cases of a query; without a query, how well the encoder retrieves recordings that share a label.

    Cases are compared by the cosine of their embeddings. Nothing is trained. Without QUERY every labelled recording
    asks in turn, the figures stand beside those of the pixels and of the same encoder with random weights, and the
    label says what is relevant.

    Args:
        encoder: a run, ``untrained:RUN``, ``pixels``, or a file that `medssl embed` made of this cohort.
        cohort: the recordings that are searched.
        query: id of a recording of the cohort, or a raw file or folder, which is prepared as the cohort was.
        also: further cohorts (modalities) that the encoder can read.
        beside: more encoders to compare, ``NAME=RUN``.
        label: what makes a recording relevant, one for all cohorts or one each; ``NAME:A,B`` looks at these classes.
        relevance: of several labels at once: ``any`` in common, ``exact`` the same, or a ``jaccard`` share.
        jaccard: that share, above 0 to 1.
        split: of every cohort: its test patients ask and its development patients answer; by default all do both.
        cross: also ask with the recordings of each cohort in every other one.
        top: hits of each query.
        exclude: ``patient`` never answers with a recording of the query's patient; ``none`` only not with itself.
        centre: take the mean of the recordings that answer, of each cohort its own, from all embeddings first. Much of
            an embedding is the same for all recordings, and between modalities the difference of their means.
        floors: also measure the pixels and the untrained encoder.
        index: ``exact``, or ``faiss`` (approximate, for millions; an extra).
        strips: queries of each cohort that the page shows; drawn by ``seed``, not by their result.
        seed: of that draw.
        recipe: how raw files are found: ``auto``, ``folder``, ``dicom`` or another recipe.
        options: of the recipe.
        view, windows, size, batch, accelerator, allow_mismatch: as of `medssl embed`.
        out: folder for ``hits.csv``, ``summary.json`` and ``report.html``; without it the result is only printed.

    Returns:
        What ``summary.json`` holds.

    Raises:
        MedSSLError: something is not there or does not fit.
    """
    _check(query, label, split, relevance, jaccard, cross, also, top, index)
    if out is not None:
        _refuse_others(Path(out))
    settings = EmbedSettings(view, windows, None if size is None else tuple(size), batch, accelerator, allow_mismatch)
    cohorts = _open([Path(cohort), *map(Path, also)])
    encoders = _named(encoder, beside or {}, several=len(cohorts) > 1)
    with ExitStack() as stack:
        folder = Path(out) / "embeddings" if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asked = Search(encoders, cohorts, folder, settings, top, exclude, index, centre)
        if query is not None:
            from medssl.evaluation.search.query import answer

            result = answer(asked, query, recipe=recipe, options=options or {}, out=out)
        else:
            from medssl.evaluation.search.all_queries import evaluate_search

            result = evaluate_search(
                asked, label=label, rule=relevance, share=jaccard, split=split, cross=cross, floors=floors,
                strips=strips, seed=seed, out=out,
            )  # fmt: skip
    if out is not None:
        from medssl.report import report

        print(report(Path(out)))
    return result


def _check(
    query: str | None, label: Sequence[str], split: str | None, relevance: Rule, jaccard: float, cross: bool,
    also: Sequence[Path], top: int, index: str,
) -> None:  # fmt: skip
    """Refuse options that contradict each other, before any work."""
    if query is None and not label:
        raise ConfigError("without a QUERY every recording asks, and --label must say what is relevant")
    if query is not None and split is not None:
        raise ConfigError("--split belongs to a search without QUERY; a query is answered by the whole cohort")
    if query is not None and label:
        raise ConfigError("--label belongs to a search without QUERY; the hits of a query show all their labels")
    if relevance == "jaccard" and not 0 < jaccard <= 1:
        raise ConfigError(f"jaccard {jaccard} must be above 0 and at most 1")
    if cross and not also:
        raise ConfigError("--cross asks between cohorts; name another one with --also")
    if top < 1:
        raise ConfigError(f"top {top} must be 1 or more")
    if index == "faiss":
        from medssl.evaluation.search.faiss_index import require_faiss

        require_faiss()


def _refuse_others(out: Path) -> None:
    """A folder that holds a run or a study is not written over.

    Raises:
        ConfigError: it does.
    """
    from medssl.training.run import read_summary

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out '{out}' is a file; give a folder")
    if (out / "config.yaml").exists() or read_summary(out).get("kind", "search") != "search":
        raise ConfigError(f"'{out}' holds a run or a study; give another --out")


def _open(paths: Sequence[Path]) -> dict[str, Cohort]:
    """Cohorts by the names of their folders, told apart where two are called the same."""
    from medssl.cohort import Cohort

    found: dict[str, Cohort] = {}
    for path in paths:
        opened = Cohort(path)
        base = name = path.resolve().name
        number = 2
        while name in found:
            name, number = f"{base}-{number}", number + 1
        if any(c.path.resolve() == path.resolve() for c in found.values()):
            raise ConfigError(f"'{path}' is named twice; name every cohort once")
        found[name] = opened
    return found


def _named(encoder: str, beside: Mapping[str, str], *, several: bool) -> dict[str, str]:
    """Encoders by name: the one asked about first."""
    import re

    kind, _, run = encoder.partition(":")
    base = Path(run or encoder).resolve().name.removesuffix(".parquet")
    name = f"untrained-{base}" if kind == "untrained" else base
    named = {re.sub(r"[^A-Za-z0-9._-]+", "_", name): encoder}
    for other, source in beside.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", other) or other in (*named, "untrained"):
            raise ConfigError(f"'{other}' cannot be the name of another encoder; use letters, digits, '.', '_', '-'")
        named[other] = source
    files = [source for source in named.values() if is_file(source)]
    if files and several:
        raise ConfigError(
            f"'{files[0]}' holds the embeddings of one cohort; to search several give the run that made it"
        )
    return named
