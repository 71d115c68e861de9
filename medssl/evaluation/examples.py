"""What the report's pictures need beside the numbers: ``STUDY/examples.npz``, version 2.

``format_version``; for case n ``kind_n`` ("stack", "frames", "strip" or "picture"), ``recording_n``, then

* stacks, and annotated frames of video: ``pixel_mm_n`` (2,), ``slices_n`` (S,), ``depth_n``; ``image_n``,
  ``reference_n`` and ``prediction_n/ARM/BUDGET``, all (S, H, W) uint8, and ``dice_n/ARM/BUDGET`` of the whole case;
* strips: ``signal_n`` (C, T) float16, ``channels_n``, ``rate_hz_n``, ``start_s_n``, ``onset_s_n`` (m,), ``true_n`` (m,)
  class names, ``prediction_n/ARM/BUDGET`` (m,) class names. Recordings with one label have m = 1 and onset NaN;
* pictures of recordings with one answer each: ``picture_n``, ``aspect_n`` and ``what_n`` as ``thumbnail`` gives them;
  ``true_n`` (1,) and ``prediction_n/ARM/BUDGET`` (1,), class names or numbers;

``calibration/ARM/BUDGET`` (3, B), see ``medssl.evaluation.calibration``; ``map...``, see
``medssl.evaluation.feature_maps``; ``cohort_card``, JSON, see ``medssl.evaluation.cohort_card``. Version 1 had "slice"
for "stack", with (H, W) arrays, and cases only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.calibration import calibration
from medssl.evaluation.cohort_card import cohort_card
from medssl.evaluation.feature_maps import feature_maps

if TYPE_CHECKING:
    import pandas as pd

    from medssl.evaluation.planning import Plan

__all__ = ["FORMAT_VERSION", "write_examples"]

FORMAT_VERSION = 2
CASES, PICTURES = 4, 12
STRIP_S = 10.0
CHANNELS = 3
MOST_SAMPLES = 1500


def write_examples(plan: Plan, predictions: Mapping[tuple[str, str, int], pd.DataFrame]) -> None:
    """Collect cases of the smallest and the largest budget, first repeat, and the numbers behind the other pictures.

    Writes nothing where there is nothing.
    """
    arrays: dict[str, NDArray[Any]] = {}
    of_signals = plan.facts["cohort"]["kind"] == "signal" and plan.facts["cohort"]["modality"] != "fmri"
    if plan.layout.info.task == "segmentation":
        arrays |= _stacks(plan)
    elif plan.layout.info.task == "classification" and of_signals:
        arrays |= _strips(plan, predictions)
    else:
        arrays |= _pictures(plan, predictions)
    for (arm, budget), sums in calibration(predictions, plan.layout.info).items():
        arrays[f"calibration/{arm}/{budget}"] = sums
    arrays |= feature_maps(plan)
    card = cohort_card(Path(plan.facts["cohort"]["path"]))
    if card:
        arrays["cohort_card"] = np.array(json.dumps(card))
    file = plan.out / "examples.npz"
    if not arrays:
        file.unlink(missing_ok=True)
        return
    arrays["format_version"] = np.array(FORMAT_VERSION)
    beside = plan.out / ".examples.part.npz"
    np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]
    beside.replace(file)


def _shown(plan: Plan) -> list[tuple[str, str, Path]]:
    """(arm, budget, cell folder) of the first repeat (and fold) at the smallest and the largest budget."""
    budgets = list(plan.layout.budgets)
    wanted = dict.fromkeys((budgets[0], budgets[-1]))
    first: dict[tuple[str, str], Path] = {}
    for c in plan.cells:
        if c.repeat == 0 and c.budget in wanted:
            first.setdefault((c.encoder, c.budget), c.folder)
    return [(arm, budget, folder) for (arm, budget), folder in first.items()]


def _stacks(plan: Plan) -> dict[str, NDArray[Any]]:
    """Slices that the fine-tuning runs kept; every arm keeps the same ones.

    Runs of earlier releases kept one whole slice: it is shown where no run of the study kept more, and left out where
    it does not fit the others.
    """
    found = {(arm, budget): folder / "examples.npz" for arm, budget, folder in _shown(plan)}
    kept = {key: _read(file) for key, file in found.items() if file.is_file()}
    newest = [arrays for arrays in kept.values() if "slices_0" in arrays] or list(kept.values())
    out: dict[str, NDArray[Any]] = {}
    for n in range(CASES):
        source = next((arrays for arrays in newest if f"image_{n}" in arrays), None)
        if source is None:
            break
        out |= _stack(plan, source, n)
        for (arm, budget), arrays in kept.items():
            prediction = _three(arrays.get(f"prediction_{n}", np.zeros((0, 0, 0))))
            if prediction.shape == out[f"image_{n}"].shape:
                out[f"prediction_{n}/{arm}/{budget}"] = prediction
                if f"dice_{n}" in arrays:
                    out[f"dice_{n}/{arm}/{budget}"] = arrays[f"dice_{n}"]
    return out


def _stack(plan: Plan, source: Mapping[str, NDArray[Any]], n: int) -> dict[str, NDArray[Any]]:
    """Image and reference of a case, and where its slices lie (unknown in files of earlier releases)."""
    recording = source[f"recording_{n}"]
    image = _three(source[f"image_{n}"])
    step = float(source.get(f"step_{n}", 1))
    kind = "frames" if plan.facts["cohort"]["kind"] == "video" else "stack"
    return {
        f"kind_{n}": np.array(kind), f"recording_{n}": recording, f"image_{n}": image,
        f"reference_{n}": _three(source[f"reference_{n}"]), f"pixel_mm_{n}": step * _pixel_mm(plan, str(recording)),
        f"slices_{n}": source.get(f"slices_{n}", np.arange(len(image))),
        f"depth_{n}": source.get(f"depth_{n}", np.array(len(image))),
    }  # fmt: skip


def _read(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _three(slices: NDArray[Any]) -> NDArray[Any]:
    """(S, H, W); a single slice (H, W) becomes a stack of one."""
    return slices[None] if slices.ndim == 2 else slices


def _pixel_mm(plan: Plan, recording: str) -> NDArray[np.float64]:
    """(y, x) voxel size of a recording: of the cohort where all share one, else its own; 1 where it is not known."""
    spacing = plan.facts["cohort"]["spacing_mm"]
    if spacing is None:
        from medssl.cohort import Cohort

        manifest = Cohort(Path(plan.facts["cohort"]["path"])).manifest
        spacing = manifest.loc[manifest["recording"] == recording, "spacing_mm"].iloc[0]
    return np.array((1.0, 1.0) if spacing is None else spacing[-2:], dtype=np.float64)


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


def _pictures(plan: Plan, predictions: Mapping[tuple[str, str, int], pd.DataFrame]) -> dict[str, NDArray[Any]]:
    """Recordings with one answer each, of different patients: of every class, or from the least to the most."""
    shown = {(a, b): predictions[a, b, 0] for a, b, _ in _shown(plan) if (a, b, 0) in predictions}
    path = Path(plan.facts["cohort"]["path"])
    there = (path / "recordings.parquet").is_file()
    if not there or not shown or plan.layout.info.multilabel or plan.facts["level"] != "recording":
        return {}
    from medssl.cohort import Cohort
    from medssl.evaluation.thumbnails import thumbnail

    cohort = Cohort(path)
    row_of = {r: i for i, r in enumerate(cohort.manifest["recording"])}
    answers = {key: frame.drop_duplicates("recording").set_index("recording") for key, frame in shown.items()}
    out: dict[str, NDArray[Any]] = {}
    first = next(iter(answers.values()))
    for n, recording in enumerate(_spread(first)):
        small = thumbnail(cohort, row_of[recording])
        out |= {f"kind_{n}": np.array("picture"), f"recording_{n}": np.array(recording)}
        out |= {f"picture_{n}": small["values"], f"aspect_{n}": np.array(small["aspect"])}
        out |= {f"what_{n}": np.array(small["what"]), f"true_{n}": np.array([first.loc[recording, "y_true"]])}
        for (arm, budget), own in answers.items():
            if recording in own.index:
                out[f"prediction_{n}/{arm}/{budget}"] = np.array([own.loc[recording, "y_pred"]])
    return out


def _spread(answers: pd.DataFrame) -> list[str]:
    """Up to ``PICTURES`` recordings of different patients, spread evenly over the sorted true values."""
    ordered = answers.sort_index().drop_duplicates("patient").sort_values("y_true", kind="stable")
    places = np.unique(np.linspace(0, len(ordered) - 1, min(PICTURES, len(ordered))).round().astype(int))
    return [str(r) for r in ordered.index[places]]


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
