"""Raw clinical files in, masks in the source's own geometry or a table of answers out."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.adapters.recording import Recording, Rejected
from medssl.cohort import CohortInfo
from medssl.cohort.preparation import Preparation, Prepared
from medssl.cohort.recipe import Item, Recipe
from medssl.configurable import build
from medssl.errors import ConfigError, MedSSLError, UnreadableRecording
from medssl.progress import track
from medssl.training.contract import match_input
from medssl.training.inference import Testing, answers_of, applied, predict_windows, segment
from medssl.training.models import Model, load_model
from medssl.training.predict_clips import segment_clip
from medssl.training.raw_source import items_of_source
from medssl.training.run import write_atomic, write_json
from medssl.training.targets import event_start
from medssl.training.windows import LazyWindows, cut, fixed_starts

__all__ = ["predict"]

Format = Literal["nifti", "dicom-seg", "csv", "auto"]
Row = dict[str, Any]


def predict(
    run: Path,
    source: Path,
    out: Path,
    *,
    format: Format = "auto",
    recipe: str = "auto",
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Apply a fine-tuned model to raw files.

    The preparation stored with the model is applied again, so the files are treated as the training data were.
    Segmentation writes one mask a recording, on the grid of its source; of video a mask of every frame, as NIfTI with
    the axes columns, rows, frames, and ``frames.csv`` with the areas in every frame. Classification and regression
    write ``predictions.csv``, one row for each unit that the model decides on (window, event, recording or patient). A
    file that cannot be used is listed in ``rejected.csv`` and the others go on.

    Args:
        run: of `medssl finetune` (or a folder with model.json).
        source: a file, a DICOM folder, or a folder of many.
        out: folder to write.
        format: of masks: nifti, or dicom-seg for DICOM sources; ``auto`` takes what the source is. csv for tables.
        recipe: how the files of a folder are found: ``auto``, ``folder``, ``dicom``, or any other recipe.
        options: of the recipe, e.g. ``rate_hz`` of files that do not say it themselves.

    Returns:
        Counts, and what was written.

    Raises:
        MedSSLError: no model, nothing to predict, or every file was refused (rejected.csv says why).
    """
    model = load_model(run)
    segmenting = model.target["task"] == "segmentation"
    if format != "auto" and segmenting == (format == "csv"):
        allowed = "nifti, dicom-seg" if segmenting else "csv"
        raise ConfigError(f"a {model.target['task']} model does not write {format}; choose {allowed} or auto")
    if format == "dicom-seg" and model.inputs.kind == "video":
        raise ConfigError("masks of video are written as NIfTI, not as dicom-seg; choose nifti or auto")
    items = list(items_of_source(source, model.inputs.kind, recipe, options or {}))
    if not items:
        raise MedSSLError(f"'{source}' holds no {model.inputs.kind} file; give a file, or a folder of them")
    out.mkdir(parents=True, exist_ok=True)
    job = _Prediction(model, out, format)
    with track(len(items), "predicting", unit="files") as progress:
        for reader, item in items:
            job.take(reader, item)
            progress.advance(note=f"{len(job.rejected)} rejected")
    return job.finish(source)


