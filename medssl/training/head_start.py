"""Where the last layer of a head starts: on features of one scale, from a linear probe of the training windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.evaluation.probes import Layer, logistic_probe, ridge_probe, thinned
from medssl.heads.classification import ClassificationHead
from medssl.heads.regression import RegressionHead
from medssl.training.inference import Testing, applied, windows_of
from medssl.training.targets import Target
from medssl.training.windows import Recordings

__all__ = ["start_head"]

MOST_WINDOWS = 1000  # enough to fit a layer, and little beside the training that follows
LEAST_BIAS = -10.0  # logit of a class that no training item has


def start_head(
    head: ClassificationHead | RegressionHead,
    target: Target,
    items: NDArray[np.int64],
    recordings: Recordings,
    testing: Testing,
    *,
    probe: bool,
    seed: int = 0,
) -> None:
    """Fix the scale of the head's features, and begin with the weights of a linear probe of them.

    Args:
        head: with ``standardise``.
        target: of the training.
        items: the training items.
        recordings: how they are read.
        testing: size of the windows, and how many at most of a recording.
        probe: fit the last layer; if not, it stays random.
        seed: of thinning many items.
    """
    assert head.standardise is not None
    each = 1 if target.source == "event" else testing.windows
    chosen = items[thinned(target.patients[items], seed, MOST_WINDOWS // each)]
    features, owners = _features(head, target, chosen, recordings, replace(testing, every=False))
    head.standardise.fit(features)
    if not probe:
        return
    x = head.standardise(features.to(head.device)).double().cpu().numpy()
    layer = _probe(head, x, target.y[owners], target.patients[owners])
    with torch.no_grad():
        head.output.weight.copy_(torch.from_numpy(layer.weight))
        head.output.bias.copy_(torch.from_numpy(np.maximum(layer.bias, LEAST_BIAS)))


def _features(
    head: ClassificationHead | RegressionHead,
    target: Target,
    items: NDArray[np.int64],
    recordings: Recordings,
    testing: Testing,
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """What the head reads its answer from, of every window of the items (n, D), and the items they belong to."""
    parts, owners = [], []
    with applied(head, testing.precision):
        for windows, of_windows in windows_of(target, items, recordings, testing):
            x = torch.from_numpy(np.stack(windows)).to(head.device)
            parts.append(head.features(head.encode(x)).float().cpu())
            owners.append(of_windows)
    return torch.cat(parts), np.concatenate(owners)


def _probe(
    head: ClassificationHead | RegressionHead, x: NDArray[np.float64], y: NDArray[Any], patients: NDArray[Any]
) -> Layer:
    if isinstance(head, RegressionHead):
        return ridge_probe(x, (y - head.mean) / head.std, patients)
    if not head.multilabel:
        return logistic_probe(x, y, patients, len(head.classes))
    layer = Layer(np.zeros((len(head.classes), x.shape[1])), np.zeros(len(head.classes)))
    for k in range(len(head.classes)):  # each against its absence: the difference of two logits
        two = logistic_probe(x, y[:, k].astype(np.int64), patients, 2)
        layer.weight[k] = two.weight[1] - two.weight[0]
        layer.bias[k] = np.clip(two.bias[1] - two.bias[0], LEAST_BIAS, -LEAST_BIAS)
    return layer
