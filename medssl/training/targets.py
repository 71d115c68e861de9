"""What is to be predicted: a mask, a label column or a kind of event of a cohort, as items with their true value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.cohort import Cohort, CohortInfo
from medssl.cohort.videos import TRACE
from medssl.errors import CohortError, ConfigError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Target", "Task", "Trace", "Unit", "event_start", "every_recording", "label_sets", "resolve_target"]

Task = Literal["segmentation", "classification", "regression"]
Unit = Literal["window", "recording", "patient"]


class Trace(NamedTuple):
    """An annotated frame of a video.

    Attributes:
        frame: its number, from 0.
        phase: ``"ED"`` the largest, ``"ES"`` the smallest outline of its clip, else what the recipe said.
    """

    frame: int
    phase: str


@dataclass(frozen=True)
class Target:
    """The labelled items of a cohort.

    Attributes:
        cohort: where they come from.
        task: segmentation, classification or regression.
        name: of the mask, label column or event kind.
        source: which of the three it is.
        classes: names; background first for masks; empty for regression.
        values: stored mask value of each class; empty for labels and events.
        multilabel: an item may have several classes at once.
        rows: (n,) manifest row of each item.
        y: (n,) class index, (n, K) 0/1 for multilabel, (n,) number for regression; (n,) zeros for masks.
        onset_s: (n,) time at which each event (or window) begins; None where an item is a whole recording.
        patients: (n,) whose the item is.
        duration_s: (n,) how long each event (or window) lasts; 0 for an event that is a moment. None as ``onset_s``.
        level: what an item is: a window (an event is one), a recording or a patient.
        traces: (n,) annotated frames of each recording, for masks of video: of all others the mask says nothing. None
            where masks say something of every voxel, and for other targets.
    """

    cohort: Cohort
    task: Task
    name: str
    source: Literal["mask", "label", "event"]
    classes: tuple[str, ...]
    values: tuple[int, ...]
    multilabel: bool
    rows: NDArray[np.int64]
    y: NDArray[Any]
    onset_s: NDArray[np.float64] | None
    patients: NDArray[Any]
    duration_s: NDArray[np.float64] | None = None
    level: Unit = "recording"
    traces: tuple[tuple[Trace, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epoch_s(self) -> float | None:
        """How long an event lasts, where all last equally long (sleep stages); None for moments and other targets."""
        if self.source != "event" or self.duration_s is None or not len(self.duration_s):
            return None
        shortest, longest = float(self.duration_s.min()), float(self.duration_s.max())
        return longest if shortest > 0 and longest - shortest <= 0.01 * longest else None

    @property
    def are_moments(self) -> bool:
        """Whether the items are events without a length of their own (beats, not epochs)."""
        return self.source == "event" and self.epoch_s is None

    @property
    def has_connectivity(self) -> bool:
        """Whether functional connectivity describes the items: runs of functional MRI, or windows or epochs of them."""
        info = self.cohort.info
        return info.modality == "fmri" and info.kind == "signal" and not self.are_moments

    @property
    def are_runs(self) -> bool:
        """Whether the items are runs of functional MRI, of which connectivity wants every volume, unlike of epochs."""
        return self.has_connectivity and self.source != "event"

    def starts(self, items: NDArray[np.int64], size: int) -> list[int]:
        """First samples of windows of ``size`` samples around the middle of events (or windows) of a signal."""
        rate = self.cohort.info.rate_hz
        assert self.onset_s is not None and self.duration_s is not None and rate is not None  # they belong to signals
        middles = self.onset_s[items] + np.nan_to_num(self.duration_s[items]) / 2
        return [event_start(float(m), rate, size) for m in middles]

    def items_of(self, patients: Collection[str]) -> NDArray[np.int64]:
        """Indices of the items of these patients, in the order of the cohort."""
        wanted = set(patients)
        return np.flatnonzero([p in wanted for p in self.patients])

    def describe(self) -> dict[str, Any]:
        """Plain data for model.json and summaries."""
        return {
            "task": self.task, "name": self.name, "source": self.source, "classes": list(self.classes),
            "values": list(self.values), "multilabel": self.multilabel,
        }  # fmt: skip


def event_start(middle_s: float, rate_hz: float, size: int) -> int:
    """First sample of a window of ``size`` around a moment."""
    return round(middle_s * rate_hz) - size // 2


def every_recording(cohort: Cohort) -> Target:
    """All recordings as items without a truth, for what reads a cohort as targets are read."""
    rows = np.arange(len(cohort))
    return Target(
        cohort, "regression", "", "label", (), (), False, rows, np.zeros(len(rows), dtype=np.float32), None,
        cohort.manifest["patient"].to_numpy(dtype=object),
    )  # fmt: skip


def resolve_target(cohort: Cohort, task: Task, target: str) -> Target:
    """The items that carry a target.

    Args:
        cohort: a prepared cohort.
        task: a mask serves segmentation; a label column classification or regression; a kind of event classification.
        target: its name; ``NAME:A,B,C`` restricts classification to these classes.

    Raises:
        ConfigError: no such target for this task; the message lists what there is.
        CohortError: no recording carries it.
    """
    name, _, only = target.partition(":")
    info = cohort.info
    if task == "segmentation" and name in info.masks:
        found = _masks(cohort, name)
    elif task == "classification" and info.labels.get(name) in ("class", "multilabel", "number"):
        found = _classes(cohort, name, only)
    elif task == "classification" and name in info.events:
        found = _events(cohort, name, only)
    elif task == "regression" and info.labels.get(name) == "number":
        found = _numbers(cohort, name)
    else:
        raise ConfigError(_unknown(info, task, name))
    if not len(found):
        raise CohortError(f"no recording of '{cohort.path}' has the target '{target}'; prepare it with its labels")
    return found


def _unknown(info: CohortInfo, task: Task, name: str) -> str:
    numbers = [n for n, kind in info.labels.items() if kind == "number"]
    fitting: Mapping[Task, list[str]] = {
        "segmentation": sorted(info.masks),
        "classification": sorted([*info.labels, *info.events]),
        "regression": sorted(numbers),
    }
    elsewhere = [t for t, names in fitting.items() if name in names]
    if elsewhere:
        return f"target '{name}' does not suit {task}; it suits {' and '.join(elsewhere)}"
    there = ", ".join(fitting[task]) or "none"
    return f"the cohort has no {task} target '{name}'; it has: {there}"


def _masks(cohort: Cohort, name: str) -> Target:
    labels = sorted((int(value), label) for value, label in cohort.info.masks[name].items() if int(value) != 0)
    manifest = cohort.manifest
    rows = np.flatnonzero([name in (masks if masks is not None else ()) for masks in manifest["masks"]])
    traces = None
    if cohort.info.kind == "video":
        found = [_traces(cohort, int(row)) for row in rows]
        rows, traces = rows[[bool(t) for t in found]], tuple(t for t in found if t)
        if not len(rows):
            raise CohortError(
                f"no recording of '{cohort.path}' says in which frames '{name}' was traced; prepare it with a recipe "
                f"that gives events of kind '{TRACE}'"
            )
    return Target(
        cohort, "segmentation", name, "mask", ("background", *(label for _, label in labels)),
        (0, *(value for value, _ in labels)), False, rows, np.zeros(len(rows), dtype=np.int64), None,
        manifest["patient"].to_numpy(dtype=object)[rows], traces=traces,
    )  # fmt: skip


def _traces(cohort: Cohort, row: int) -> tuple[Trace, ...]:
    """The annotated frames of a video, each once, in order.

    Raises:
        CohortError: one lies outside the video.
    """
    reader = cohort.reader(row)
    found: dict[int, str] = {}
    for onset_s, phase in reader.events(TRACE)[["onset_s", "value"]].itertuples(index=False):
        frame = round(float(onset_s) * (reader.rate_hz or 1.0))
        if not 0 <= frame < reader.shape[0]:
            raise CohortError(
                f"recording {reader.recording} has a traced frame at {onset_s:g} s, outside its {reader.shape[0]} "
                f"frames; correct its source and prepare '{cohort.path}' again"
            )
        found.setdefault(frame, str(phase))
    return tuple(Trace(frame, found[frame]) for frame in sorted(found))


def label_sets(cohort: Cohort, name: str) -> tuple[NDArray[np.int64], list[list[str]]]:
    """(rows, classes of each): the recordings whose label is known; one class each, or any number at once."""
    column = _column(cohort, name)
    rows = np.flatnonzero(_known(column))
    several = cohort.info.labels[name] == "multilabel"
    values = [column.iloc[r] for r in rows]
    return rows, [[_class_name(v) for v in (value if several else [value])] for value in values]


def _classes(cohort: Cohort, name: str, only: str) -> Target:
    rows, per_item = label_sets(cohort, name)
    multilabel = cohort.info.labels[name] == "multilabel"
    classes = _chosen(sorted({v for item in per_item for v in item}, key=_natural), only, name)
    index = {c: i for i, c in enumerate(classes)}
    if multilabel:
        y: NDArray[Any] = np.zeros((len(rows), len(classes)), dtype=np.float32)
        for i, item in enumerate(per_item):
            y[i, [index[v] for v in item if v in index]] = 1
    else:
        keep = np.array([item[0] in index for item in per_item], dtype=bool)
        rows = rows[keep]
        y = np.array([index[item[0]] for item, k in zip(per_item, keep, strict=True) if k], dtype=np.int64)
    return Target(
        cohort, "classification", name, "label", classes, (), multilabel, rows, y, None,
        cohort.manifest["patient"].to_numpy(dtype=object)[rows],
    )  # fmt: skip


def _numbers(cohort: Cohort, name: str) -> Target:
    column = _column(cohort, name)
    rows = np.flatnonzero(_known(column))
    y = column.iloc[rows].to_numpy(dtype=np.float32)
    return Target(
        cohort, "regression", name, "label", (), (), False, rows, y, None,
        cohort.manifest["patient"].to_numpy(dtype=object)[rows],
    )  # fmt: skip


def _events(cohort: Cohort, name: str, only: str) -> Target:
    classes = _chosen(sorted(cohort.info.events[name], key=_natural), only, name)
    index = {c: i for i, c in enumerate(classes)}
    events = cohort.events
    events = events[(events["kind"] == name) & events["value"].isin(index)]
    row_of = {recording: row for row, recording in enumerate(cohort.manifest["recording"])}
    rows = events["recording"].map(row_of).to_numpy(dtype=np.int64)
    return Target(
        cohort, "classification", name, "event", classes, (), False, rows,
        events["value"].map(index).to_numpy(dtype=np.int64), events["onset_s"].to_numpy(dtype=np.float64),
        cohort.manifest["patient"].to_numpy(dtype=object)[rows],
        duration_s=events["duration_s"].to_numpy(dtype=np.float64), level="window",
    )  # fmt: skip


def _column(cohort: Cohort, name: str) -> pd.Series[Any]:
    return cohort.manifest[f"label_{name}"]


def _known(column: pd.Series[Any]) -> NDArray[np.bool_]:
    return np.array([isinstance(v, (list, tuple)) or (v is not None and v == v) for v in column], dtype=bool)


def _class_name(value: Any) -> str:
    """A class as text; 1.0 (how a column with gaps holds 1) and 1 are the same."""
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def _natural(name: str) -> tuple[int, float, str]:
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)


def _chosen(present: list[str], only: str, target: str) -> tuple[str, ...]:
    wanted = [c for c in only.split(",") if c] or present
    missing = [c for c in wanted if c not in present]
    if missing:
        raise ConfigError(f"target '{target}' has no class {', '.join(missing)}; it has: {', '.join(present)}")
    if len(wanted) < 2:
        raise ConfigError(f"target '{target}' has {len(wanted)} class ({', '.join(wanted)}); two are needed")
    return tuple(wanted)
