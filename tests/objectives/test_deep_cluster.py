"""DeepCluster-v2: k-means and loss written as loops, what is remembered, when clusters are found anew."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives import deep_cluster
from medssl.objectives.deep_cluster import DeepCluster, cluster_loss, nearest, spherical_kmeans


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def kmeans_reference(points: Tensor, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Point by point and centroid by centroid."""
    centroids = start.clone()

    def assigned() -> list[int]:
        return [int(torch.stack([p @ c for c in centroids]).argmax()) for p in points]

    for _ in range(iterations):
        members: list[list[Tensor]] = [[] for _ in centroids]
        for point, k in zip(points, assigned(), strict=True):
            members[k].append(point)
        for k, found in enumerate(members):
            if found:
                mean = torch.stack(found).mean(0)
                centroids[k] = mean / mean.norm()
    return centroids, torch.tensor(assigned())


def loss_reference(views: Tensor, centroids: list[Tensor], assignments: Tensor) -> Tensor:
    """Clustering by clustering, view by view, sample by sample."""
    heads = []
    for c, a in zip(centroids, assignments, strict=True):
        losses = []
        for view in views:
            for z, k in zip(view, a.tolist(), strict=True):
                if k != -100:
                    scores = torch.stack([z @ one for one in c]) / 0.1
                    losses.append(scores.logsumexp(0) - scores[k])
        heads.append(torch.stack(losses).mean())
    return torch.stack(heads).mean()


def ready(samples: int = 12, width: int = 5, **options: Any) -> DeepCluster:
    torch.manual_seed(0)
    objective = DeepCluster(**{"clusters": (3, 4), **options})
    objective.fit_width(width)
    objective.remember(samples)
    return objective.double()


@pytest.mark.parametrize("chunk", [8, 2**22])
@pytest.mark.parametrize(("m", "k", "iterations"), [(30, 4, 10), (6, 6, 3), (5, 8, 2), (9, 1, 1)])
def test_kmeans_equals_the_loops(m: int, k: int, iterations: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_cluster, "CHUNK_ELEMENTS", chunk)
    points = unit(random(m, 4))
    start = points[torch.arange(k) % m]
    found, (centroids, assigned) = spherical_kmeans(points, start, iterations=iterations), kmeans_reference(
        points, start, iterations
    )  # fmt: skip
    torch.testing.assert_close(found.centroids, centroids, rtol=0, atol=1e-12)
    assert torch.equal(found.assignments, assigned)


def test_kmeans_finds_clusters_that_lie_apart() -> None:
    directions = torch.eye(4).double()[[0, 1, 2]]
    points = unit(directions.repeat_interleave(5, 0) + 0.05 * random(15, 4))
    found = spherical_kmeans(points, points[[0, 5, 10]], iterations=3)
    assert found.assignments.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert (found.centroids * directions).sum(1).min() > 0.99


def test_a_centroid_without_members_or_direction_stays() -> None:
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    lonely = spherical_kmeans(points, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]).double())
    assert lonely.centroids[2].tolist() == [0, 1]
    opposite = spherical_kmeans(points, torch.tensor([[0.0, 1.0]]).double())
    assert opposite.centroids.tolist() == [[0, 1]], "the mean of its members is no direction"


@pytest.mark.parametrize("views", [2, 3])
def test_loss_equals_the_loops_in_value_and_gradient(views: int) -> None:
    centroids, assignments = [unit(random(k, 5, seed=k)) for k in (3, 4)], torch.tensor([[0, 2, -100], [3, 0, 1]])
    fast, slow = unit(random(views, 3, 5)).requires_grad_(), unit(random(views, 3, 5)).requires_grad_()
    loss, wanted = cluster_loss(fast, centroids, assignments, temperature=0.1), loss_reference(
        slow, centroids, assignments
    )  # fmt: skip
    loss.backward(), wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, rtol=0, atol=1e-12)


