"""From predictions to numbers: a table of cases, a table of predictions, and the metrics of the test patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.metrics import (
    MetricRow,
    classification_metrics,
    confusion_counts,
    multilabel_metrics,
    regression_metrics,
    segmentation_metrics,
)
from medssl.heads.base import Head
from medssl.training.clip_scoring import TracedMasks, case_rows, pooled_rows, traced_masks
from medssl.training.example_stacks import example_stack
from medssl.training.inference import Testing, applied, predict_items, segment
from medssl.training.levels import Decisions
from medssl.training.sequences import Embedded
from medssl.training.targets import Target
from medssl.training.windows import Recordings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Scores", "mean_dice", "score_items", "score_masks", "validation_score", "write_tables"]

EXAMPLES = 4
STRIP = 2000  # samples of an example signal that are kept

Row = dict[str, Any]


class Scores:
    """What testing gave.

    Attributes:
        metrics: name → value over all patients of the group.
        cases: one row a case and metric.
        predictions: one row an item; empty for segmentation.
        examples: small arrays for the report.
    """

    def __init__(
        self,
        metrics: Mapping[str, float],
        cases: Sequence[Row],
        predictions: Sequence[Row] = (),
        examples: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.metrics = dict(metrics)
        self.cases = list(cases)
        self.predictions = list(predictions)
        self.examples = dict(examples or {})


def mean_dice(prediction: NDArray[Any], reference: NDArray[Any], classes: int) -> float:
    """Mean Dice over the foreground classes of class-index maps; two empty masks count 1."""
    both = np.bincount(reference[prediction == reference].ravel(), minlength=classes)[1:classes]
    sizes = np.bincount(prediction.ravel(), minlength=classes) + np.bincount(reference.ravel(), minlength=classes)
    total = sizes[1:classes]
    return float(np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0).mean())


def validation_score(
    head: Head,
    decisions: Decisions,
    items: NDArray[np.int64],
    recordings: Recordings,
    testing: Testing,
    known: Embedded | None = None,
) -> float:
    """Higher is better: mean Dice, macro-F1, or minus the mean absolute error, of what is decided."""
    target = decisions.target
    if target.task == "segmentation":
        dice = []
        with applied(head, testing.precision):
            for item in items:
                prediction, reference = _labels(head, target, int(item), recordings, testing)
                dice.append(_case_dice(target, prediction, reference))
        return float(np.mean(dice))
    answers = predict_items(head, decisions, items, recordings, testing, known)
    if target.task == "regression":
        return -float(np.abs(answers - target.y[items]).mean())
    if target.multilabel:
        return float(np.nan_to_num(multilabel_metrics(answers, target.y[items], target.classes)["macro_f1"]))
    return classification_metrics(answers, target.y[items], target.classes)["macro_f1"]


def _labels(
    head: Head, target: Target, item: int, recordings: Recordings, testing: Testing
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Predicted and true class indices (Z, Y, X) of one recording; (N, Y, X) of the annotated frames of a video."""
    if target.traces is not None:
        masks = traced_masks(head, target, item, recordings, testing)
        return masks.prediction, masks.reference
    row = int(target.rows[item])
    class_of = np.zeros(256, dtype=np.uint8)
    class_of[list(target.values)] = np.arange(len(target.values), dtype=np.uint8)
    image = recordings.network_input(row, recordings.whole(row))
    prediction = segment(head, image, testing).argmax(0).to("cpu").numpy().astype(np.uint8)
    return prediction, class_of[recordings.whole(row, f"mask:{target.name}")[0]]


