"""A few test cases with the answer of every arm, small enough for the report: ``STUDY/examples.npz``.

Keys, for case n: ``kind_n`` ("slice" or "strip"), ``recording_n``, then

* slices: ``pixel_mm_n`` (2,), ``image_n``, ``reference_n`` and ``prediction_n/ARM/BUDGET``, all (H, W) uint8;
* strips: ``signal_n`` (C, T) float16, ``channels_n``, ``rate_hz_n``, ``start_s_n``, ``onset_s_n`` (m,), ``true_n`` (m,)
  class names, ``prediction_n/ARM/BUDGET`` (m,) class names. Recordings with one label have m = 1 and onset NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from medssl.evaluation.planning import Plan

__all__ = ["write_examples"]

CASES = 4
STRIP_S = 10.0
CHANNELS = 3
MOST_SAMPLES = 1500


def write_examples(plan: Plan, predictions: Mapping[tuple[str, str, int], pd.DataFrame]) -> None:
    """Collect examples of the smallest and the largest budget, first repeat; writes nothing where there is nothing."""
    if plan.layout.info.task == "segmentation":
        arrays = _slices(plan)
    elif plan.layout.info.task == "classification" and plan.facts["cohort"]["kind"] == "signal":
        arrays = _strips(plan, predictions)
    else:
        arrays = {}
    file = plan.out / "examples.npz"
    if not arrays:
        file.unlink(missing_ok=True)
        return
    beside = plan.out / ".examples.part.npz"
    np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]
    beside.replace(file)


def _shown(plan: Plan) -> list[tuple[str, str, Path]]:
    """(arm, budget, cell folder) of the first repeat at the smallest and the largest budget."""
    budgets = list(plan.layout.budgets)
    wanted = dict.fromkeys((budgets[0], budgets[-1]))
    return [(c.encoder, c.budget, c.folder) for c in plan.cells if c.repeat == 0 and c.budget in wanted]


def _slices(plan: Plan) -> dict[str, NDArray[Any]]:
    """Slices that the fine-tuning runs kept; every arm keeps the same ones."""
    out: dict[str, NDArray[Any]] = {}
    for arm, budget, folder in _shown(plan):
        file = folder / "examples.npz"
        if not file.is_file():
            continue
        with np.load(file, allow_pickle=False) as kept:
            for n in range(CASES):
                if f"image_{n}" not in kept:
                    break
                if f"image_{n}" not in out:
                    out[f"kind_{n}"] = np.array("slice")
                    for name in ("image", "reference", "recording"):
                        out[f"{name}_{n}"] = kept[f"{name}_{n}"]
                    out[f"pixel_mm_{n}"] = _pixel_mm(plan, str(kept[f"recording_{n}"]))
                out[f"prediction_{n}/{arm}/{budget}"] = kept[f"prediction_{n}"]
    return out


def _pixel_mm(plan: Plan, recording: str) -> NDArray[np.float64]:
    """(y, x) voxel size of a recording: of the cohort where all share one, else its own."""
    spacing = plan.facts["cohort"]["spacing_mm"]
    if spacing is None:
        from medssl.cohort import Cohort

        manifest = Cohort(Path(plan.facts["cohort"]["path"])).manifest
        spacing = manifest.loc[manifest["recording"] == recording, "spacing_mm"].iloc[0]
    return np.array(spacing[-2:], dtype=np.float64)


def _strips(plan: Plan, predictions: Mapping[tuple[str, str, int], pd.DataFrame]) -> dict[str, NDArray[Any]]:
    """Signals around what is rare: each patient's stretch with the most items of the rarest classes."""
    shown = {(a, b): predictions[a, b, 0] for a, b, _ in _shown(plan) if (a, b, 0) in predictions}
    if not shown or plan.layout.info.multilabel or plan.facts["level"] == "patient":
        return {}
    from medssl.cohort import Cohort

    first = next(iter(shown.values()))
    cohort = Cohort(Path(plan.facts["cohort"]["path"]))
    row_of = {r: i for i, r in enumerate(cohort.manifest["recording"])}
    out: dict[str, NDArray[Any]] = {}
    for n, (recording, start_s, items) in enumerate(_stretches(first)):
        out |= _strip(cohort, row_of[recording], n, start_s)
        out[f"onset_s_{n}"] = first.loc[items, "onset_s"].to_numpy(dtype=np.float64)
        out[f"true_{n}"] = first.loc[items, "y_true"].to_numpy(dtype=str)
        for (arm, budget), answers in shown.items():
            out[f"prediction_{n}/{arm}/{budget}"] = answers.loc[items, "y_pred"].to_numpy(dtype=str)
    return out


def _stretches(predictions: pd.DataFrame) -> list[tuple[str, float, NDArray[np.intp]]]:
    """(recording, start, items) of up to ``CASES`` recordings of different patients, the most telling first."""
    rarity = 1 / predictions["y_true"].map(predictions["y_true"].value_counts()).to_numpy(np.float64)
    found = []
    for (_, recording), own in predictions.groupby(["patient", "recording"], sort=True):
        index = own.index.to_numpy()
        if own["onset_s"].isna().all():
            found.append((float(rarity[index].sum()), str(recording), math.nan, index))
            continue
        onsets = own["onset_s"].to_numpy(np.float64)
        total = np.r_[0.0, np.cumsum(rarity[index])]
        last = np.searchsorted(onsets, onsets + STRIP_S - 0.5)
        score = total[last] - total[:-1]
        best = int(score.argmax())
        found.append((float(score[best]), str(recording), max(0.0, onsets[best] - 0.5), index[best : last[best]]))
    found.sort(key=lambda item: (-item[0], item[1]))
    return [(recording, start, items) for _, recording, start, items in found[:CASES]]


def _strip(cohort: Any, row: int, n: int, start_s: float) -> dict[str, NDArray[Any]]:
    reader = cohort.reader(row)
    rate = float(reader.rate_hz or cohort.info.rate_hz or 1.0)
    begin = 0.0 if math.isnan(start_s) else start_s
    length = min(round(STRIP_S * rate), reader.shape[0])
    first = min(max(0, round(begin * rate)), reader.shape[0] - length)
    channels = list(range(min(CHANNELS, len(reader.channels))))
    stored = reader.read((first,), (length,), channels=channels).astype(np.float32)
    fields = reader.input_fields()
    x = stored * fields["input_scale"][channels, None] + fields["input_offset"][channels, None]
    step = max(1, -(-length // MOST_SAMPLES))
    return {
        f"kind_{n}": np.array("strip"),
        f"recording_{n}": np.array(reader.recording),
        f"signal_{n}": np.clip(x[:, ::step], -1e4, 1e4).astype(np.float16),
        f"channels_{n}": np.array([reader.channels[c] for c in channels]),
        f"rate_hz_{n}": np.array(rate / step),
        f"start_s_{n}": np.array(first / rate),
    }
