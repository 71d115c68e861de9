"""Probes on features whose use is known."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.evaluation import probes
from medssl.evaluation.probes import Scaler, knn_predict, linear_predict


def blobs(n: int = 120, seed: int = 0, signal: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 8))
    x[:, :3] += signal * np.eye(3)[y]
    return x * 40 + 1000, y, np.repeat(np.arange(n // 6), 6)


@pytest.mark.parametrize("predict", ["linear", "knn"])
def test_separable_classes_are_found(predict: str) -> None:
    (x, y, patients), (x_test, y_test, _) = blobs(signal=4), blobs(seed=1, signal=4)
    if predict == "linear":
        p = linear_predict(x, y, patients, x_test, task="classification", classes=3)
    else:
        centre = x.mean(0)
        p = knn_predict(x - centre, y, x_test - centre, task="classification", classes=3)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p.argmax(1) == y_test).mean() > 0.9


def test_useless_features_lead_to_a_weak_probe() -> None:
    x, y, patients = blobs(signal=0)
    p = linear_predict(x, y, patients, x, task="classification", classes=3)
    assert p.max(1).mean() < 0.6, "cross-validation by patients must have chosen strong regularisation"


def test_a_class_missing_from_the_budget_gets_no_probability() -> None:
    x, y, patients = blobs()
    keep = y != 1
    p = linear_predict(x[keep], y[keep], patients[keep], x, task="classification", classes=3)
    assert (p[:, 1] == 0).all() and np.allclose(p.sum(1), 1)


def test_a_single_class_is_a_constant_answer() -> None:
    x, _, patients = blobs()
    p = linear_predict(x, np.full(len(x), 2), patients, x[:5], task="classification", classes=3)
    np.testing.assert_array_equal(p, np.tile([0, 0, 1], (5, 1)))


def test_labels_that_occur_together_are_probed_one_by_one() -> None:
    x, y, patients = blobs(signal=4)
    both = np.stack([y == 0, y != 2, np.zeros(len(y))], axis=1).astype(float)
    p = linear_predict(x, both, patients, x, task="classification", classes=3)
    assert ((p[:, :2] > 0.5) == both[:, :2]).mean() > 0.9 and (p[:, 2] == 0).all()
    assert knn_predict(x, both, x, task="classification", classes=3).shape == (len(x), 3)


@pytest.mark.parametrize("predict", ["linear", "knn"])
def test_regression(predict: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 5))
    y = 50 + 10 * x[:, 0]
    if predict == "linear":
        got = linear_predict(x[:150], y[:150], np.arange(150) // 3, x[150:], task="regression")
        assert np.abs(got - y[150:]).mean() < 0.5
    else:
        got = knn_predict(x[:150], y[:150], x[150:], task="regression", k=5)
        assert np.corrcoef(got, y[150:])[0, 1] > 0.6


def test_no_fold_ever_holds_a_patient_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, patients = blobs(60)
    x[:, 0] = patients  # lets the spy see whose rows it gets
    seen: list[tuple[set[float], set[float]]] = []
    real = probes._logistic_error

    def spy(a: np.ndarray, y_a: np.ndarray, b: np.ndarray, y_b: np.ndarray, s: float, *, classes: int) -> float:
        seen.append((set(a[:, 0]), set(b[:, 0])))
        return real(a, y_a, b, y_b, s, classes=classes)

    monkeypatch.setattr(probes, "_logistic_error", spy)
    linear_predict(x, y, patients, x, task="classification", classes=3)
    assert len(seen) == 5 * len(probes.STRENGTHS)
    assert all(not trained & held for trained, held in seen)


def test_constant_dimensions_are_dropped_and_test_rows_do_not_move_the_scale() -> None:
    x = np.array([[1.0, 5, 0], [3, 5, 1]])
    scaler = Scaler.fit(x)
    np.testing.assert_array_equal(scaler.keep, [True, False, True])
    np.testing.assert_allclose(scaler(np.array([[2.0, 99, 0.5]])), [[0, 0]])


def test_many_rows_arethinned_patient_by_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_ITEMS", 50)
    patients = np.repeat(["a", "b", "c"], [1000, 10, 30])
    kept = patients[probes.thinned(patients, seed=0)]
    assert {p: int((kept == p).sum()) for p in "abc"} == {"a": 20, "b": 10, "c": 20}
