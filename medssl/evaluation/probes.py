"""Frozen-feature protocols: a linear probe and nearest neighbours on features that are computed once an encoder.

The probe sees only patients of the label budget: standardisation, the choice of its strength (patient-grouped
cross-validation inside the budget) and the fit. Protocol: representation quality, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.evaluation.neighbours import class_votes, neighbours, weighted_mean

if TYPE_CHECKING:
    from medssl.encoders.base import Encoder
    from medssl.training.targets import Target
    from medssl.training.windows import ClipRule

__all__ = ["Layer", "Scaler", "features", "knn_predict", "linear_predict", "logistic_probe", "ridge_probe", "thinned"]

Array = NDArray[np.float64]
STRENGTHS: tuple[float, ...] = tuple(10.0**e for e in range(-4, 5))
MOST_ITEMS = (
    4000  # more training items than this are thinned, patient by patient, so that a probe stays a matter of seconds
)


def features(
    encoder: Encoder,
    target: Target,
    items: NDArray[np.int64],
    *,
    size: Sequence[int],
    channels: Sequence[int] | None = None,
    windows: int = 8,
    batch: int = 32,
    device: str = "cpu",
    rule: ClipRule | None = None,
) -> NDArray[np.float32]:
    """Frozen features of labelled items.

    An event gives one window centred on it, with the features of the window's middle beside the pooled ones; a label
    gives the mean over ``windows`` fixed windows of its recording.

    Args:
        encoder: put into evaluation mode here.
        target: labels or events.
        items: indices into ``target``.
        size: crop (z, y, x) or window (samples,) the encoder sees.
        channels: of the cohort, in the encoder's order; None for all.
        windows: most windows of a recording.
        batch: windows encoded at once.
        device: where the encoder runs.
        rule: which clips of a video are seen; None: without gaps, at most ``windows``.

    Returns:
        (len(items), D) float32.
    """
    import torch

    from medssl.training.windows import PLAIN, Recordings

    recordings = Recordings(target.cohort, channels=channels, rows=target.rows[items], cache_gb=0.5)
    encoder = encoder.to(device).eval()
    total: NDArray[np.float32] | None = None
    count = np.zeros(len(items), dtype=np.float32)
    with torch.inference_mode():
        for owners, x in _batches(target, items, recordings, tuple(size), windows, batch, rule or PLAIN):
            pooled = _encode(encoder, torch.from_numpy(x).to(device), centre=target.source == "event")
            if total is None:
                total = np.zeros((len(items), pooled.shape[1]), dtype=np.float32)
            np.add.at(total, owners, pooled)
            np.add.at(count, owners, 1)
    return total / count[:, None] if total is not None else np.zeros((0, encoder.out_dim), dtype=np.float32)


def _encode(encoder: Encoder, x: Any, *, centre: bool) -> NDArray[np.float32]:
    import torch

    from medssl.heads.classification import centre_pool

    found = encoder(x)
    pooled = found.pooled.float()
    if centre:
        pooled = torch.cat([pooled, centre_pool(found.maps[-1], 1 / 3)], dim=1)
    out: NDArray[np.float32] = pooled.cpu().numpy()
    return out


def _batches(
    target: Target,
    items: NDArray[np.int64],
    recordings: Any,
    size: tuple[int, ...],
    windows: int,
    batch: int,
    rule: ClipRule,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(owners (b,), network input (b, C, *size)); items in the order of their recordings, so each is decoded once."""
    owners: list[int] = []
    inputs: list[NDArray[np.float32]] = []
    for position in np.argsort(target.rows[items], kind="stable"):
        item = items[position]
        row = int(target.rows[item])
        if target.onset_s is None:
            starts = rule.starts(recordings.shape(row), size, windows)
        else:
            starts = [(start,) for start in target.starts(np.array([item]), size[0])]
        for start in starts:
            owners.append(int(position))
            inputs.append(recordings.network_input(row, rule.read(recordings, row, start, size)))
            if len(owners) == batch:
                yield np.array(owners), np.stack(inputs)
                owners, inputs = [], []
    if owners:
        yield np.array(owners), np.stack(inputs)


