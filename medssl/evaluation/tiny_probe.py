"""How good an encoder's features are for a task, in seconds and without test patients: a cross-validated linear probe
on a few labelled development patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.metrics.catalogue import HEADLINE
from medssl.evaluation.probes import Scaler, linear_predict

if TYPE_CHECKING:
    from medssl.evaluation.frozen import Frozen
    from medssl.training.targets import Target

__all__ = ["Probe", "probe_metric", "tiny_probe"]

FOLDS = 5
Predict = Callable[[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.float64]]


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

    Args:
        encoder: as it is.
        target: what is to be predicted.
        items: labelled ones of development patients.
        seed: of folds and voxels.
    """
    if target.task == "segmentation":
        from medssl.evaluation.voxel_probe import voxel_samples

        samples = voxel_samples(encoder, target, items, seed=seed)
        x, y, patients = samples.x, samples.y, target.patients[samples.items]
        predict: Predict = partial(_ridge_classes, classes=len(target.classes))
    else:
        x, y, patients = encoder.features(target, items), target.y[items], target.patients[items]
        task: Any = "regression" if target.task == "regression" else "classification"
        predict = partial(linear_predict, task=task, classes=len(target.classes), seed=seed)
    answers = _cross_validated(x, y, patients, predict, seed)
    metric = probe_metric(target.task)
    return Probe(_value(answers, y, target, metric), metric, len(set(patients)))


def _cross_validated(
    x: NDArray[np.float32], y: NDArray[Any], patients: NDArray[Any], predict: Predict, seed: int
) -> NDArray[np.float64]:
    """Answers to all rows, each by a probe of other patients; as many folds as patients if there are few."""
    everyone = np.random.default_rng(seed).permutation(sorted(set(patients)))
    answers: NDArray[np.float64] | None = None
    for fold in np.array_split(everyone, min(FOLDS, len(everyone))):
        asked = np.isin(patients, fold)
        given = ~asked
        found = predict(x[given], y[given], patients[given], x[asked])
        if answers is None:
            answers = np.zeros((len(x), *found.shape[1:]))
        answers[asked] = found
    assert answers is not None  # there is a fold, since there is a patient
    return answers


def _ridge_classes(
    train: NDArray[np.floating], y: NDArray[Any], patients: NDArray[Any], test: NDArray[np.floating], *, classes: int
) -> NDArray[np.float64]:
    """Classes by least squares, one-hot (m, K): voxels are many, and logistic regression of them takes minutes."""
    from sklearn.linear_model import RidgeClassifierCV

    scaler = Scaler.fit(train)
    fitted = RidgeClassifierCV(alphas=np.logspace(-2, 4, 7)).fit(scaler(train), y)
    return np.asarray(np.eye(classes)[fitted.predict(scaler(test))])


def _value(answers: NDArray[np.float64], y: NDArray[Any], target: Target, metric: str) -> float:
    from medssl.evaluation.metrics import classification_metrics, multilabel_metrics

    if target.task == "regression":
        return float(np.abs(answers - y).mean())
    score = multilabel_metrics if target.multilabel else classification_metrics
    return float(score(answers, y, target.classes)[metric])
