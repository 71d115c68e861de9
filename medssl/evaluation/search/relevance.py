"""What counts as found: recordings that share a label with the query, by one of three rules.

Single labels are sets of one. Of several labels at once (findings of a chest X-ray) ``any`` wants one in common,
``exact`` the same set, ``jaccard`` a share of what both have together (M3Ret: at least one shared finding; "no finding"
is a label of its own where the data say so). A recording whose label is unknown is neither query nor gallery.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import CohortError, ConfigError

if TYPE_CHECKING:
    from medssl.cohort import Cohort

__all__ = ["Labelled", "Rule", "labels_of", "relevant"]

Rule = Literal["any", "exact", "jaccard"]


@dataclass(frozen=True)
class Labelled:
    """The recordings of a cohort whose label is known.

    Attributes:
        rows: (m,) manifest rows, ascending.
        has: (m, K) the classes of each; the K classes are shared by all cohorts of a search.
    """

    rows: NDArray[np.int64]
    has: NDArray[np.bool_]

    def of_patients(self, cohort: Cohort, patients: Collection[str]) -> Labelled:
        """Those of some patients."""
        wanted = set(patients)
        kept = np.array([p in wanted for p in cohort.manifest["patient"].iloc[self.rows]], dtype=bool)
        return Labelled(self.rows[kept], self.has[kept])


def labels_of(cohorts: Sequence[Cohort], labels: Sequence[str]) -> tuple[list[Labelled], tuple[str, ...]]:
    """Labels of several cohorts over one list of classes.

    Args:
        cohorts: one or more.
        labels: a label column for each, or one for all; ``NAME:A,B`` looks at these classes only.

    Returns:
        The labelled recordings of each cohort, and the classes.

    Raises:
        ConfigError: a cohort has no such label, or there is not one label for each.
        CohortError: nobody carries it.
    """
    if len(labels) not in (1, len(cohorts)):
        raise ConfigError(
            f"--label names {len(labels)} labels for {len(cohorts)} cohorts; give one for all, or one each"
        )
    named = list(labels) * (len(cohorts) if len(labels) == 1 else 1)
    sets = [_sets(cohort, label) for cohort, label in zip(cohorts, named, strict=True)]
    classes = tuple(sorted({c for _, own in sets for item in own for c in item}))
    place = {c: k for k, c in enumerate(classes)}
    found = []
    for rows, own in sets:
        has = np.zeros((len(rows), len(classes)), dtype=bool)
        for i, item in enumerate(own):
            has[i, [place[c] for c in item]] = True
        found.append(Labelled(rows, has))
    return found, classes


def _sets(cohort: Cohort, label: str) -> tuple[NDArray[np.int64], list[list[str]]]:
    """(rows, classes of each) of one cohort."""
    from medssl.training.targets import label_sets

    name, _, only = label.partition(":")
    info = cohort.info
    if name not in info.labels:
        there = ", ".join(sorted(info.labels)) or "none"
        raise ConfigError(f"'{cohort.path}' has no label '{name}'; it has: {there}")
    rows, sets = label_sets(cohort, name)
    wanted = {c for c in only.split(",") if c}
    if wanted:
        missing = sorted(wanted - {c for item in sets for c in item})
        if missing:
            raise ConfigError(f"label '{name}' of '{cohort.path}' has no class {', '.join(missing)}")
        sets = [[c for c in item if c in wanted] for item in sets]
        if info.labels[name] != "multilabel":
            rows, sets = rows[[bool(item) for item in sets]], [item for item in sets if item]
    if not len(rows):
        raise CohortError(f"no recording of '{cohort.path}' has the label '{label}'; prepare it with its labels")
    return rows, sets


def relevant(
    query: NDArray[np.bool_], gallery: NDArray[np.bool_], *, rule: Rule = "any", share: float = 0.5
) -> NDArray[np.bool_]:
    """Which items of a gallery are relevant for each query.

    Args:
        query: (Q, K) classes of the queries.
        gallery: (N, K).
        rule: see above.
        share: of the union that must be common, for ``jaccard``; two empty sets are the same.

    Returns:
        (Q, N).

    >>> a, b = np.array([[True, True, False]]), np.array([[True, False, False], [False, False, True]])
    >>> relevant(a, b).tolist(), relevant(a, b, rule="exact").tolist(), relevant(a, b, rule="jaccard").tolist()
    ([[True, False]], [[False, False]], [[True, False]])
    """
    common = query.astype(np.float32) @ gallery.astype(np.float32).T
    if rule == "any":
        some: NDArray[np.bool_] = common > 0
        return some
    together = query.sum(1, dtype=np.float32)[:, None] + gallery.sum(1, dtype=np.float32)[None] - common
    wanted = together if rule == "exact" else share * together
    enough: NDArray[np.bool_] = common >= wanted - 1e-4
    return enough
