"""On which level a model decides: every window by itself, one answer a recording, or one a patient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl.errors import CohortError, ConfigError
from medssl.evaluation.metrics import mean_logit
from medssl.training.heads import window_samples
from medssl.training.targets import Target, Unit
from medssl.training.windows import fixed_starts

if TYPE_CHECKING:
    from medssl.training.settings import FinetuneSettings

__all__ = ["Decisions", "describe_level", "group_means", "level_of", "make_decisions"]


@dataclass(frozen=True)
class Decisions:
    """What is decided, and from whose answers.

    Attributes:
        target: one item a decision, with its true value: metrics are about these.
        parts: what a model answers; for patients these are their recordings, else ``target`` itself.
        of: (len(parts),) the decision that each part belongs to.
    """

    target: Target
    parts: Target
    of: NDArray[np.int64]

    def parts_of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """The parts of these decisions, in the order of the cohort."""
        return np.flatnonzero(np.isin(self.of, items))

    def joined(self, answers: Tensor, items: NDArray[np.int64]) -> Tensor:
        """One answer a decision: the mean over its parts, each of which counts the same.

        Args:
            answers: (m, ...) logits (or values) of ``parts_of(items)``.
            items: n decisions.

        Returns:
            (n, ...) in the order of ``items``.
        """
        return group_means(answers, self.of[self.parts_of(items)], items)

    def joined_probabilities(self, answers: NDArray[np.float64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """As ``joined``, of probabilities (m, K) or values (m,): their logits are averaged."""
        if self.parts is self.target:
            return answers
        owners = self.of[self.parts_of(items)]
        if self.target.task == "regression":
            return group_means(torch.from_numpy(answers), owners, items).numpy()
        joined, order = mean_logit(answers, owners.tolist(), exclusive=not self.target.multilabel)
        place = {item: i for i, item in enumerate(order)}
        return joined[[place[int(item)] for item in items]]


def group_means(answers: Tensor, owners: NDArray[np.int64], groups: NDArray[np.int64]) -> Tensor:
    """Mean of the answers (m, ...) of each group's members; ``owners`` (m,) says whose they are.

    >>> group_means(torch.tensor([1.0, 3.0, 5.0]), np.array([7, 7, 2]), np.array([2, 7]))
    tensor([5., 2.])
    """
    order = np.argsort(groups, kind="stable")
    place = torch.from_numpy(order[np.searchsorted(groups[order], owners)])
    total = torch.zeros(len(groups), *answers.shape[1:], dtype=answers.dtype).index_add_(0, place, answers)
    counts = torch.bincount(place, minlength=len(groups)).to(answers)
    return total / counts.view(-1, *(1,) * (answers.ndim - 1))


def level_of(target: Target, settings: FinetuneSettings) -> Unit:
    """The level that the settings ask for, or that suits the target where they leave it open.

    Raises:
        ConfigError: a level, aggregation or sequence that the target does not have.
    """
    asked = settings.level
    if settings.sequence and target.source != "event":
        raise ConfigError(
            f"sequence joins events that follow each other, such as sleep stages, but '{target.name}' is a "
            f"{target.source}; leave sequence at 0"
        )
    if asked not in ("auto", target.level) and target.source != "label":
        raise ConfigError(
            f"'{target.name}' is decided for every {'event' if target.source == 'event' else 'recording'} by itself; "
            f"level {asked} is for labels of recordings, leave it at auto"
        )
    if (settings.clip_period > 1 or settings.test_clips == "all") and target.cohort.info.kind != "video":
        raise ConfigError(
            f"clip_period and test_clips are for clips of video, but '{target.cohort.path}' holds "
            f"{target.cohort.info.kind}s; leave them out"
        )
    level: Unit = target.level if asked == "auto" else asked
    if level == "window" and target.cohort.info.kind != "signal":
        raise ConfigError("level window is for signals; volumes and video are decided on level recording or patient")
    if settings.aggregate == "attention" and not (
        target.task == "classification" and target.source == "label" and level != "window"
    ):
        raise ConfigError(
            "attention weighs the windows of a recording, for classification by a label on level recording or patient; "
            "set aggregate to mean"
        )
    return level


def describe_level(level: Unit, target: Target, settings: FinetuneSettings, *, features: bool = False) -> str:
    """How one answer comes about, in a few words for summaries and pages.

    Args:
        level: of ``level_of``.
        target: what is predicted.
        settings: of the fine-tuning.
        features: windows are averaged as features, before the classifier (linear and knn).
    """
    if target.traces is not None:
        return "overlapping clips averaged, tested in annotated frames"
    if target.task == "segmentation":
        return "overlapping windows averaged"
    if settings.sequence:
        return f"sequences of at most {settings.sequence} epochs, overlapping ones averaged by their logits"
    if level == "window":
        return "every window by itself"
    answer = "value" if target.task == "regression" else "logit"
    seen = "all clips of" if settings.test_clips == "all" else f"at most {settings.test_windows} windows"
    within = f"mean {'features' if features else answer} of {seen} a recording"
    if settings.aggregate == "attention":
        within = f"attention over at most {settings.test_windows} windows a recording"
    return within + (f", then the mean {answer} over the patient's recordings" if level == "patient" else "")


def make_decisions(target: Target, settings: FinetuneSettings) -> Decisions:
    """What is decided on the level that the settings ask for.

    The windows of level ``window`` follow from the settings alone, so that all encoders of a study answer the same
    ones; an encoder that needs a longer window sees a little of what is around it.

    Args:
        target: as ``resolve_target`` gives it.
        settings: ``level``, and for windows their length and number.

    Raises:
        ConfigError: see ``level_of``.
        CohortError: a patient whose recordings differ in an exclusive class.
    """
    level = level_of(target, settings)
    if level == target.level:
        return Decisions(target, target, np.arange(len(target)))
    if level == "window":
        parts = _windows(target, round(window_samples(target, settings)), settings.test_windows)
        return Decisions(parts, parts, np.arange(len(parts)))
    return _patients(target)


def _windows(target: Target, size: int, windows: int) -> Target:
    """The fixed windows of every recording as items, each with the label of its recording."""
    rate = target.cohort.info.rate_hz
    if rate is None:
        raise ConfigError("the signals of the cohort have different rates; prepare them with one rate_hz")
    shapes = target.cohort.manifest["shape"]
    starts = [[s[0] for s in fixed_starts(tuple(shapes.iloc[row]), (size,), windows)] for row in target.rows]
    item = np.repeat(np.arange(len(target)), [len(s) for s in starts])
    first = np.concatenate(starts).astype(np.float64)
    return replace(
        target, rows=target.rows[item], y=target.y[item], patients=target.patients[item], onset_s=first / rate,
        duration_s=np.full(len(item), 2 * (size // 2) / rate), level="window",
    )  # fmt: skip


def _patients(target: Target) -> Decisions:
    """Patients as items. Several labels: those of any recording; numbers: their mean; a class: the same everywhere."""
    names, first, of = np.unique(target.patients.astype(str), return_index=True, return_inverse=True)
    y: NDArray[Any]
    if target.multilabel:
        y = np.zeros((len(names), len(target.classes)), dtype=target.y.dtype)
        np.maximum.at(y, of, target.y)
    elif target.task == "regression":
        y = (np.bincount(of, target.y.astype(np.float64)) / np.bincount(of)).astype(target.y.dtype)
    else:
        y = target.y[first]
        differ = np.flatnonzero(y[of] != target.y)
        if len(differ):
            one = int(differ[0])
            raise CohortError(
                f"patient '{target.patients[one]}' has recordings of class {target.classes[int(y[of[one]])]} and of "
                f"{target.classes[int(target.y[one])]} in '{target.name}'; level patient needs one class a patient, "
                "use level recording"
            )
    whole = replace(
        target, rows=target.rows[first], y=y, patients=target.patients[first], onset_s=None, duration_s=None,
        level="patient",
    )  # fmt: skip
    return Decisions(whole, target, of.astype(np.int64))
