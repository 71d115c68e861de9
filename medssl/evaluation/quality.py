"""Label-free measures of one encoder on the development patients: a cell of ``evaluate --protocol representation``.

One row is one recording: the mean of the features of a few fixed windows, so that a recording with many windows counts
no more than another. Recordings of one patient are not independent either; they are spread over the patients as evenly
as can be, and the numbers of both are given. Protocol: representation quality, sections 1 to 3.

    …/cells/ARM/none/0/summary.json         the measures, see ``measure_cell``
    …/cells/ARM/none/0/predictions.parquet  of the nearest neighbours; not for segmentation
    …/features/ARM.recordings.npz           (n, D), the rows
    …/features/ARM.events.npz               features of single events, where the target is one
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.evaluation.cells import Cell
from medssl.evaluation.frozen import Frozen, features_key, frozen_encoder, keep_features, target_of, write_predictions
from medssl.evaluation.neighbours import class_votes, neighbours, weighted_mean
from medssl.evaluation.probes import thinned
from medssl.evaluation.representation import collapse_summary, power_law_of, projected, rankme
from medssl.evaluation.sampling import spread
from medssl.evaluation.streaming import StreamingAlignment, StreamingLidar

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo
    from medssl.splits import Split
    from medssl.training.targets import Target
    from medssl.views.base import Views

__all__ = [
    "development_rows",
    "leave_patient_out",
    "measure_cell",
    "measures_of",
    "recording_features",
    "view_measures",
]

MOST_ROWS = 2048
VIEWS, MOST_VIEWED = 8, 256
LIDAR_WIDTH = 128
NEIGHBOURS, TEMPERATURE = 20, 0.07
HALVES = 5


def measure_cell(cell: Cell) -> None:
    """Measure one encoder and leave ``summary.json`` (and the neighbours' predictions) in ``cell.folder``."""
    from medssl.splits import Split
    from medssl.training.run import write_json

    target = target_of(cell)
    split = Split.load(target.cohort.path, cell.options["split"])
    encoder = frozen_encoder(cell, target)
    rows = development_rows(target, split, MOST_ROWS)
    x = recording_features(cell, target, rows, encoder, windows=encoder.settings.test_windows)
    found = measures_of(x, _patients(target, rows)) | view_measures(encoder, target, rows)
    found["windows"] = encoder.settings.test_windows
    found["knn"] = _neighbours(cell, encoder, target, split, rows, x)
    write_json(cell.folder / "summary.json", {"status": "finished", "measures": found})


def development_rows(target: Target, split: Split, most: int) -> NDArray[np.int64]:
    """Manifest rows of at most ``most`` recordings of development patients that carry the target, ascending."""
    rows = np.unique(target.rows[target.items_of(split.development)])
    return rows[spread(_patients(target, rows), most)]


def recording_features(
    cell: Cell, target: Target, rows: NDArray[np.int64], encoder: Frozen | None = None, *, windows: int
) -> NDArray[np.float32]:
    """(len(rows), D) features of whole recordings, from ``STUDY/features/ARM.recordings.npz`` where they are known.

    Args:
        cell: of the arm.
        target: says the cohort.
        rows: manifest rows.
        encoder: of the arm; made where it is needed and not given.
        windows: most windows of a recording that are averaged; 1 takes its middle.
    """
    key = features_key(cell, rows=rows.tolist(), windows=windows)
    whole = _recordings(target, rows)

    def compute() -> NDArray[np.float32]:
        found = encoder or frozen_encoder(cell, target)
        return found.features(whole, np.arange(len(rows)), windows=windows)

    return keep_features(cell, "recordings", key, compute)


def _recordings(target: Target, rows: NDArray[np.int64]) -> Target:
    """Recordings as items, whatever the target is of."""
    from dataclasses import replace

    nothing = np.zeros(len(rows), dtype=np.int64)
    return replace(
        target, source="label", rows=rows, y=nothing, onset_s=None, duration_s=None, level="recording",
        patients=_patients(target, rows),
    )  # fmt: skip


def _patients(target: Target, rows: NDArray[np.int64]) -> NDArray[Any]:
    patients: NDArray[Any] = target.cohort.manifest["patient"].to_numpy(dtype=object)[rows]
    return patients


def measures_of(x: NDArray[np.floating], patients: NDArray[Any]) -> dict[str, Any]:
    """Measures of the spectrum of features.

    Args:
        x: (n, D), one row a recording.
        patients: (n,) whose they are.

    Returns:
        ``n_recordings``, ``n_patients``, ``dimension``, ``dropped`` (rows that are not finite), ``rankme`` with its SD
        over five random halves of the recordings, ``rankme_centred``, ``alpha_req`` with its range of ranks and R²,
        ``participation``, ``top1_share``, ``dead_dims``, ``std_l2``, ``uniformity``. Undefined ones are NaN.
    """
    z = torch.from_numpy(np.asarray(x, dtype=np.float64))
    found = dict(collapse_summary(z))
    law = power_law_of(z)
    random = np.random.default_rng(0)
    halves = [rankme(z[random.permutation(len(z))[: len(z) // 2]]) for _ in range(HALVES)] if len(z) > 3 else []
    names = ("rankme_centred", "participation", "top1_share", "std_l2", "uniformity")
    return {
        "n_recordings": len(z), "n_patients": len(set(patients)), "dimension": z.shape[1],
        "dropped": int(found["dropped"]), "rankme": found["rankme"],
        "rankme_sd": float(np.std(halves, ddof=1)) if halves else math.nan,
        **{n: found[n] for n in names}, "dead_dims": int(found["dead_dims"]),
        "alpha_req": law.alpha, "alpha_ranks": [law.low, law.high], "alpha_r2": law.r2,
    }  # fmt: skip


def view_measures(encoder: Frozen, target: Target, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Alignment and LiDAR of augmented views of at most ``MOST_VIEWED`` recordings; views are the kind's default ones.

    LiDAR wants more recordings than dimensions, so it is taken in a fixed random subspace of at most 128 directions and
    half as many as there are recordings.

    Returns:
        ``views`` of each of ``viewed_recordings``, ``alignment``, ``lidar``, ``lidar_dimension``, and ``lidar_reason``
        where it is undefined.
    """
    rows = rows[spread(_patients(target, rows), MOST_VIEWED)]
    width = min(LIDAR_WIDTH, max(2, len(rows) // 2), encoder.encoder.out_dim)
    alignment, lidar = StreamingAlignment(), StreamingLidar(width)
    for x in _embedded_views(encoder, target, rows):
        alignment.update(x)
        lidar.update(projected(x, width))
    value = lidar.compute()
    reason = ""
    if math.isnan(value):
        reason = "fewer than two recordings" if lidar.n < 2 else "the recordings do not differ"
    return {
        "views": VIEWS, "viewed_recordings": len(rows), "alignment": alignment.compute(), "lidar": value,
        "lidar_dimension": width, "lidar_reason": reason,
    }  # fmt: skip


def _embedded_views(encoder: Frozen, target: Target, rows: NDArray[np.int64]) -> Any:
    """Features of the views of a few recordings at a time: (n, VIEWS, D)."""
    from medssl.training.data import collate, move
    from medssl.views.base import to_input

    views = _default_views(target.cohort.info, encoder.size)
    device = torch.device(encoder.device)
    generator = torch.Generator(device=device).manual_seed(0)
    step = max(1, encoder.settings.test_batch // VIEWS)
    network = encoder.encoder.to(device).eval()
    with torch.inference_mode():
        for start in range(0, len(rows), step):
            samples = [
                views.draw(target.cohort.reader(int(r)), np.random.default_rng([0, int(r)]))
                for r in rows[start : start + step]
            ]
            batch = collate([(0, start), *samples])
            assert isinstance(batch, dict)
            batch = move(batch, device)
            x = to_input(batch["x"], batch)
            if encoder.channels is not None:
                x = x[:, :, list(encoder.channels)]
            pooled = network(views.augment(x.flatten(0, 1), generator)).pooled
            yield pooled.float().cpu().unflatten(0, x.shape[:2])


def _default_views(info: CohortInfo, size: tuple[int, ...]) -> Views:
    if info.kind == "signal":
        from medssl.views.signal import SignalViews

        return SignalViews((size[0],), count=VIEWS)
    z, y, x = size
    if info.kind == "video":
        from medssl.views.clip import ClipViews

        return ClipViews((z, y, x), count=VIEWS, crop="whole")
    from medssl.views.volume import VolumeViews

    return VolumeViews((z, y, x), count=VIEWS)


def _neighbours(
    cell: Cell, encoder: Frozen, target: Target, split: Split, rows: NDArray[np.int64], x: NDArray[np.float32]
) -> dict[str, Any] | None:
    """What the nearest recordings (or events) of other patients say; None for masks and for a single patient."""
    if target.task == "segmentation":
        return None
    items = target.items_of(split.development)
    if target.onset_s is None:
        items = items[np.isin(target.rows[items], rows)]
        features = x[np.searchsorted(rows, target.rows[items])]
    else:
        items = items[thinned(target.patients[items], 0)]
        key = features_key(cell, items=items.tolist())
        features = keep_features(cell, "events", key, lambda: encoder.features(target, items))
    patients = target.patients[items]
    if len(set(patients)) < 2:
        return None
    answers = leave_patient_out(features, target.y[items], patients, classes=len(target.classes))
    write_predictions(cell.folder / "predictions.parquet", target, items, answers, group="development")
    return {"k": min(NEIGHBOURS, len(items) // 2), "temperature": TEMPERATURE, "n_items": len(items),
            "n_patients": len(set(patients))}  # fmt: skip


def leave_patient_out(
    x: NDArray[np.floating], y: NDArray[Any], patients: NDArray[Any], *, classes: int
) -> NDArray[np.float64]:
    """Answer every item from its nearest ones of other patients, by cosine.

    Args:
        x: (n, D) features.
        y: (n,) classes, (n, K) 0/1 of labels that occur together, or (n,) numbers where ``classes`` is 0.
        patients: (n,).
        classes: K; 0 for numbers.

    Returns:
        (n, K) shares or (n,) values.
    """
    k = max(1, min(NEIGHBOURS, len(x) // 2))
    found = neighbours(x, x, k=k, bank_patients=patients, query_patients=patients)
    if not classes:
        return weighted_mean(found, y, temperature=TEMPERATURE)
    if np.ndim(y) == 2:
        columns = [weighted_mean(found, y[:, j], temperature=TEMPERATURE) for j in range(classes)]
        return np.stack(columns, axis=1)
    return class_votes(found, np.asarray(y, dtype=np.int64), classes=classes, temperature=TEMPERATURE)
