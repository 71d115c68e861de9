"""Where the last layer of a head starts: on features of one scale, from a linear probe of the training windows."""

from __future__ import annotations

import math
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

__all__ = ["gentle_share", "start_head"]

MOST_WINDOWS = 1000  # enough to fit a layer, and little beside the training that follows
FEWEST_WINDOWS = 200  # of fewer, several augmented copies are looked at
MOST_COPIES = 4
FEW = 2  # windows whose gradients are taken: what answers have in common is much the same in all
MOST_CHANGE = 0.5  # of the answer in one step of the encoder, in standard deviations of the target
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
    """Find the scale of the head's features, and begin with the weights of a linear probe of them.

    Both are of windows as training will see them, augmented: directions that augmentation moves more than patients
    differ would otherwise carry the largest weights, and the first steps would undo the start.

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
    features, owners = _features(head, target, chosen, recordings, replace(testing, every=False), seed)
    head.standardise.fit(features)
    if not probe:
        return
    x = head.standardise(features.to(head.device)).double().cpu().numpy()
    layer = _probe(head, x, target.y[owners], target.patients[owners])
    with torch.no_grad():
        head.output.weight.copy_(torch.from_numpy(layer.weight))
        head.output.bias.copy_(torch.from_numpy(np.maximum(layer.bias, LEAST_BIAS)))
    if isinstance(head, RegressionHead) and head.encoder_lr > 0 and head.optim.algorithm == "adamw":
        some = next(iter(windows_of(target, chosen, recordings, testing)))[0][:FEW]
        head.encoder_lr *= gentle_share(head, torch.from_numpy(np.stack(some)).to(head.device))


def gentle_share(head: RegressionHead, x: torch.Tensor) -> float:
    """Share of the learning rate with which the first steps of the encoder leave of a good start what is good.

    Adam moves every weight by about the rate, so the mean answer changes by at most the rate times the sum of the
    absolute gradients: by hundreds of deviations where features of patients differ by a hundredth of their size.

    Args:
        head: at its start.
        x: (B, C, *size) windows.

    Returns:
        In (0, 1]: with it the change is at most half a standard deviation of the target.
    """
    assert head.standardise is not None
    was_training = head.training
    head.eval()
    # past ``head.encode``, which gives no gradients where the encoder is frozen at first
    answer = head.output(head.standardise(head.features(head.encoder(x)))).mean()
    weights = [p for p in head.encoder.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(answer, weights, allow_unused=True)
    head.train(was_training)
    change = head.encoder_lr * head.optim.lr * sum(float(g.abs().sum()) for g in gradients if g is not None)
    return min(1.0, MOST_CHANGE / max(change, 1e-12))


def _features(
    head: ClassificationHead | RegressionHead,
    target: Target,
    items: NDArray[np.int64],
    recordings: Recordings,
    testing: Testing,
    seed: int,
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """What the head reads its answer from, of every window of the items (n, D), and the items they belong to."""
    parts, owners = [], []
    each = 1 if target.source == "event" else testing.windows
    copies = 1 if head.augmentation is None else min(MOST_COPIES, -(-FEWEST_WINDOWS // (len(items) * each)))
    head.generator.manual_seed(seed)
    with applied(head, testing.precision):
        for windows, of_windows in windows_of(target, items, recordings, testing):
            x = torch.from_numpy(np.stack(windows)).to(head.device)
            for _ in range(copies):
                seen = x if head.augmentation is None else head.augment(x, x)[0]
                parts.append(head.features(head.encode(seen)).float().cpu())
                owners.append(of_windows)
    return torch.cat(parts), np.concatenate(owners)


def _probe(
    head: ClassificationHead | RegressionHead, x: NDArray[np.float64], y: NDArray[Any], patients: NDArray[Any]
) -> Layer:
    if isinstance(head, RegressionHead):
        p = head.dropout.p  # dropout is a ridge of its own (Srivastava et al., JMLR 2014): a weaker one would be undone
        most = (1 - p) / (p * len(x)) if p else math.inf
        return ridge_probe(x, (y - head.mean) / head.std, patients, most=most)
    if not head.multilabel:
        return logistic_probe(x, y, patients, len(head.classes))
    layer = Layer(np.zeros((len(head.classes), x.shape[1])), np.zeros(len(head.classes)))
    for k in range(len(head.classes)):  # each against its absence: the difference of two logits
        two = logistic_probe(x, y[:, k].astype(np.int64), patients, 2)
        layer.weight[k] = two.weight[1] - two.weight[0]
        layer.bias[k] = np.clip(two.bias[1] - two.bias[0], LEAST_BIAS, -LEAST_BIAS)
    return layer
