"""DeepCluster-v2: clusters of all recordings, found anew every epoch, predicted from each view."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.base import Family, Given, LossOutput, Objective, positive
from medssl.objectives.gather import gather_integers, gather_views
from medssl.objectives.pairs import unit

__all__ = ["Clusters", "DeepCluster", "cluster_loss", "nearest", "spherical_kmeans"]

NOBODY = -100  # assignment of a recording that takes no part
BANKED = 2  # views that are remembered and clustered
CHUNK_ELEMENTS = 2**22  # similarities of points to centroids that are in memory at once


class Clusters(NamedTuple):
    """What k-means found.

    Attributes:
        centroids: (K, D), unit length.
        assignments: (M,) int64, the nearest centroid of each point.
    """

    centroids: Tensor
    assignments: Tensor


@torch.no_grad()
def spherical_kmeans(points: Tensor, start: Tensor, *, iterations: int = 10) -> Clusters:
    r"""k-means by cosine: each centroid moves to the direction of the mean of its members, and so on.

    .. math:: a_m = \arg\max_k x_m \cdot c_k, \quad
        c_k \leftarrow \sum_{m: a_m = k} x_m \Big/ \Big\| \sum_{m: a_m = k} x_m \Big\|

    A centroid without members stays where it is. Points are compared a few thousand at a time; the same points give the
    same clusters in every process, since members are summed by a product, not by scattered additions.

    Args:
        points: x (M, D), unit length.
        start: c (K, D) at the start, unit length.
        iterations: of both steps; the points are assigned once more at the end.
    """
    centroids = start.clone()
    rows = max(1, CHUNK_ELEMENTS // len(centroids))
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids), 1)
        for part in points.split(rows):
            members = functional.one_hot(nearest(part, centroids), len(centroids)).to(points.dtype)
            sums += members.T @ part
            counts += members.sum(0).unsqueeze(1)
        found = (counts > 0) & (sums != 0).any(1, keepdim=True)
        centroids = torch.where(found, unit(sums), centroids)
    return Clusters(centroids, torch.cat([nearest(part, centroids) for part in points.split(rows)]))


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """(..., D) and (K, D) → (...) int64: the centroid of the largest cosine, the first of several; all unit length."""
    return (points @ centroids.T).argmax(-1)


def cluster_loss(embeddings: Tensor, centroids: Sequence[Tensor], assignments: Tensor, *, temperature: float) -> Tensor:
    r"""How badly all views predict the clusters of their samples.

    .. math:: L = \frac{1}{H} \sum_h \frac{1}{V N} \sum_{v, n} -\log \mathrm{softmax}(z_{vn} C_h^\top / \tau)_{a_{hn}}

    Caron et al., *Unsupervised learning of visual features by contrasting cluster assignments*, NeurIPS 2020 (appendix,
    DeepCluster-v2). It is the mean of log K_h where all cosines are equal.

    Args:
        embeddings: z (V, N, D), unit length.
        centroids: C_h (K_h, D) of H clusterings, unit length, without gradient.
        assignments: a (H, N) int64; samples of -100 take no part.
        temperature: τ > 0.

    >>> views = torch.eye(2).expand(2, 2, 2)
    >>> far = cluster_loss(views, [torch.eye(2)], torch.tensor([[0, 1]]), temperature=0.1)
    >>> round(float(far), 6)  # log(1 + e^-10)
    4.5e-05
    """
    losses = []
    for c, a in zip(centroids, assignments, strict=True):
        logits = embeddings @ c.detach().T / temperature
        known = (a != NOBODY).sum().clamp_min(1) * len(embeddings)
        wanted = a.expand(len(embeddings), -1)
        total = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=NOBODY, reduction="sum")
        losses.append(total / known)
    return torch.stack(losses).mean()


class DeepCluster(Objective):
    """DeepCluster-v2: clusters of all recordings, found anew every epoch, predicted from each view (2020).

    ``cluster_loss`` of the clusters that ``spherical_kmeans`` finds among the last embeddings of all recordings, a few
    clusterings side by side; the h-th clusters the first view's where h is even, else the second's. Caron et al.,
    NeurIPS 2020. Without a teacher, without negatives, and for any batch size, since clusters are those of the whole
    cohort. Centroids get no gradient.

    As published, memory is filled by a pass before the first epoch. Here it fills during the first one, in which
    clusters are found anew whenever twice as many recordings are known, and a recording seen for the first time is
    assigned to the nearest centroid.

    Memory: 2 · recordings · D numbers.

    Args:
        clusters: K of each clustering, each at most the number of recordings; 3000 three times for ImageNet.
        iterations: of k-means.
        temperature: of the predictions.
    """

    family: ClassVar[Family] = "clustering"
    needs: ClassVar[frozenset[str]] = frozenset({"index"})

    bank: Tensor
    seen: Tensor
    assignments: Tensor
    centroids: Tensor
    written: Tensor
    due: Tensor
    rounds: Tensor

    def __init__(
        self, *, clusters: tuple[int, ...] = (30, 30, 30), iterations: int = 10, temperature: float = 0.1
    ) -> None:
        super().__init__()
        positive("DeepCluster", iterations=iterations, temperature=temperature)
        if not clusters or min(clusters) < 2:
            raise ConfigError(f"DeepCluster takes one or more clusterings of 2 or more clusters, not {tuple(clusters)}")
        self.clusters, self.iterations, self.temperature = tuple(clusters), iterations, temperature

    def fit_width(self, width: int) -> None:
        """See ``Objective.fit_width``."""
        self.register_buffer("centroids", unit(torch.randn(sum(self.clusters), width)))

    def remember(self, samples: int) -> None:
        """See ``Objective.remember``.

        Raises:
            ConfigError: more clusters than recordings.
        """
        if max(self.clusters) > samples:
            raise ConfigError(
                f"DeepCluster cannot make {max(self.clusters)} clusters of {samples} recordings; lower clusters"
            )
        width, like = self.centroids.shape[1], self.centroids
        self.register_buffer("bank", like.new_zeros(BANKED, samples, width))
        self.register_buffer("seen", torch.zeros(samples, dtype=torch.bool, device=like.device))
        self.register_buffer("assignments", torch.full((len(self.clusters), samples), NOBODY, device=like.device))
        for counter in ("written", "due", "rounds"):
            self.register_buffer(counter, torch.zeros((), dtype=torch.int64, device=like.device))

    def compute(self, views: Tensor, given: Given) -> LossOutput:
        """See ``cluster_loss``."""
        assert given.index is not None
        embeddings, index = unit(views), given.index
        newest = embeddings[:BANKED].detach()
        # a step that overflowed is skipped by training; what it left here would spread over every later cluster
        joined = gather_views(newest).views.to(self.bank.dtype).nan_to_num(0.0, 0.0, 0.0)
        everywhere = gather_integers(index)
        assert everywhere is not None
        if self.training:
            self._meet(joined, everywhere)
        assigned = torch.where(self.seen[index], self.assignments[:, index], self._nearest(newest))
        if self.training:
            self.bank[:, everywhere] = joined
            self.written += len(everywhere)
        parts = self.centroids.clone().split(self.clusters)  # they may move before the backward pass
        loss = cluster_loss(embeddings, parts, assigned, temperature=self.temperature)
        return LossOutput(loss, self._logs(loss.detach(), newest, assigned))

    def _nearest(self, embeddings: Tensor) -> Tensor:
        """(2, N, D) → (H, N): the nearest centroid of each clustering, by the view that it clusters."""
        parts = self.centroids.split(self.clusters)
        return torch.stack([nearest(embeddings[h % BANKED], c) for h, c in enumerate(parts)])

    @torch.no_grad()
    def _meet(self, embeddings: Tensor, index: Tensor) -> None:
        """Take in recordings that were not seen before, and cluster where that is due."""
        new = ~self.seen[index]
        self.bank[:, index] = torch.where(new.unsqueeze(-1), embeddings, self.bank[:, index])
        self.assignments[:, index] = torch.where(new, self._nearest(embeddings), self.assignments[:, index])
        self.seen[index] = True
        if self.written >= self.due:
            _eagerly(self._cluster)()
            ahead = self.written.clamp(min=len(index), max=len(self.seen))  # twice as many, at most an epoch later
            self.due.copy_(self.written + ahead)

    def _cluster(self) -> None:
        rows = self.seen.nonzero().squeeze(1)
        found = []
        for h, count in enumerate(self.clusters):
            # the same draw in all processes, whatever the batches they see
            drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(int(self.rounds) * 997 + h))
            first = drawn[torch.arange(count) % len(drawn)].to(rows.device)
            points = self.bank[h % BANKED, rows]
            found.append(spherical_kmeans(points, points[first], iterations=self.iterations))
        self.centroids.copy_(torch.cat([f.centroids for f in found]))
        self.assignments[:, rows] = torch.stack([f.assignments for f in found])
        self.rounds += 1

    @torch.no_grad()
    def _logs(self, loss: Tensor, embeddings: Tensor, assigned: Tensor) -> dict[str, Tensor]:
        """``loss_of_uniform``: the loss over log K, 1 where nothing is learned. ``cluster_accuracy``: share of views
        whose nearest centroid is that of their recording's cluster. ``clusters_used``: share of clusters in the batch.
        """
        right = torch.stack([self._nearest(e.expand(BANKED, -1, -1)) == assigned for e in embeddings])
        offsets = torch.tensor([0, *self.clusters[:-1]], device=loss.device).cumsum(0)
        used = torch.zeros(sum(self.clusters), device=loss.device)
        used.index_fill_(0, (assigned + offsets.unsqueeze(1)).flatten(), 1.0)
        uniform = sum(math.log(count) for count in self.clusters) / len(self.clusters)
        return {
            "loss_of_uniform": loss / uniform,
            "cluster_accuracy": right.float().mean(),
            "clusters_used": used.mean(),
        }


def _eagerly(function: Callable[[], None]) -> Callable[[], None]:
    """Out of tracing: unrolled over its iterations, k-means takes long to compile, for nothing."""
    if not torch.compiler.is_compiling():
        return function  # importing the compiler takes seconds
    eager: Callable[[], None] = torch.compiler.disable(function)
    return eager