def _case_dice(target: Target, prediction: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Mean Dice of a volume, or over the annotated frames of a video."""
    classes = len(target.classes)
    if target.traces is None:
        return mean_dice(prediction, reference, classes)
    return float(np.mean([mean_dice(p, r, classes) for p, r in zip(prediction, reference, strict=True)]))


def score_masks(
    head: Head, target: Target, items: NDArray[np.int64], recordings: Recordings, testing: Testing
) -> Scores:
    """Segmentation metrics a case, then their means over a patient's cases, then over patients."""
    if target.traces is not None:
        return _score_frames(head, target, items, recordings, testing)
    names = {i: name for i, name in enumerate(target.classes) if i}
    cases: list[Row] = []
    examples: dict[str, NDArray[Any]] = {}
    with applied(head, testing.precision):
        for n, item in enumerate(items):
            row = int(target.rows[item])
            prediction, reference = _labels(head, target, int(item), recordings, testing)
            spacing = target.cohort.reader(row).spacing_mm or (1.0,) * reference.ndim
            about = _about(target, int(item))
            rows = segmentation_metrics(prediction, reference, spacing_mm=spacing, labels=names)
            cases += [_case(about, m) for m in rows]
            if n < EXAMPLES:
                image = recordings.network_input(row, recordings.whole(row))[0]
                kept = example_stack(image, reference, prediction)
                kept["recording"] = np.array(about["recording"])
                kept["dice"] = np.array(mean_dice(prediction, reference, len(target.classes)))
                examples |= {f"{name}_{n}": array for name, array in kept.items()}
    return Scores(_means_over_patients(cases), cases, examples=examples)


def _score_frames(
    head: Head, target: Target, items: NDArray[np.int64], recordings: Recordings, testing: Testing
) -> Scores:
    """As ``score_masks``, of the annotated frames of videos. Distances are given where all have a pixel size."""
    names = {i: name for i, name in enumerate(target.classes) if i}
    sizes = [target.cohort.reader(int(target.rows[item])).spacing_mm for item in items]
    known = all(s is not None for s in sizes)
    cases: list[Row] = []
    examples: dict[str, NDArray[Any]] = {}
    videos: list[TracedMasks] = []
    with applied(head, testing.precision):
        for n, (item, size) in enumerate(zip(items, sizes, strict=True)):
            masks = traced_masks(head, target, int(item), recordings, testing)
            videos.append(masks)
            about = _about(target, int(item))
            cases += [_case(about, m) for m in case_rows(masks, names, size if known else None)]
            if n < EXAMPLES:
                kept = _example_frames(recordings, int(target.rows[item]), masks)
                kept["recording"] = np.array(about["recording"])
                kept["dice"] = np.array(_case_dice(target, masks.prediction, masks.reference))
                examples |= {f"{name}_{n}": array for name, array in kept.items()}
    together = pooled_rows(videos, names)
    return Scores(_means_over_patients([*cases, *together]), [*cases, *together], examples=examples)


def _example_frames(recordings: Recordings, row: int, masks: TracedMasks) -> dict[str, NDArray[Any]]:
    """The annotated frames as a stack, numbered as in the video."""
    count, *size = recordings.shape(row)
    stored = np.concatenate([recordings.read(row, (int(f), 0, 0), (1, *size)) for f in masks.frames], axis=1)
    kept = example_stack(recordings.network_input(row, stored)[0], masks.reference, masks.prediction)
    return kept | {"slices": masks.frames[kept["slices"]], "depth": np.array(count)}


def _case(about: Row, m: MetricRow) -> Row:
    return {
        **about, "metric": m.metric, "class": m.name, "label": m.label, "value": m.value,
        "empty_reference": m.empty_reference, "empty_prediction": m.empty_prediction,
    }  # fmt: skip


def _means_over_patients(cases: Sequence[Row]) -> dict[str, float]:
    """Metric, with its class → the mean over a patient's cases, then over patients."""
    import pandas as pd

    frame = pd.DataFrame(cases)
    keys = frame["metric"] + np.where(frame["label"] != "", "/" + frame["label"], "")
    per_patient = frame.assign(key=keys).groupby(["key", "patient"], sort=False)["value"].mean()
    metrics = per_patient.groupby("key", sort=False).mean()
    return {str(k): float(v) for k, v in metrics.items()}


def score_items(
    head: Head,
    decisions: Decisions,
    items: NDArray[np.int64],
    recordings: Recordings,
    testing: Testing,
    *,
    training_mean: float,
) -> Scores:
    """Metrics over all decisions about the patients, with the predictions; a row of cases per patient."""
    target = decisions.target
    answers = predict_items(head, decisions, items, recordings, testing)
    truth = target.y[items]
    if target.task == "regression":
        metrics = regression_metrics(answers, truth.astype(np.float64), training_mean=training_mean)
    elif target.multilabel:
        metrics = multilabel_metrics(answers, truth, target.classes)
    else:
        metrics = classification_metrics(answers, truth, target.classes)
    predictions = [_prediction(target, int(item), answers[i]) for i, item in enumerate(items)]
    return Scores(
        metrics, _patient_rows(target, items, answers), predictions, _example_strips(target, items, recordings, answers)
    )


def _prediction(target: Target, item: int, answer: NDArray[np.float64]) -> Row:
    about = _about(target, item)
    about["onset_s"] = None if target.onset_s is None else float(target.onset_s[item])
    truth = target.y[item]
    if target.task == "regression":
        return {**about, "y_true": float(truth), "y_pred": float(answer)}
    shares = {f"p/{name}": float(p) for name, p in zip(target.classes, answer, strict=True)}
    if target.multilabel:
        true = {f"y/{name}": int(t) for name, t in zip(target.classes, truth, strict=True)}
        return {**about, **true, **shares}
    chosen = target.classes[int(answer.argmax())]
    return {**about, "y_true": target.classes[int(truth)], "y_pred": chosen, **shares}


def _patient_rows(target: Target, items: NDArray[np.int64], answers: NDArray[np.float64]) -> list[Row]:
    """Values a patient: mean absolute error, or accuracy with the counts of its confusion matrix."""
    rows: list[Row] = []
    owners = target.patients[items]
    for patient in dict.fromkeys(owners):
        mine = owners == patient
        about = {
            **_about(target, int(items[mine][0])),
            "recording": "",
            "class": "",
            "label": "",
            "n_items": int(mine.sum()),
        }
        for metric, value in _patient_values(target, items[mine], answers[mine]).items():
            rows.append({**about, "metric": metric, "value": value})
    return rows


def _patient_values(target: Target, items: NDArray[np.int64], answers: NDArray[np.float64]) -> dict[str, float]:
    truth = target.y[items]
    if target.task == "regression":
        return {"mae": float(np.abs(answers - truth).mean())}
    if target.multilabel:
        return {"accuracy": float(((answers > 0.5) == (truth > 0.5)).all(1).mean())}
    counts = confusion_counts(answers.argmax(1), truth, len(target.classes))
    names = target.classes
    cells = {f"n/{names[t]}/{names[p]}": float(counts[t, p]) for t, p in np.argwhere(counts)}
    return {"accuracy": float(np.trace(counts) / counts.sum()), **cells}


def _example_strips(
    target: Target, items: NDArray[np.int64], recordings: Recordings, answers: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """The first samples of a few test signals; volumes are shown by segmentation only."""
    if target.cohort.info.kind != "signal":
        return {}
    examples: dict[str, NDArray[Any]] = {}
    firsts = list({int(target.rows[item]): i for i, item in reversed(list(enumerate(items)))}.items())[-EXAMPLES:]
    for n, (row, i) in enumerate(firsts):
        length = min(STRIP, recordings.shape(row)[0])
        strip = recordings.network_input(row, recordings.read(row, (0,), (length,)))
        examples[f"signal_{n}"] = strip.astype(np.float16)
        examples[f"recording_{n}"] = np.array(str(target.cohort.manifest["recording"].iloc[row]))
        examples[f"answer_{n}"] = np.asarray(answers[i])
    return examples


def _about(target: Target, item: int) -> Row:
    row = int(target.rows[item])
    manifest = target.cohort.manifest
    return {
        "patient": str(target.patients[item]),
        "recording": "" if target.level == "patient" else str(manifest["recording"].iloc[row]),
        "site": str(manifest["site"].iloc[row] or "") if "site" in manifest else "",
    }


def write_tables(run: Path, groups: Mapping[str, Scores]) -> None:
    """``per_case.parquet``, ``predictions.parquet`` (not for segmentation) and ``examples.npz``."""
    import pandas as pd

    cases = [{"group": group, **row} for group, scores in groups.items() for row in scores.cases]
    predictions = [{"group": group, **row} for group, scores in groups.items() for row in scores.predictions]
    _parquet(pd.DataFrame(cases), run / "per_case.parquet")
    if predictions:
        _parquet(pd.DataFrame(predictions), run / "predictions.parquet")
    examples = next(iter(groups.values())).examples
    if examples:
        temporary = run / ".examples.part.npz"
        np.savez_compressed(temporary, **examples)  # type: ignore[arg-type]
        temporary.replace(run / "examples.npz")


def _parquet(frame: pd.DataFrame, file: Path) -> None:
    temporary = file.with_name(f".{file.name}.part")
    frame.to_parquet(temporary, index=False)
    temporary.replace(file)
