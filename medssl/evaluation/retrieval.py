"""Zero-shot retrieval: whether an encoder puts items of one class of *other* patients next to each other.

No label is used but to say what is relevant. In a study every item of the test patients is a query; the others, without
those of the query's own patient, are ranked by cosine similarity. Protocol: representation quality, section 3
("Retrieval").

    …/cells/ARM/0/0/retrieved.parquet   one row a (patient, metric, class), in the columns of ``results.parquet``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.errors import TrainingError
from medssl.evaluation.arms import FLOOR
from medssl.evaluation.floor import floor_features, unfitted
from medssl.evaluation.frozen import features_key, frozen_encoder, keep_features, target_of
from medssl.evaluation.neighbours import neighbours
from medssl.evaluation.probes import Scaler, thinned

if TYPE_CHECKING:
    import pandas as pd

    from medssl.evaluation.cells import Cell
    from medssl.training.targets import Target

__all__ = ["Retrieved", "chance", "classes_of", "retrieval_rows", "retrieve", "retrieve_cell"]

DEPTHS = (1, 5, 10)
_CHUNK = 1024  # queries at a time: their whole rankings are held


class Retrieved(NamedTuple):
    """How each query fares for each class it has; NaN where it has not, or where no other patient has it.

    Attributes:
        precision: (n, K) average precision: mean of the precision at the rank of every relevant item.
        found: depth k → (n, K): 1 where at least one of the k nearest is relevant, else 0.
    """

    precision: NDArray[np.float64]
    found: dict[int, NDArray[np.float64]]


def retrieve_cell(cell: Cell) -> None:
    """Let one arm rank the test patients' items and leave ``retrieved.parquet`` and ``summary.json`` in its folder."""
    from medssl.splits import Split
    from medssl.training.run import write_json

    target = target_of(cell)
    items = target.items_of(Split.load(target.cohort.path, cell.options["split"]).test)
    items = items[thinned(target.patients[items], 0)]
    key = features_key(cell, items=items.tolist())

    def compute() -> NDArray[np.float32]:
        if cell.source == FLOOR:
            simple = unfitted(target, floor_features(target)[items])
            return Scaler.fit(simple)(simple).astype(np.float32)  # their units differ, and a cosine would see one only
        return frozen_encoder(cell, target).features(target, items)

    x = keep_features(cell, "queries", key, compute)
    found = retrieve(x, classes_of(target, items), target.patients[items])
    retrieval_rows(found, target.patients[items], target.classes).to_parquet(cell.folder / "retrieved.parquet")
    write_json(cell.folder / "summary.json", {
        "status": "finished", "n_items": len(items), "n_patients": len(set(target.patients[items])),
        "level": target.level, "features": int(x.shape[1]),
    })  # fmt: skip


def classes_of(target: Target, items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n, K) whether the items have a class."""
    y = target.y[items]
    has: NDArray[np.bool_] = y > 0.5 if target.multilabel else y[:, None] == np.arange(len(target.classes))
    return has


def retrieve(x: NDArray[np.floating], has: NDArray[np.bool_], patients: NDArray[Any]) -> Retrieved:
    """Rank the items of other patients for every item.

    Args:
        x: (n, D) features.
        has: (n, K) classes of the items: one each, or several where labels occur together.
        patients: (n,) whose they are.

    Returns:
        see ``Retrieved``; equally similar items keep their order.

    Raises:
        TrainingError: features that are not finite. Left out, they would make an encoder better than it is.
    """
    broken = int((~np.isfinite(x).all(axis=1)).sum())
    if broken:
        raise TrainingError(f"the features of {broken} of {len(x)} items are not finite; the encoder cannot be used")
    n, classes = has.shape
    precision = np.full((n, classes), np.nan)
    found = {k: np.full((n, classes), np.nan) for k in DEPTHS}
    for start in range(0, n, _CHUNK):
        queries = slice(start, start + _CHUNK)
        ranked = neighbours(x, x[queries], k=n, bank_patients=patients, query_patients=patients[queries])
        admitted = np.isfinite(ranked.similarity)
        for k in range(classes):
            relevant = has[ranked.rows, k] & admitted
            counted = relevant.cumsum(1)
            asked = has[queries, k] & (counted[:, -1] > 0)
            at_rank = counted / np.arange(1, n + 1)
            ap = (at_rank * relevant).sum(1) / np.maximum(counted[:, -1], 1)
            precision[queries, k] = np.where(asked, ap, np.nan)
            for depth, values in found.items():
                values[queries, k] = np.where(asked, counted[:, min(depth, n) - 1] > 0, np.nan)
    return Retrieved(precision, found)


def chance(has: NDArray[np.bool_], patients: NDArray[Any]) -> float:
    """Mean average precision of a random order, to a good approximation: the share of relevant items.

    Args:
        has: (n, K) classes of the items.
        patients: (n,).

    Returns:
        Averaged over items, classes and patients as the measure itself is; NaN where nothing can be retrieved.
    """
    owners = np.unique(patients, return_inverse=True)[1]
    own = np.zeros((owners.max() + 1, has.shape[1]))
    np.add.at(own, owners, has)
    others = len(has) - np.bincount(owners)
    share = (has.sum(0) - own) / np.maximum(others, 1)[:, None]
    known = (own > 0) & (share > 0)
    classes = known.sum(1)
    means = (share * known).sum(1)[classes > 0] / classes[classes > 0]
    return float(means.mean()) if len(means) else np.nan


def retrieval_rows(retrieved: Retrieved, patients: NDArray[Any], classes: tuple[str, ...]) -> pd.DataFrame:
    """Rows ``patient, metric, class, value, n_items``: of each class, and their mean (class ``""``).

    Classes count equally whatever their number of items, and patients likewise.
    """
    import pandas as pd

    measured = {"map": retrieved.precision} | {f"recall_at_{k}": v for k, v in retrieved.found.items()}
    rows: list[tuple[str, str, str, float, int]] = []
    for patient in np.unique(patients.astype(str)):
        own = patients.astype(str) == patient
        for metric, values in measured.items():
            known = np.isfinite(values[own])
            counts = known.sum(0)
            means = np.nansum(values[own], axis=0) / np.maximum(counts, 1)
            rows += [(patient, metric, c, means[k], int(counts[k])) for k, c in enumerate(classes) if counts[k]]
            if counts.any():
                rows.append((patient, metric, "", float(means[counts > 0].mean()), int(counts.sum())))
    return pd.DataFrame(rows, columns=["patient", "metric", "class", "value", "n_items"])