class _Prediction:
    """One call of ``predict``: collects rows and rejections, writes masks as they come."""

    def __init__(self, model: Model, out: Path, format: Format) -> None:
        self.model = model
        self.out = out
        self.format = format
        self.preparation: Preparation = _preparation(model)
        stored = model.testing
        self.testing = Testing(**{**stored, "size": tuple(stored["size"])})
        self.rows: list[Row] = []
        self.frames: list[Row] = []
        self.n_recordings = 0
        self.rejected: list[Rejected] = []
        self.written: list[str] = []
        self.of_patients: dict[str, list[tuple[Recording, Tensor]]] = {}

    def take(self, recipe: Recipe | None, item: Item | Rejected) -> None:
        """Predict one input; whatever is wrong with it ends in ``rejected``."""
        if isinstance(item, Rejected):
            self.rejected.append(item)
            return
        assert recipe is not None
        try:
            recordings, refused = recipe.read(item)
            self.rejected += refused
            for recording in recordings:
                self._one(recording)
        except UnreadableRecording as error:
            self.rejected.append(Rejected(item.source, error.reason))
        except MedSSLError as error:
            self.rejected.append(Rejected(item.source, str(error)))
        except Exception as error:  # one damaged file must not stop the others; it is listed with its fault
            self.rejected.append(Rejected(item.source, f"{type(error).__name__}: {error}"))

    def _one(self, recording: Recording) -> None:
        prepared = self.preparation(recording)
        segmenting = self.model.target["task"] == "segmentation"
        if segmenting and self.model.inputs.kind == "video":
            with applied(self.model.head, self.testing.precision):
                self._write_clip_mask(recording, prepared)
            self.n_recordings += 1
            return
        image = self._network_input(prepared)
        with applied(self.model.head, self.testing.precision):
            if segmenting:
                self._write_mask(recording, prepared, segment(self.model.head, image, self.testing).cpu().numpy())
            else:
                self.rows += self._answers(recording, prepared, image)
        self.n_recordings += 1

    def _network_input(self, prepared: Prepared) -> NDArray[np.float32]:
        """(C, *shape) float32, channels in the model's order."""
        return _to_input(prepared, self._channels(prepared), prepared.image)

    def _channels(self, prepared: Prepared) -> list[int]:
        """The recording's channels in the model's order."""
        seen = CohortInfo(
            kind=self.model.inputs.kind,  # type: ignore[arg-type]
            modality="", recipe="", channels=prepared.channels, rate_hz=prepared.rate_hz,
            spacing_mm=prepared.spacing_mm if self.model.inputs.spacing_mm else None,
        )  # fmt: skip
        matched = match_input(self.model.inputs, seen, name="the recording")
        return list(range(len(prepared.channels))) if matched.channels is None else list(matched.channels)

    def _write_clip_mask(self, recording: Recording, prepared: Prepared) -> None:
        """A mask of every frame, a row of areas a frame, and one row of the clip."""
        chosen = self._channels(prepared)
        target = self.model.target
        file = self.out / f"{_file_name(recording)}.nii.gz"
        found = segment_clip(
            self.model.head, recording, prepared, lambda part: _to_input(prepared, chosen, part), self.testing,
            values=dict(zip(target["values"], target["classes"], strict=True)), file=file,
        )  # fmt: skip
        self.written.append(file.name)
        self.frames += [{"recording": recording.ids.recording, "mask": file.name, **row} for row in found.frames]
        about = {"mask": file.name, "frames": len(found.frames), "mean_confidence": found.mean_confidence}
        # what the preparation left out says why frames have no mask
        self.rows.append({**_ids(recording.with_(notes=prepared.notes)), **about})

    def _write_mask(self, recording: Recording, prepared: Prepared, probabilities: NDArray[np.float32]) -> None:
        from medssl.adapters.masks import resample_labels_to, write_mask

        assert prepared.affine is not None
        classes = resample_labels_to(probabilities, prepared.affine, recording)
        values = np.array(self.model.target["values"])
        labels = values.astype(np.uint8 if values.max() < 256 else np.uint16)[classes]
        names = dict(zip(self.model.target["values"], self.model.target["classes"], strict=True))
        described = {int(v): n for v, n in names.items() if v}
        file = self.out / f"{_file_name(recording)}{self._suffix(recording)}"
        try:
            write_mask(file, labels, recording, names=described)
        except MedSSLError as error:
            if self.format != "auto" or file.suffix != ".dcm":
                raise
            recording = recording.noted(f"written as NIfTI: {error}")  # the mask itself is sound
            file = self.out / f"{_file_name(recording)}.nii.gz"
            write_mask(file, labels, recording, names=described)
        self.written.append(file.name)
        certain = float(probabilities.max(0).mean())
        voxels = np.bincount(labels.ravel(), minlength=int(values.max()) + 1)
        volume_ml = float(np.prod(recording.spacing_mm or (1.0, 1.0, 1.0))) / 1000
        sizes = {f"ml/{n}": float(voxels[v]) * volume_ml for v, n in names.items() if v}
        self.rows.append({**_ids(recording), "mask": file.name, **sizes, "mean_confidence": certain})

    def _suffix(self, recording: Recording) -> str:
        dicom = self.format == "dicom-seg" or (self.format == "auto" and _is_dicom(recording))
        return ".dcm" if dicom else ".nii.gz"

    def _answers(self, recording: Recording, prepared: Prepared, image: NDArray[np.float32]) -> list[Row]:
        if self.model.target["source"] == "event":
            return self._event_answers(recording, prepared, image)
        if self.testing.level == "window":
            return self._window_answers(recording, prepared, image)
        starts = self.testing.rule.starts(image.shape[1:], self.testing.size, self.testing.windows)
        windows = LazyWindows(lambda start: self._window(prepared, image, start), starts)
        found = predict_windows(self.model.head, windows, self.testing.batch)
        logits = self.model.head.per_item(found, [len(windows)])
        if self.testing.level == "patient":
            self.of_patients.setdefault(recording.ids.patient, []).append((recording, logits[0]))
            return []
        answer = self.model.head.probabilities(logits).double().numpy()[0]
        return [{**_ids(recording), **_as_row(self.model.target, answer), "windows": len(windows)}]

    def _window_answers(self, recording: Recording, prepared: Prepared, image: NDArray[np.float32]) -> list[Row]:
        """One row a window, at the places that were decided in testing."""
        length, rate = self.testing.decided, float(prepared.rate_hz or 1.0)
        decided = [start for (start,) in fixed_starts(image.shape[1:], (length,), self.testing.windows)]
        starts = [(start + length // 2 - self.testing.size[0] // 2,) for start in decided]
        windows = [self._window(prepared, image, start) for start in starts]
        found = predict_windows(self.model.head, windows, self.testing.batch)
        answers = self.model.head.probabilities(found).double().numpy()
        return [
            {**_ids(recording), "time_s": start / rate, **_as_row(self.model.target, a)}
            for start, a in zip(decided, answers, strict=True)
        ]

    def _patient_answers(self) -> list[Row]:
        """One row a patient: the mean over the recordings, as in testing."""
        rows = []
        for patient, parts in self.of_patients.items():
            logits = torch.stack([answer for _, answer in parts]).mean(0, keepdim=True)
            answer = self.model.head.probabilities(logits).double().numpy()[0]
            about = [_ids(recording) for recording, _ in parts]
            seen = {
                k: "; ".join(dict.fromkeys(str(a[k]) for a in about if a[k])) for k in ("source", "recording", "notes")
            }
            rows.append({"patient": patient, **seen, **_as_row(self.model.target, answer), "recordings": len(parts)})
        return rows

    def _event_answers(self, recording: Recording, prepared: Prepared, image: NDArray[np.float32]) -> list[Row]:
        """One row an annotated event; without annotations one for every epoch, or half window of single moments."""
        size, rate = self.testing.size[0], float(prepared.rate_hz or 1.0)
        name = self.model.target["name"]
        times = [(e.onset_s, e.duration_s) for e in prepared.events if e.kind == name]
        if not times:
            recording = recording.noted(f"no '{name}' events in the file: windows at regular times")
            times = self._regular_times(image.shape[1] / rate, size / rate)
        starts = [(event_start(onset + duration / 2, rate, size),) for onset, duration in times]
        windows = [self._window(prepared, image, start) for start in starts]
        found = predict_windows(self.model.head, windows, self.testing.batch)
        onsets = np.array([onset for onset, _ in times])
        logits = answers_of(self.model.head, found, [1] * len(windows), onsets, self.testing)
        answers = self.model.head.probabilities(logits).double().numpy()
        return [
            {**_ids(recording), "time_s": t, **_as_row(self.model.target, a)}
            for (t, _), a in zip(times, answers, strict=True)
        ]

    def _regular_times(self, length_s: float, window_s: float) -> list[tuple[float, float]]:
        """(onset, duration) of the epochs that fit into a recording; of moments half a window apart for other models.

        Raises:
            ConfigError: not one epoch fits.
        """
        epoch = self.testing.spacing_s
        if not epoch:
            count = max(2, math.ceil(2 * length_s / window_s))
            return [(i * window_s / 2, 0.0) for i in range(1, count)]
        count = math.floor(length_s / epoch + 1e-6)
        if not count:
            raise ConfigError(f"{length_s:g} s are shorter than one epoch of {epoch:g} s; leave this recording out")
        return [(i * epoch, epoch) for i in range(count)]

    def _window(self, prepared: Prepared, image: NDArray[np.float32], start: Sequence[int]) -> NDArray[np.float32]:
        """Beyond the edge the same values as in training: those of ``fill``."""
        size, step = self.testing.rule.span(self.testing.size), self.testing.period
        inside = cut(image, start, size, 0)
        if inside.base is image or prepared.fill == 0 == float(np.abs(prepared.input_offset).max()):
            return inside[:, ::step]
        outside = cut(np.ones((1, *image.shape[1:]), dtype=bool), start, size, 0)
        low, high = prepared.input_range
        fill = np.clip(prepared.fill * prepared.input_scale + prepared.input_offset, low, high).astype(np.float32)
        tail = (1,) * (image.ndim - 1)
        return np.where(outside, inside, fill[: len(image)].reshape(-1, *tail))[:, ::step]

    def finish(self, source: Path) -> dict[str, Any]:
        """Write the tables; refuse to call it a success when nothing was predicted."""
        self.rows += self._patient_answers()
        _write_csv(self.out / "rejected.csv", [{"source": r.source, "reason": r.reason} for r in self.rejected])
        if not self.rows:
            first = "; ".join(f"{r.source}: {r.reason}" for r in self.rejected[:3])
            raise MedSSLError(f"nothing of '{source}' could be predicted ({len(self.rejected)} refused): {first}")
        table = "masks.csv" if self.written else "predictions.csv"
        _write_csv(self.out / table, self.rows)
        if self.frames:
            _write_csv(self.out / "frames.csv", self.frames)
        result = {
            "recordings": self.n_recordings, "rejected": len(self.rejected), "table": table,
            "level": self.testing.level, "aggregation": self.model.provenance.get("aggregation"),
            "masks": self.written, "model": dict(self.model.provenance),
        }  # fmt: skip
        write_json(self.out / "summary.json", result)
        print(f"{self.out / table}: {result['recordings']} recordings, {len(self.rejected)} rejected")
        return result


def _to_input(prepared: Prepared, channels: Sequence[int], stored: NDArray[Any]) -> NDArray[np.float32]:
    """Stored integers (all channels, *shape) → network input (C, *shape) float32 of the chosen ones, in order."""
    chosen = list(channels)
    tail = (1,) * (stored.ndim - 1)
    x = stored[chosen].astype(np.float32)
    x *= prepared.input_scale[chosen].astype(np.float32).reshape(-1, *tail)
    x += prepared.input_offset[chosen].astype(np.float32).reshape(-1, *tail)
    return np.clip(x, *np.array(prepared.input_range, dtype=np.float32), out=x)


def _preparation(model: Model) -> Preparation:
    from medssl.cohort import fmri, signals, volumes  # noqa: F401 - defines the classes that may be named

    settings = json.loads(json.dumps(dict(model.inputs.preparation)))
    arguments = settings.setdefault("init_args", {})
    # a cohort of one voxel size or rate may have been prepared without changing it; a new file may have another
    rate_hz = model.inputs.rate_hz
    stored = (("spacing_mm", model.inputs.spacing_mm), ("rate_hz", rate_hz), ("tr_s", 1 / rate_hz if rate_hz else None))
    for name, value in stored:
        if value is not None and name in arguments and arguments[name] is None:
            arguments[name] = list(value) if isinstance(value, tuple) else value
    return build(settings, Preparation)  # type: ignore[type-abstract]


def _is_dicom(recording: Recording) -> bool:
    path = Path(recording.source)
    return path.is_dir() or path.suffix.lower() in (".dcm", ".ima")


def _file_name(recording: Recording) -> str:
    name = recording.ids.recording or Path(recording.source).name.split(".")[0]
    return re.sub(r"[^\w.-]+", "_", name)


def _ids(recording: Recording) -> Row:
    return {
        "source": recording.source, "patient": recording.ids.patient, "recording": recording.ids.recording,
        "notes": "; ".join(recording.notes),
    }  # fmt: skip


def _as_row(target: Mapping[str, Any], answer: NDArray[np.float64]) -> Row:
    """Prediction, probabilities, and their entropy in bits (0 certain, log2 K undecided) as the uncertainty."""
    if target["task"] == "regression":
        return {"prediction": float(answer)}
    classes = list(target["classes"])
    p = np.clip(answer, 1e-12, 1.0)
    if target["multilabel"]:
        entropy = float(-(p * np.log2(p) + (1 - answer) * np.log2(np.clip(1 - answer, 1e-12, 1))).mean())
        chosen = "|".join(c for c, share in zip(classes, answer, strict=True) if share > 0.5)
    else:
        entropy, chosen = float(-(p * np.log2(p)).sum()), classes[int(answer.argmax())]
    shares = {f"p/{c}": float(share) for c, share in zip(classes, answer, strict=True)}
    return {"prediction": chosen, **shares, "entropy_bits": entropy}


def _write_csv(file: Path, rows: Sequence[Row]) -> None:
    import io

    text = io.StringIO()
    columns = list(dict.fromkeys(k for row in rows for k in row)) or ["source", "reason"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(file, text.getvalue())