@dataclass(frozen=True)
class Scaler:
    """Standardisation learnt on training rows; dimensions that are constant there are dropped.

    Attributes:
        keep: (D,) dimensions kept.
        mean, std: of the kept ones.
    """

    keep: NDArray[np.bool_]
    mean: Array
    std: Array

    @classmethod
    def fit(cls, x: NDArray[np.floating]) -> Scaler:
        """From training rows (n, D)."""
        mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        keep = std > 1e-8 * np.maximum(1, np.abs(mean))
        return cls(keep, mean[keep], std[keep])

    def __call__(self, x: NDArray[np.floating]) -> Array:
        """Standardised kept dimensions of rows (n, D)."""
        scaled: Array = (x[:, self.keep] - self.mean) / self.std
        return scaled


def linear_predict(
    train: NDArray[np.floating],
    y: NDArray[Any],
    patients: NDArray[Any],
    test: NDArray[np.floating],
    *,
    task: Literal["classification", "regression"],
    classes: int = 0,
    seed: int = 0,
    scaled: bool = False,
) -> Array:
    """Logistic or ridge regression on frozen features, its strength chosen by patients inside the budget.

    Args:
        train: (n, D) features of the budget.
        y: (n,) classes, (n, K) 0/1 of labels that occur together, or (n,) numbers.
        patients: (n,) owners of the rows; folds never split one.
        test: (m, D).
        task: which of the two.
        classes: K.
        seed: of thinning a large training set.
        scaled: the features are centred and scaled as they should be. Where there are more of them than rows, only
            their coordinates in the space of the training rows are looked at, which gives the same answer sooner.

    Returns:
        (m, K) probabilities or (m,) values.
    """
    chosen = thinned(patients, seed)
    train, y, patients = train[chosen], np.asarray(y)[chosen], np.asarray(patients)[chosen]
    if scaled:
        x, x_test = _coordinates(train, test)
    else:
        scaler = Scaler.fit(train)
        x, x_test = scaler(train), scaler(test)
    if not x.shape[1]:  # every dimension is constant: the features say nothing
        x, x_test = np.zeros((len(x), 1)), np.zeros((len(x_test), 1))
    if task == "regression":
        values: Array = ridge_probe(x, y, patients)(x_test)[:, 0]
        return values
    if np.ndim(y) == 2:
        columns = [
            linear_predict(train, y[:, k].astype(int), patients, test, task=task, classes=2, scaled=scaled)
            for k in range(classes)
        ]
        return np.stack([c[:, 1] for c in columns], axis=1)
    return _softmax(logistic_probe(x, y, patients, classes)(x_test))


def _coordinates(train: NDArray[np.floating], test: NDArray[np.floating]) -> tuple[Array, Array]:
    """Rows in an orthonormal basis of the training rows; penalised weights have no part outside that space."""
    x, x_test = train.astype(np.float64), test.astype(np.float64)
    if x.shape[1] <= len(x):
        return x, x_test
    values, vectors = np.linalg.eigh(x @ x.T)
    some = values > 1e-10 * values[-1]
    basis = x.T @ (vectors[:, some] / np.sqrt(values[some]))
    return x @ basis, x_test @ basis


