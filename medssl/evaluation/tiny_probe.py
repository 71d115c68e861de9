"""How good an encoder's features are for a task, in seconds and without test patients: a cross-validated linear probe
on a few labelled items of development patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.metrics.catalogue import HEADLINE
from medssl.evaluation.probes import Scaler

if TYPE_CHECKING:
    from medssl.evaluation.frozen import Frozen
    from medssl.training.targets import Target

__all__ = ["Probe", "few_items", "probe_metric", "tiny_probe"]

FOLDS = 5
PER_CLASS = 20  # items of a class that one patient gives
ALPHAS = np.logspace(-2, 4, 7)


@dataclass(frozen=True)
class Probe:
    """What a tiny probe found.

    Attributes:
        value: of ``metric``, over all patients, each answered by a probe of others.
        metric: macro-F1 (of voxels, in equal numbers of every class, for masks) or mean absolute error.
        patients: labelled ones that it rests on.
    """

    value: float
    metric: str
    patients: int


def probe_metric(task: str) -> str:
    """By which metric tiny probes are compared."""
    return "macro_f1" if task == "segmentation" else HEADLINE[task]


def tiny_probe(encoder: Frozen, target: Target, items: NDArray[np.int64], *, seed: int = 0) -> Probe:
    """Score frozen features by cross-validation over patients.

    The probe is ridge regression, of one-hot classes where there are any: it takes a second where logistic regression
    with a search for its strength takes minutes.

    Args:
        encoder: as it is.
        target: what is to be predicted.
        items: labelled ones of development patients; at most 20 of a class and patient are used.
        seed: of items, folds and voxels.
    """
    if target.task == "segmentation":
        from medssl.evaluation.voxel_probe import voxel_samples

        samples = voxel_samples(encoder, target, items, seed=seed)
        x, y, patients = samples.x, samples.y, target.patients[samples.items]
    else:
        items = few_items(target, items, seed)
        x, y, patients = encoder.features(target, items), target.y[items], target.patients[items]
    answers = _cross_validated(x, y, patients, len(target.classes), seed)
    metric = probe_metric(target.task)
    return Probe(_value(answers, y, target, metric), metric, len(set(patients)))


def few_items(target: Target, items: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most 20 items of every class of every patient (of every patient where there are no exclusive classes)."""
    exclusive = target.task == "classification" and not target.multilabel
    drawn = np.random.default_rng(seed).permutation(items)
    kind = target.y[drawn] if exclusive else np.zeros(len(drawn), dtype=np.int64)
    groups = np.unique(np.stack([target.patients[drawn].astype(str), kind.astype(str)]), axis=1, return_inverse=True)[1]
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return np.sort(drawn[order[place < PER_CLASS]])


def _cross_validated(
    x: NDArray[np.float32], y: NDArray[Any], patients: NDArray[Any], classes: int, seed: int
) -> NDArray[np.float64]:
    """Answers to all rows, each by a probe of other patients; as many folds as patients if there are few."""
    everyone = np.random.default_rng(seed).permutation(sorted(set(patients)))
    answers = np.zeros((len(x), classes) if classes else len(x))
    for fold in np.array_split(everyone, min(FOLDS, len(everyone))):
        asked = np.isin(patients, fold)
        answers[asked] = _ridge(x[~asked], y[~asked], x[asked], classes)
    return answers


def _ridge(
    train: NDArray[np.floating], y: NDArray[Any], test: NDArray[np.floating], classes: int
) -> NDArray[np.float64]:  # fmt: skip
    """Classes as one-hot rows, shares of labels that occur together, or numbers where ``classes`` is 0."""
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV

    scaler = Scaler.fit(train)
    if classes and y.ndim == 1:
        fitted = RidgeClassifierCV(alphas=ALPHAS, class_weight="balanced").fit(scaler(train), y)
        return np.asarray(np.eye(classes)[fitted.predict(scaler(test))])
    answers = np.asarray(RidgeCV(alphas=ALPHAS).fit(scaler(train), y).predict(scaler(test)))
    return answers.clip(0, 1) if classes else answers


def _value(answers: NDArray[np.float64], y: NDArray[Any], target: Target, metric: str) -> float:
    from medssl.evaluation.metrics import classification_metrics, multilabel_metrics

    if target.task == "regression":
        return float(np.abs(answers - y).mean())
    score = multilabel_metrics if target.multilabel else classification_metrics
    return float(score(answers, y, target.classes)[metric])
