"""Joint images and volumes as the released code runs them: clusters, volumes and slices one after the other.

k-means gathers the members of each cluster by itself, once an iteration; the losses go through views, samples and
clusterings in loops. Inputs and results are those of ``medssl.objectives.deep_cluster``, of ``medssl.objectives.swav``
(without a queue) and of ``medssl.objectives.joint_image_volume``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from _contrastive_loops import Result, mean, unit
from torch import Tensor
from torch.nn import functional

from medssl.objectives.base import Given

__all__ = ["cluster_loss", "deep_cluster", "masked_slice_loss", "spherical_kmeans", "swapped_prediction"]


@torch.no_grad()
def spherical_kmeans(points: Tensor, start: Tensor, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Centroids (K, D) and assignments (M,)."""
    centroids = start.clone()
    for _ in range(iterations):
        assigned = (points @ centroids.T).argmax(1)
        for k in range(len(centroids)):
            members = points[assigned == k]
            if len(members):
                centroids[k] = unit(members.mean(0)[None])[0]
    return centroids, (points @ centroids.T).argmax(1)


def cluster_loss(
    embeddings: Tensor, centroids: Sequence[Tensor], assignments: Tensor, temperature: float = 0.1
) -> Tensor:
    """Of (V, N, D), clusterings (K_h, D) and assignments (H, N): view by view, sample by sample."""
    losses = []
    for c, assigned in zip(centroids, assignments, strict=True):
        entropies = []
        for view in embeddings:
            for row, k in zip(view, assigned, strict=True):
                if k != -100:
                    entropies.append(functional.cross_entropy((c @ row / temperature)[None], k[None]))
        losses.append(mean(entropies))
    return mean(losses)


def deep_cluster(objective: Any, views: Tensor, given: Given) -> Result:
    """DeepCluster-v2 of recordings that were all seen before, between two clusterings; and the bank after the step."""
    assert given.index is not None
    rows = torch.stack([unit(view) for view in views])
    loss = cluster_loss(
        rows,
        objective.centroids.split(objective.clusters),
        objective.assignments[:, given.index],
        objective.temperature,
    )
    bank = objective.bank.clone()
    for view in range(len(bank)):
        for place, recording in enumerate(given.index.tolist()):
            bank[view, recording] = rows[view, place].detach()
    return loss, {"bank": bank}


def _sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """(B, K) of one view; rows and columns in turn, each by itself."""
    q = torch.exp((scores - scores.max()) / epsilon).T
    q = q / q.sum()
    prototypes, samples = q.shape
    for _ in range(iterations):
        q = torch.stack([row / row.sum() / prototypes for row in q])
        q = torch.stack([column / column.sum() / samples for column in q.T], 1)
    return (q * samples).T


def swapped_prediction(
    volumes: Tensor, prototypes: Tensor, *, epsilon: float = 0.05, iterations: int = 3, temperature: float = 0.1
) -> Tensor:
    """Inter-volume SwAV of two views (2, B, D) and prototypes (K, D), all of unit length."""
    losses = []
    for view in (0, 1):
        with torch.no_grad():
            wanted = _sinkhorn(volumes[view] @ prototypes.T, epsilon, iterations)
        for row, q in zip(volumes[1 - view], wanted, strict=True):
            losses.append(-(q * functional.log_softmax(prototypes @ row / temperature, dim=0)).sum())
    return mean(losses)


def masked_slice_loss(predicted: Tensor, target: Tensor, divisor: int) -> Tensor:
    """Of (B, n, D): slice by slice, visible ones too, over the number of hidden ones."""
    errors = []
    for volume, known in zip(predicted, target.detach(), strict=True):
        for row, wanted in zip(volume, known, strict=True):
            errors.append((row - wanted).square().mean())
    return mean(errors) / divisor
