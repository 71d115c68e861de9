"""Contrastive attraction and repulsion against loops, and what their weights favour."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.cacr import CACR, cacr_attraction, cacr_repulsion, cacr_teacher


def random_views(k: int, n: int, d: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(k, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cost(x: Tensor, y: Tensor) -> Tensor:
    x, y = x / x.norm(), y / y.norm()
    return (x - y).square().sum()


def reference_attraction(views: Tensor, alpha: float, t_pos: float) -> Tensor:
    k, n, _ = views.shape
    total = []
    for v in range(k):
        for i in range(n):
            costs = torch.stack([cost(views[v, i], views[m, i]) for m in range(k) if m != v])
            total.append(((t_pos * costs).softmax(0) * alpha * costs).sum())
    return torch.stack(total).mean()


def reference_repulsion(
    views: Tensor, beta: float, t_neg: float, group: list[int], *, rbf: bool = False, debias: float = 0.0
) -> Tensor:
    k, n, _ = views.shape
    pairs = []
    for v in range(k):
        for m in range(v + 1, k):
            terms, positives = [], []
            for i in range(n):
                costs = torch.stack([cost(views[v, i], views[m, j]) for j in range(n) if group[j] != group[i]])
                share = (-t_neg * costs).softmax(0)
                terms.append((share * ((-2 * costs).exp() if rbf else -beta * costs)).sum())
                positives.append(cost(views[v, i], views[m, i]))
            term = beta * torch.stack(terms).mean().log() if rbf else torch.stack(terms).mean()
            pairs.append((term - debias * torch.stack(positives).mean()) / (1 - debias))
    return torch.stack(pairs).mean()


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(("alpha", "t_pos"), [(1.0, 1.0), (0.5, 3.0), (2.0, 0.0)])
def test_attraction_equals_the_loops(k: int, alpha: float, t_pos: float) -> None:
    fast, slow = random_views(k, 4).requires_grad_(), random_views(k, 4).requires_grad_()
    value, wanted = cacr_attraction(fast, alpha=alpha, t_pos=t_pos), reference_attraction(slow, alpha, t_pos)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1]])
@pytest.mark.parametrize(
    ("beta", "t_neg", "more"),
    [(1.0, 0.9, {}), (2.0, 2.0, {"debias": 0.1}), (1.5, 2.0, {"rbf": True}), (1.0, 0.0, {"rbf": True})],
)
def test_repulsion_equals_the_loops(k: int, group: list[int], beta: float, t_neg: float, more: dict[str, Any]) -> None:
    fast, slow = random_views(k, 5).requires_grad_(), random_views(k, 5).requires_grad_()
    options: dict[str, Any] = {"cost": "rbf"} if more.get("rbf") else more
    value = cacr_repulsion(fast, beta=beta, t_neg=t_neg, group=torch.tensor(group), **options)
    wanted = reference_repulsion(slow, beta, t_neg, group, **more)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel", ["rbf", "euclidean"])
def test_teacher_form_equals_the_loops(kernel: Any) -> None:
    queries, keys, temperature, group = random_views(3, 5), random_views(1, 5, seed=1)[0], 0.7, [0, 0, 1, 2, 1]
    fast, slow = queries.clone().requires_grad_(), queries.clone().requires_grad_()
    value = cacr_teacher(fast, keys, temperature=temperature, cost=kernel, group=torch.tensor(group))
    q, k = slow / slow.norm(dim=-1, keepdim=True), keys / keys.norm(dim=-1, keepdim=True)
    total = []
    for i in range(5):
        share = torch.stack([cost(q[v, i], k[i]) / temperature for v in range(3)]).softmax(0).detach()
        for v in range(3):
            others = [j for j in range(5) if group[j] != group[i]]
            own, s = q[v, i] @ k[i], torch.stack([q[v, i] @ k[j] for j in others])
            if kernel == "rbf":
                energy = (torch.cat([own.view(1), s]) / temperature).logsumexp(0)
                total.append(2 * temperature * share[v] * (energy - own / temperature))
            else:
                weight = (-(1 - s) / temperature).softmax(0).detach()
                total.append(share[v] * ((1 - own) - (weight * (1 - s)).sum()))
    wanted = torch.stack(total).sum() / 5
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_objective_with_a_teacher_is_the_mean_over_its_views() -> None:
    views, targets = random_views(3, 4), random_views(3, 4, seed=1)
    for kernel in ("rbf", "euclidean"):
        wanted = [
            cacr_teacher(views[[q for q in range(3) if q != k]], targets[k], temperature=0.5, cost=kernel)  # type: ignore[arg-type]
            for k in range(3)
        ]
        output = CACR(cost=kernel, temperature=0.5)(views, targets=targets)  # type: ignore[arg-type]
        assert output.loss.item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-12)


def test_attraction_is_linear_in_alpha_and_vanishes_for_identical_views() -> None:
    views = random_views(3, 4)
    once, twice = (cacr_attraction(views, alpha=a, t_pos=1.5).item() for a in (1.0, 2.0))
    assert twice == pytest.approx(2 * once, abs=1e-12)
    assert cacr_attraction(views[:1].expand(3, -1, -1), t_pos=1.5).item() == pytest.approx(0, abs=1e-14)


def test_weights_favour_far_positives_and_near_negatives() -> None:
    views = random_views(4, 6)
    for sharp in (0.5, 2.0, 8.0):
        assert cacr_attraction(views, t_pos=sharp) > cacr_attraction(views, t_pos=0)
        assert cacr_repulsion(views, t_neg=sharp) > cacr_repulsion(views, t_neg=0)


def test_two_views_attract_by_their_mean_cost_whatever_the_temperature() -> None:
    views = random_views(2, 4)
    mean = torch.stack([cost(views[0, i], views[1, i]) for i in range(4)]).mean().item()
    assert cacr_attraction(views, t_pos=5.0).item() == pytest.approx(mean, abs=1e-12)


def test_solved_by_hand() -> None:
    orthogonal = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    assert cacr_repulsion(orthogonal, beta=1.5).item() == pytest.approx(-3.0)  # all negatives at a squared distance 2
    assert cacr_repulsion(orthogonal, cost="rbf", rho=2.0).item() == pytest.approx(-4.0)
    debiased = cacr_repulsion(orthogonal, debias=0.2).item()
    assert debiased == pytest.approx(-2.0 / 0.8)


@pytest.mark.parametrize("kernel", ["euclidean", "rbf"])
@pytest.mark.parametrize("taught", [False, True])
def test_logs_are_the_two_terms_of_the_loss(kernel: Any, taught: bool) -> None:
    views, objective = random_views(3, 5), CACR(cost=kernel)
    output = objective(views, targets=random_views(3, 5, seed=1) if taught else None)
    assert sum(output.logs[k].item() for k in ("attraction", "repulsion")) == pytest.approx(output.loss.item())


def test_samples_of_one_weight_change_the_loss_of_a_gaussian_to_first_order() -> None:
    """The logarithm of a mean has no losses of single samples; its gradient has."""
    views = random_views(2, 4).requires_grad_()
    objective = CACR(cost="rbf")
    gradients = []
    for weights in (*torch.eye(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)):
        gradients.append(torch.autograd.grad(objective(views, weights=weights).loss, views)[0])
    torch.testing.assert_close(sum(gradients[:4]), gradients[4])


@pytest.mark.parametrize("kernel", ["euclidean", "rbf"])
@pytest.mark.parametrize("taught", [False, True])
def test_a_queue_adds_negatives_and_a_batch_of_one_patient_teaches_by_them_alone(kernel: Any, taught: bool) -> None:
    objective, patient = CACR(cost=kernel, queue=4), torch.zeros(3, dtype=torch.long)
    objective.fit_width(7)
    targets = random_views(2, 3, seed=3).float() if taught else None
    views = random_views(2, 3).float().requires_grad_()
    nothing = objective(views, group=patient, targets=targets)
    nothing.loss.backward()
    assert nothing.loss.item() == 0 and views.grad is not None and not views.grad.any()
    something = objective(views, group=patient + 1, targets=targets)
    something.loss.backward()
    assert something.loss.item() != 0 and views.grad.isfinite().all() and views.grad.any()
    assert something.logs["samples_with_negatives"].item() == 1


def test_the_queue_enters_the_repulsion() -> None:
    objective = CACR(t_neg=0.0, queue=3)
    objective.fit_width(4)
    objective(torch.eye(4)[:3].expand(2, 3, 4))
    views = torch.eye(4)[[3, 2]].expand(2, 2, 4)
    found = objective.eval()(views).logs["repulsion"].item()
    # first sample: one negative of the batch and three of the queue, all at 2; second: 2, 2, 2 and its copy at 0
    assert found == pytest.approx(-(2 + 6 / 4) / 2)
    assert math.isfinite(found)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="t_pos and t_neg"):
        CACR(t_neg=-1)
    with pytest.raises(ConfigError, match="debias from 0 to below 1"):
        CACR(debias=1.0)
    with pytest.raises(ConfigError, match="'euclidean' and 'rbf'"):
        CACR(cost="cosine")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="alpha above 0"):
        CACR(alpha=0)