def knn_predict(
    train: NDArray[np.floating],
    y: NDArray[Any],
    test: NDArray[np.floating],
    *,
    task: Literal["classification", "regression"],
    classes: int = 0,
    k: int = 20,
    temperature: float = 0.07,
) -> Array:
    """Nearest neighbours by cosine among the budget's rows; arguments and result as in ``linear_predict``.

    ``k`` is at most half the bank. Bank and queries are different patients by construction of the split.
    """
    found = neighbours(train, test, k=max(1, min(k, len(train) // 2)))
    if task == "regression":
        return weighted_mean(found, y, temperature=temperature)
    if np.ndim(y) == 2:
        return np.stack([weighted_mean(found, y[:, j], temperature=temperature) for j in range(classes)], axis=1)
    return class_votes(found, np.asarray(y, dtype=np.int64), classes=classes, temperature=temperature)


def thinned(patients: NDArray[Any], seed: int, most: int | None = None) -> NDArray[np.intp]:
    """All rows, or about ``most`` (``MOST_ITEMS``) of them with an equal cap a patient."""
    n, most = len(patients), MOST_ITEMS if most is None else most
    if n <= most:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(patients == p) for p in np.unique(patients)]
    sizes = np.array([len(g) for g in groups])
    low, high = 1, int(sizes.max())
    while low < high:  # largest cap that keeps the total within the limit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= most else (low, middle - 1)
    return np.sort(np.concatenate([rng.permutation(g)[:low] for g in groups]))


class Layer(NamedTuple):
    """A linear layer; called, it gives x Wᵀ + b.

    Attributes:
        weight: (K, D).
        bias: (K,).
    """

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        """(n, D) → (n, K)."""
        out: Array = x @ self.weight.T + self.bias
        return out


def logistic_probe(x: Array, y: NDArray[Any], patients: NDArray[Any], classes: int) -> Layer:
    """Logistic regression of classes ``y`` (n,) on ``x`` (n, D), its strength chosen over folds of the patients.

    A class that ``y`` lacks has a bias of minus infinity: it is never likely.
    """
    strength = _best_strength(x, y, patients, partial(_logistic_error, classes=classes))
    return _logistic(x, y, strength, classes)


def ridge_probe(x: Array, y: Array, patients: NDArray[Any], *, most: float = math.inf) -> Layer:
    """Ridge regression of values ``y`` (n,) on ``x`` (n, D), the strength (1 / alpha) chosen over folds of patients.

    Args:
        x: features.
        y: values.
        patients: (n,) owners.
        most: the largest strength there may be.
    """
    return _ridge(x, y, min(most, _best_strength(x, y, patients, _ridge_error)))


def _best_strength(x: Array, y: NDArray[Any], patients: NDArray[Any], error: Any) -> float:
    """Strength with the lowest held-out error over at most five patient-grouped folds; 1 with a single patient."""
    from sklearn.model_selection import GroupKFold

    n_patients = len(np.unique(patients))
    if n_patients < 2:
        return 1.0
    folds = list(GroupKFold(n_splits=min(5, n_patients)).split(x, groups=patients))
    errors = [math.fsum(error(x[a], y[a], x[b], y[b], s) for a, b in folds) for s in STRENGTHS]
    return STRENGTHS[int(np.argmin(errors))]


def _logistic_error(
    x: Array, y: NDArray[Any], x_held: Array, y_held: NDArray[Any], strength: float, *, classes: int
) -> float:
    """Cross-entropy of held-out rows, each class with equal weight."""
    p = _softmax(_logistic(x, y, strength, classes)(x_held))
    own = -np.log(np.clip(p[np.arange(len(y_held)), y_held], 1e-6, 1))
    return float(np.mean([own[y_held == k].mean() for k in np.unique(y_held)]))


def _softmax(logits: Array) -> Array:
    likely = np.exp(logits - logits.max(1, keepdims=True))
    shares: Array = likely / likely.sum(1, keepdims=True)
    return shares


def _logistic(x: Array, y: NDArray[Any], strength: float, classes: int) -> Layer:
    from sklearn.linear_model import LogisticRegression

    seen, counts = np.unique(y, return_counts=True)
    layer = Layer(np.zeros((classes, x.shape[1])), np.full(classes, -np.inf))
    layer.bias[seen] = 0
    if len(seen) > 1:
        rare = counts.min() / counts.sum() < 0.2
        model = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced" if rare else None).fit(x, y)
        # of two classes scikit-learn keeps the difference of their logits only
        halves = np.array([[-0.5], [0.5]]) if len(seen) == 2 else np.eye(len(seen))
        layer.weight[seen] = halves @ model.coef_
        layer.bias[seen] = halves @ model.intercept_
    return layer


def _ridge_error(x: Array, y: Array, x_held: Array, y_held: Array, strength: float) -> float:
    error: Array = _ridge(x, y, strength)(x_held)[:, 0] - y_held
    return float((error**2).sum())


def _ridge(x: Array, y: Array, strength: float) -> Layer:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(x, y)
    return Layer(np.asarray(model.coef_, dtype=np.float64)[None], np.atleast_1d(model.intercept_))
