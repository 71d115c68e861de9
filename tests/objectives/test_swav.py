"""SwAV: a reference written one view after the other, its queue, what is trained and what is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.assignment import sinkhorn
from medssl.objectives.swav import SwAV, pushed


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ready(width: int = 6, *, seed: int = 0, **options: float) -> SwAV:
    settings = {"prototypes": 5, "queue_start": 0.0, "frozen": 0.0} | options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective = SwAV(**settings)  # type: ignore[arg-type]
        objective.fit_width(width)
    return objective.double()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def reference(views: Tensor, prototypes: Tensor, queue: Tensor | None = None) -> Tensor:
    """The definition: each of the first two views is assigned, and predicted by every other view."""
    scores = unit(views) @ unit(prototypes).T
    total = torch.zeros(()).double()
    for i in range(2):
        with torch.no_grad():
            assigned = scores[i] if queue is None else torch.cat([queue[i] @ unit(prototypes).T, scores[i]])
            q = sinkhorn(assigned, epsilon=0.05, iterations=3)[-views.shape[1] :]
        part = torch.zeros(()).double()
        for v in range(len(views)):
            if v != i:
                part = part - (q * (scores[v] / 0.1).log_softmax(-1)).sum(-1).mean()
        total = total + part / (len(views) - 1) / 2
    return total


@pytest.mark.parametrize("queue", [0, 7])
@pytest.mark.parametrize(("v", "n"), [(2, 4), (2, 1), (5, 3)])
def test_equals_the_loops_in_value_and_gradient(v: int, n: int, queue: int) -> None:
    objective = ready(queue=queue)
    if queue:
        objective.queue.copy_(unit(random(2, queue, 6, seed=3)))
        objective.filled.fill_(queue)
    fast, slow = random(v, n, 6).requires_grad_(), random(v, n, 6).requires_grad_()
    prototypes = objective.prototypes.detach().clone().requires_grad_()
    wanted = reference(slow, prototypes, objective.queue.clone() if queue else None)
    wanted.backward()
    value = objective(fast).loss
    value.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(objective.prototypes.grad, prototypes.grad, atol=1e-12, rtol=0)


def test_length_of_embeddings_and_of_prototypes_does_not_matter() -> None:
    objective, views = ready(), random(3, 4, 6)
    loss = objective(views).loss.item()
    assert objective(17 * views).loss.item() == pytest.approx(loss)
    with torch.no_grad():
        objective.prototypes.mul_(torch.rand(5, 1) + 0.5)
    assert objective(views).loss.item() == pytest.approx(loss)


def test_identical_embeddings_are_assigned_evenly_and_cost_log_k_at_least() -> None:
    objective = ready()
    output = objective(random(1, 1, 6).expand(3, 4, 6))
    assert output.logs["certainty"].item() == pytest.approx(1 / 5)
    assert output.loss.item() >= math.log(5)
    with torch.no_grad():
        objective.prototypes.copy_(objective.prototypes[:1].expand(5, 6))
    even = objective(random(3, 4, 6))
    assert even.loss.item() == pytest.approx(math.log(5)) and even.logs["loss_of_uniform"].item() == pytest.approx(1)


def test_views_beyond_the_second_predict_but_are_not_assigned() -> None:
    objective = ready(prototypes=3)
    views = random(3, 4, 6).requires_grad_()
    objective(views).loss.backward()
    assert views.grad is not None and views.grad[2].abs().sum() > 0
    moved = views.detach().clone()
    moved[2] = random(4, 6, seed=8)
    assert objective(moved).logs["certainty"].item() == objective(views).logs["certainty"].item()


def test_queue_is_first_in_first_out_and_used_once_full() -> None:
    objective = ready(queue=6)
    batches = [random(2, 4, 6, seed=s) for s in range(3)]
    losses = [objective(b).loss.item() for b in batches]
    for index in range(2):  # after one batch it holds 4 of 6, so the second batch is assigned without it
        assert losses[index] == pytest.approx(reference(batches[index], objective.prototypes).item())
    before = torch.cat([unit(batches[1]), unit(batches[0])[:, :2]], dim=1)
    assert losses[2] == pytest.approx(reference(batches[2], objective.prototypes, before).item())
    assert losses[2] != pytest.approx(reference(batches[2], objective.prototypes).item())
    after = torch.cat([unit(batches[2]), unit(batches[1])[:, :2]], dim=1)
    torch.testing.assert_close(objective.queue, after)


def test_queue_waits_for_its_share_of_the_training() -> None:
    views = random(2, 4, 6)
    objective = ready(queue=4, queue_start=0.5)
    objective(random(2, 4, 6, seed=1))
    held = {p: objective.eval()(views, progress=p).loss.item() for p in (0.4, 0.5)}
    assert held[0.4] == pytest.approx(reference(views, objective.prototypes).item())
    assert held[0.5] == pytest.approx(reference(views, objective.prototypes, objective.queue).item())


def test_batches_longer_than_the_queue_and_steps_that_overflowed() -> None:
    assert pushed(torch.zeros(1, 2, 1), torch.tensor([[[3.0], [2.0], [1.0]]])).flatten().tolist() == [3, 2]
    objective = ready(queue=4)
    objective(random(2, 4, 6) * torch.nan)
    assert objective.queue.isfinite().all()
    assert objective(random(2, 4, 6)).loss.isfinite()


def test_prototypes_stand_still_at_the_start() -> None:
    objective = ready(frozen=0.1)
    objective(random(2, 4, 6), progress=0.05).loss.backward()
    assert objective.prototypes.grad is not None and not objective.prototypes.grad.any()
    objective(random(2, 4, 6), progress=0.1).loss.backward()
    assert objective.prototypes.grad.any()


def test_training_finds_groups() -> None:
    """Three directions with noise: after training, each direction's samples share a prototype and directions do not."""
    torch.manual_seed(0)
    objective = SwAV(prototypes=3, frozen=0.0)
    objective.fit_width(8)
    head = torch.nn.Linear(12, 8)
    optimizer = torch.optim.Adam([*head.parameters(), *objective.parameters()], lr=1e-2)
    centres, kind = 3 * torch.eye(12)[:3], torch.arange(24) % 3
    for _ in range(150):
        views = head(centres[kind] + 0.3 * torch.randn(2, 24, 12))
        optimizer.zero_grad()
        output = objective(views)
        output.loss.backward()
        optimizer.step()
    scores = torch.nn.functional.normalize(head(centres), dim=-1) @ objective.prototypes.T
    assert sorted(scores.argmax(-1).tolist()) == [0, 1, 2]
    assert output.logs["loss_of_uniform"] < 0.2


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="epsilon above 0"):
        SwAV(epsilon=0)
    with pytest.raises(ConfigError, match="2 or more prototypes"):
        SwAV(prototypes=1)
    with pytest.raises(ConfigError, match="queue of 0 or more"):
        SwAV(queue=-1)
    with pytest.raises(ConfigError, match="frozen from 0 to 1"):
        SwAV(frozen=2)
