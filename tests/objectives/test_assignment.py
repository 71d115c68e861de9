"""Assignments: Sinkhorn-Knopp against the published scaling of rows and columns, its limits, and predicting them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives import assignment
from medssl.objectives.assignment import prediction_loss, sinkhorn


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear_sinkhorn(logits: Tensor, epsilon: float, iterations: int) -> Tensor:
    """As published, one row and column after the other, in float64."""
    m, k = logits.shape
    q = (logits.double() / epsilon).exp().T.clone()
    q /= q.sum()
    for _ in range(iterations):
        for row in range(k):
            q[row] = q[row] / q[row].sum() / k
        for column in range(m):
            q[:, column] = q[:, column] / q[:, column].sum() / m
    return (q * m).T


def reference(scores: Tensor, assignments: Tensor, temperature: float) -> Tensor:
    losses = []
    for a, v in itertools.product(range(len(assignments)), range(len(scores))):
        if a != v:
            for q, s in zip(assignments[a], scores[v], strict=True):
                losses.append(-(q * (s / temperature).log_softmax(0)).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize(("m", "k"), [(6, 4), (7, 3), (2, 9), (1, 4), (5, 1)])
def test_equals_scaling_rows_and_columns_in_turn(m: int, k: int, iterations: int, epsilon: float) -> None:
    logits = random(m, k)
    wanted = linear_sinkhorn(logits, epsilon, iterations)
    torch.testing.assert_close(sinkhorn(logits, epsilon=epsilon, iterations=iterations), wanted, atol=1e-12, rtol=0)
    single = sinkhorn(logits.float(), epsilon=epsilon, iterations=iterations)
    torch.testing.assert_close(single.double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("m", "k"), [(12, 4), (7, 3), (4, 9)])
def test_samples_have_one_and_prototypes_are_used_equally(m: int, k: int) -> None:
    q = sinkhorn(random(m, k), epsilon=0.5, iterations=50)
    torch.testing.assert_close(q.sum(1), torch.ones(m).double())
    torch.testing.assert_close(q.sum(0), torch.full((k,), m / k).double(), atol=1e-6, rtol=0)


def test_a_shift_changes_nothing_and_an_order_is_kept() -> None:
    logits, order, turned = random(6, 4), torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([2, 0, 3, 1])
    wanted = sinkhorn(logits, epsilon=0.1, iterations=3)
    torch.testing.assert_close(sinkhorn(logits + 7, epsilon=0.1, iterations=3), wanted)
    moved = sinkhorn(logits[order][:, turned], epsilon=0.1, iterations=3)
    torch.testing.assert_close(moved, wanted[order][:, turned])


def test_two_groups_apart_get_a_prototype_each() -> None:
    logits = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    q = sinkhorn(logits, epsilon=0.05, iterations=3)
    torch.testing.assert_close(q, logits, atol=1e-4, rtol=0)


def test_one_sample_alone_and_identical_samples_are_assigned_to_all_alike() -> None:
    torch.testing.assert_close(sinkhorn(random(1, 5), epsilon=0.05, iterations=3), torch.full((1, 5), 0.2).double())
    same = sinkhorn(random(1, 5).expand(6, 5), epsilon=0.05, iterations=3)
    torch.testing.assert_close(same, torch.full((6, 5), 0.2).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_epsilon_does_not_overflow(dtype: torch.dtype) -> None:
    logits = random(8, 5).to(dtype)
    q = sinkhorn(logits, epsilon=1e-3, iterations=10)
    assert q.dtype == torch.float32 and q.isfinite().all()
    torch.testing.assert_close(q.sum(1), torch.ones(8))
    assert sinkhorn(1e15 * logits.float(), epsilon=1e-3, iterations=3).isfinite().all()


def test_problems_are_solved_each_for_itself() -> None:
    logits = random(3, 6, 4)
    together = sinkhorn(logits, epsilon=0.1, iterations=3)
    for problem, q in zip(logits, together, strict=True):
        torch.testing.assert_close(sinkhorn(problem, epsilon=0.1, iterations=3), q)


def test_earlier_samples_take_their_share_of_prototypes() -> None:
    logits, earlier = random(2, 3, 4), random(2, 5, 4, seed=1)
    found = assignment.assign(logits, epsilon=0.1, iterations=3, earlier=earlier)
    for view in range(2):
        wanted = linear_sinkhorn(torch.cat([earlier[view], logits[view]]), 0.1, 3)[5:]
        torch.testing.assert_close(found[view], wanted)
    assert not torch.allclose(found, assignment.assign(logits, epsilon=0.1, iterations=3))


def test_all_views_in_one_problem() -> None:
    logits = random(2, 3, 4)
    found = assignment.assign_together(logits, epsilon=0.1, iterations=3)
    torch.testing.assert_close(found.flatten(0, 1), linear_sinkhorn(logits.flatten(0, 1), 0.1, 3))


@pytest.mark.parametrize(("a", "v", "n", "k"), [(2, 2, 3, 4), (2, 5, 1, 3), (1, 3, 4, 6), (3, 3, 2, 2)])
def test_prediction_equals_the_loops_in_value_and_gradient(a: int, v: int, n: int, k: int) -> None:
    q = random(a, n, k, seed=1).softmax(-1).requires_grad_()
    fast, slow = random(v, n, k).requires_grad_(), random(v, n, k).requires_grad_()
    value, wanted = prediction_loss(fast, q, temperature=0.2), reference(slow, q.detach(), 0.2)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)
    assert q.grad is None, "assignments are not trained"


def test_perfect_prediction_of_certain_assignments_costs_nothing_as_the_temperature_falls() -> None:
    q = torch.eye(4).expand(2, 4, 4)
    losses = [prediction_loss(q, q, temperature=t).item() for t in (1.0, 0.1, 0.01)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-6


def test_equal_scores_cost_log_k_and_no_others_cost_less_where_samples_are_alike() -> None:
    q = sinkhorn(torch.ones(2, 6, 5).double(), epsilon=0.05, iterations=3)
    assert prediction_loss(torch.zeros(2, 6, 5).double(), q, temperature=0.1).item() == pytest.approx(math.log(5))
    for seed in range(5):
        assert prediction_loss(random(2, 6, 5, seed=seed), q, temperature=0.1).item() >= math.log(5)


def test_centre_is_a_moving_mean_of_raw_logits_and_survives_a_step_that_overflowed() -> None:
    centre, logits = torch.tensor([1.0, -1.0]), torch.tensor([[[3.0, 0.0], [5.0, 2.0]]])
    torch.testing.assert_close(assignment.updated_centre(centre, logits, momentum=0.9), torch.tensor([1.3, -0.8]))
    broken = assignment.updated_centre(centre, logits * torch.inf, momentum=0.9)
    assert torch.equal(broken, centre)
    even = assignment.centred(centre.expand(3, 2), centre, temperature=0.04)
    torch.testing.assert_close(even, torch.full((3, 2), 0.5))


def test_scores_are_cosines_and_prototypes_that_stand_still_have_a_gradient_of_zero() -> None:
    x, prototypes = random(2, 3, 6), random(5, 6, seed=1).requires_grad_()
    scores = assignment.cosine_scores(x, prototypes)
    wanted = torch.nn.functional.cosine_similarity(x.unsqueeze(2), prototypes, dim=-1)
    torch.testing.assert_close(scores, wanted)
    torch.testing.assert_close(assignment.cosine_scores(3 * x, 0.1 * prototypes), scores)
    held = assignment.still(prototypes, True)
    assert torch.equal(held, prototypes)
    held.square().sum().backward()
    assert prototypes.grad is not None and not prototypes.grad.any()
    assert assignment.still(prototypes, False) is prototypes


def test_logs_tell_collapse() -> None:
    q = torch.full((2, 3, 4), 0.25)
    logs = assignment.assignment_logs(torch.tensor(math.log(4)), torch.eye(4)[[0, 0, 2]].expand(2, 3, 4), q)
    assert {k: round(v.item(), 6) for k, v in logs.items()} == {
        "loss_of_uniform": 1.0, "certainty": 0.25, "prototypes_used": 0.5,
    }  # fmt: skip


def test_shares_outside_0_to_1_are_refused() -> None:
    assignment.refuse_shares("X", frozen=0.0, queue_start=1.0)
    with pytest.raises(ConfigError, match="X takes a queue start from 0 to 1"):
        assignment.refuse_shares("X", frozen=0.0, queue_start=1.5)
