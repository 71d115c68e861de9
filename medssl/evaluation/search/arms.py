"""The encoders of a search with the embeddings of its cohorts, and the floors that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.embedding import EmbedSettings, Reading, embed_with, same_reading
from medssl.evaluation.embedding_files import read_embeddings
from medssl.evaluation.embedding_sources import PIXELS, UNTRAINED, Source, is_file, open_source, untrained
from medssl.evaluation.neighbours import neighbours

if TYPE_CHECKING:
    from medssl.cohort import Cohort
    from medssl.evaluation.search.scores import Ranker

__all__ = ["Arm", "Search", "arm_of", "floors_of", "notes_of", "ranker_of"]


@dataclass(frozen=True)
class Search:
    """One call of ``search``, opened.

    Attributes:
        encoders: name → what embeds; the first is the one asked about.
        cohorts: name → cohort; the first is the one asked about.
        folder: where embeddings are kept.
        settings: of embedding.
        top: hits of each query.
        exclude: whose recordings never answer a query.
        index: how neighbours are found.
        centre: means are taken from embeddings first.
    """

    encoders: Mapping[str, str]
    cohorts: Mapping[str, Cohort]
    folder: Path
    settings: EmbedSettings
    top: int
    exclude: Literal["patient", "none"]
    index: Literal["exact", "faiss"]
    centre: bool = False

    @property
    def main(self) -> str:
        """Name of the encoder asked about."""
        return next(iter(self.encoders))

    def facts(self, arm: Arm) -> dict[str, Any]:
        """Plain data for ``summary.json``: the cohorts, and how the encoder asked about reads each."""
        read = ("view", "size", "windows", "pooling", "dimension")
        cohorts = {
            name: {"fingerprint": c.info.fingerprint, "kind": c.info.kind, "modality": c.info.modality,
                   "n_recordings": len(c), "n_patients": c.info.n_patients,
                   "reading": {k: arm.abouts[name][k] for k in read}}
            for name, c in self.cohorts.items()
        }  # fmt: skip
        return {"cohorts": cohorts}


@dataclass(frozen=True)
class Arm:
    """One encoder.

    Attributes:
        name: in tables.
        source: what embeds; None where only a file was given.
        abouts: cohort → what its file of embeddings says of itself.
        features: cohort → (n, D).
    """

    name: str
    source: Source | None
    abouts: Mapping[str, Mapping[str, Any]]
    features: Mapping[str, NDArray[np.float32]]

    @property
    def about(self) -> Mapping[str, Any]:
        """Of the first cohort; ``encoder`` is the same in all."""
        return next(iter(self.abouts.values()))

    def centred(self, rows: Mapping[str, NDArray[np.int64]] | None = None) -> Arm:
        """Embeddings of each cohort less the mean of these rows of it, or of all."""
        features = {n: x - x[slice(None) if rows is None else rows[n]].mean(0) for n, x in self.features.items()}
        return replace(self, features=features)


def arm_of(search: Search, name: str) -> Arm:
    """One of the encoders asked for, with its embeddings.

    Raises:
        MedSSLError: it is not there, or does not fit a cohort.
    """
    given = search.encoders[name]
    if not is_file(given):
        return _embedded(search, name, open_source(given))
    ((cohort_name, cohort),) = search.cohorts.items()
    found = read_embeddings(Path(given))
    found.check(cohort, Path(given))
    return Arm(name, None, {cohort_name: found.about}, {cohort_name: found.features})


def _embedded(search: Search, name: str, source: Source, reading: Reading | None = None) -> Arm:
    features, abouts = {}, {}
    for cohort_name, cohort in search.cohorts.items():
        file = search.folder / f"{name}-{cohort_name}.parquet"
        embed_with(source, cohort, file, search.settings, reading)
        found = read_embeddings(file)
        features[cohort_name] = found.features
        abouts[cohort_name] = found.about
    return Arm(name, source, abouts, features)


def floors_of(search: Search, arms: list[Arm]) -> tuple[list[Arm], dict[str, list[str]]]:
    """The pixels, and every architecture among the arms with random weights.

    Returns:
        The floors, and arm → the names of its floors. Arms that are floors themselves have none.
    """
    kinds = {a.name: a.about["encoder"]["kind"] for a in arms}
    floors: list[Arm] = []
    belong: dict[str, list[str]] = {}
    twins: list[tuple[Mapping[str, Any], str]] = []
    pixels = next((name for name, kind in kinds.items() if kind == PIXELS), None)
    for arm in arms:
        if kinds[arm.name] != "run":
            continue
        architecture = arm.about["encoder"]["architecture"]
        twin = next((name for known, name in twins if known == architecture), None)
        if twin is None:
            twin = UNTRAINED if not twins else f"{UNTRAINED}-{arm.name}"
            twins.append((architecture, twin))
            floors.append(_twin(search, arm, architecture, twin))
        if pixels is None:
            pixels = PIXELS
            floors.append(_embedded(search, PIXELS, Source("pixels", PIXELS)))
        belong[arm.name] = [twin, pixels]
    return floors, belong


def _twin(search: Search, arm: Arm, architecture: Mapping[str, Any], name: str) -> Arm:
    inputs = None if arm.source is None else arm.source.inputs
    # of a file alone it is known how its own cohort was read, which is all that is needed
    reading = same_reading(arm.about) if arm.source is None else None
    return _embedded(search, name, untrained(architecture, inputs, name), reading)


def notes_of(arm: Arm, cohorts: Mapping[str, Cohort]) -> list[str]:
    """What one must know of an encoder to believe its figures."""
    from medssl.training.export import labels_note

    if arm.source is None and arm.about["encoder"]["kind"] == "run":
        return [f"whom {arm.name} was pre-trained on cannot be told from a file of embeddings"]
    if arm.source is None or not arm.source.provenance:
        return []
    seen = arm.source.provenance.get("patients", {})
    notes = [
        f"{arm.name} was pre-trained on {len(seen[c.info.fingerprint])} of the {c.info.n_patients} patients of {name}"
        for name, c in cohorts.items()
        if c.info.fingerprint in seen
    ]
    labels = labels_note(arm.source.provenance)
    return [*notes, f"{arm.name} {labels}"] if labels else notes


def ranker_of(search: Search) -> Ranker:
    """How neighbours are found."""
    if search.index == "exact":
        return neighbours
    from medssl.evaluation.search.faiss_index import faiss_neighbours

    return faiss_neighbours
