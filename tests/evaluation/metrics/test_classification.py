"""Classification metrics against scikit-learn where conventions agree, and on the traps where libraries differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from medssl.evaluation.metrics.classification import (
    auroc,
    classification_metrics,
    confusion_counts,
    macro_from_confusion,
    mean_logit,
    multilabel_metrics,
)


def random_case(n: int = 300, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.2 * np.eye(k)[y]
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), y


def test_agrees_with_scikit_learn_when_every_class_is_there() -> None:
    p, y = random_case()
    got, predicted = classification_metrics(p, y, ["a", "b", "c"]), p.argmax(1)
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert got["kappa"] == pytest.approx(sk.cohen_kappa_score(y, predicted))
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert got["n/a/b"] == sk.confusion_matrix(y, predicted)[0, 1]


def test_two_classes_name_the_positive_one() -> None:
    p, y = random_case(k=2)
    got = classification_metrics(p, y, ["healthy", "ill"])
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(y, p[:, 1]))
    assert got["auprc"] == pytest.approx(sk.average_precision_score(y, p[:, 1]))
    assert got["brier"] == pytest.approx(sk.brier_score_loss(y, p[:, 1]))


def test_a_class_without_a_test_case_is_left_out_of_averages_and_counted() -> None:
    p, y = random_case(k=3)
    keep = y < 2
    p, y = p[keep], y[keep]
    got = classification_metrics(p, y, ["a", "b", "c"])
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y, p.argmax(1), labels=[0, 1], average="macro"))
    assert math.isnan(got["f1/c"])
    assert got["auroc_undefined"] == 1
    assert got["auroc"] == pytest.approx(np.mean([auroc(p[:, k], y == k) for k in (0, 1)]))


def test_one_class_only_has_no_auroc() -> None:
    p, _ = random_case(n=20, k=2)
    got = classification_metrics(p, np.zeros(20, dtype=int), ["a", "b"])
    assert math.isnan(got["auroc"]) and got["auroc_undefined"] == 1


def test_always_answering_the_majority_does_not_look_good() -> None:
    y = np.array([0] * 95 + [1] * 5)
    got = classification_metrics(np.tile([0.9, 0.1], (100, 1)), y, ["common", "rare"])
    assert got["accuracy"] == 0.95
    assert got["balanced_accuracy"] == 0.5
    assert got["macro_f1"] < 0.5
    assert got["auroc"] == 0.5
    assert got["kappa"] == 0


def test_logits_and_diverged_models_are_refused() -> None:
    with pytest.raises(ValueError, match="not probabilities"):
        classification_metrics(np.array([[3.0, -2.0]]), np.array([0]), ["a", "b"])
    with pytest.raises(ValueError, match="NaN"):
        classification_metrics(np.array([[np.nan, 0.5]]), np.array([0]), ["a", "b"])
    with pytest.raises(ValueError, match="class indices"):
        classification_metrics(np.array([[0.5, 0.5]]), np.array([2]), ["a", "b"])


def test_macro_f1_of_many_resamples_equals_one_at_a_time() -> None:
    p, y = random_case()
    predicted = p.argmax(1)
    parts = [slice(i, i + 60) for i in range(0, 300, 60)]
    stacked = np.stack([confusion_counts(predicted[s], y[s], 3) for s in parts])
    one_by_one = [sk.f1_score(y[s], predicted[s], average="macro") for s in parts]
    np.testing.assert_allclose(macro_from_confusion(stacked)[0], one_by_one)


def test_labels_that_occur_together() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random((200, 3)) < [0.4, 0.2, 0]).astype(float)
    p = np.clip(0.3 + 0.4 * y + 0.25 * rng.normal(size=y.shape), 0, 1)
    got = multilabel_metrics(p, y, ["AF", "LBBB", "never"])
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y[:, :2], p[:, :2] > 0.5, average="macro"))
    assert got["auroc"] == pytest.approx(sk.roc_auc_score(y[:, :2], p[:, :2], average="macro"))
    assert got["auroc_undefined"] == 1 and math.isnan(got["f1/never"])
    assert got["tp/AF"] + got["fn/AF"] == y[:, 0].sum()


def test_labels_that_occur_together_get_the_sigmoid_of_their_mean_logit() -> None:
    p, _ = mean_logit(np.array([[0.9, 0.5], [0.5, 0.2]]), ["x", "x"], exclusive=False)
    np.testing.assert_allclose(p, [[0.75, 1 / 3]])  # odds 9 and 1 give 3, odds 1 and 1/4 give 1/2


def test_windows_become_cases_by_their_mean_logit() -> None:
    windows = np.array([[0.99, 0.01], [0.4, 0.6], [0.2, 0.8]])
    p, cases = mean_logit(windows, ["x", "x", "y"])
    assert cases == ["x", "y"]
    odds = math.sqrt(0.99 * 0.4 / (0.01 * 0.6))
    np.testing.assert_allclose(p, [[odds / (1 + odds), 1 / (1 + odds)], [0.2, 0.8]])