def test_limits_of_the_loss() -> None:
    same = torch.ones(2, 3, 4).double() / 2
    everywhere = [torch.ones(k, 4).double() / 2 for k in (2, 8)]
    assigned = torch.zeros(2, 3, dtype=torch.int64)
    assert float(cluster_loss(same, everywhere, assigned, temperature=0.1)) == pytest.approx(math.log(16) / 2)
    nobody = cluster_loss(same, everywhere, torch.full((2, 3), -100), temperature=0.1)
    assert float(nobody) == 0, "no sample takes part"


def test_centroids_get_no_gradient_and_are_no_weights() -> None:
    objective = ready()
    assert not list(objective.parameters())
    objective(random(2, 4, 5).requires_grad_(), index=torch.arange(4)).loss.backward()
    assert not objective.centroids.requires_grad


def test_assignments_of_an_epoch_come_from_the_memory_of_the_one_before() -> None:
    objective = ready(samples=6, clusters=(2, 3))
    first = random(2, 6, 5, seed=1)
    objective(first, index=torch.arange(6))
    bank = objective.bank.clone()
    torch.testing.assert_close(bank, unit(first))
    second = random(2, 6, 5, seed=2)
    output = objective(second, index=torch.arange(6))
    parts = objective.centroids.split((2, 3))
    for h, c in enumerate(parts):
        assert torch.equal(objective.assignments[h], nearest(bank[h % 2], c)), "the h-th clusters view h mod 2"
    expected = loss_reference(unit(second), list(parts), objective.assignments)
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(objective.bank, unit(second))


def test_clusters_are_found_anew_when_twice_as_many_are_known_then_once_an_epoch() -> None:
    objective = ready(samples=16)
    found = []
    for step in range(16):
        before = int(objective.rounds)
        objective(random(2, 2, 5, seed=step), index=torch.arange(2 * step, 2 * step + 2) % 16)
        if int(objective.rounds) > before:
            found.append(step)
    assert found == [0, 1, 2, 4, 8], "8 steps are an epoch"


def test_recordings_seen_for_the_first_time_get_the_nearest_centroid() -> None:
    objective = ready()
    objective.due.fill_(10**6)  # no clustering yet
    views = random(2, 4, 5)
    objective(views, index=torch.tensor([7, 1, 3, 5]))
    assert objective.seen.nonzero().flatten().tolist() == [1, 3, 5, 7]
    for h, c in enumerate(objective.centroids.split((3, 4))):
        wanted = nearest(unit(views[h]), c)
        assert torch.equal(objective.assignments[h, [7, 1, 3, 5]], wanted)
    assert (objective.assignments[:, [0, 2]] == -100).all()


def test_two_sets_with_ids_of_their_own_are_all_assigned() -> None:
    """Ids inside each set would collide: the second set would write over the first one's assignments."""
    objective = ready(samples=10)
    for epoch in range(2):
        for part in (torch.arange(5), torch.arange(5, 10)):
            objective(random(2, 5, 5, seed=10 * epoch + int(part[0])), index=part)
    assert objective.seen.all() and (objective.assignments >= 0).all()
    assert len(objective.bank[0].unique(dim=0)) == 10


def test_memory_survives_a_step_that_overflowed() -> None:
    objective = ready()
    objective(torch.full((2, 4, 5), torch.nan).double(), index=torch.arange(4))
    assert objective.bank.isfinite().all() and objective.centroids.isfinite().all()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 or more clusters"):
        DeepCluster(clusters=(1,))
    with pytest.raises(ConfigError, match="temperature"):
        DeepCluster(temperature=0)
    with pytest.raises(ConfigError, match="30 clusters of 8 recordings"):
        ready(samples=8, clusters=(30,))


def test_clusters_may_be_found_anew_before_the_backward_pass() -> None:
    objective, views = ready(), random(2, 4, 5).requires_grad_()
    first = objective(views, index=torch.arange(4)).loss
    (first + objective(views, index=torch.arange(4)).loss).backward()
    assert views.grad is not None and views.grad.isfinite().all()
