"""iSogCLR against a loop-written reference, what it minimises, its memory and its masks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.individual_temperature import (
    ISogCLR,
    SampleMemory,
    averaged_over_repeats,
    isogclr_step,
    moved,
    surrogate,
)

SETTINGS = {"rho": 0.4, "gamma": 0.7, "beta": 0.6, "eta": 0.05, "low": 0.05, "high": 1.0, "clip": 3.0}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def memory(n: int) -> SampleMemory:
    return SampleMemory(random(n, seed=7), random(n, seed=8), 0.1 + 0.3 * random(n, seed=9).abs())


def reference(
    x: Tensor, s: Tensor, u: Tensor, tau: Tensor, first: list[bool],
    *, rho: float, gamma: float, beta: float, eta: float, low: float, high: float, clip: float,
    group: list[int] | None = None, labels: list[int] | None = None,
) -> tuple[Tensor, dict[int, tuple[float, float, float]]]:  # fmt: skip
    """The definition with plain exponentials, one anchor after the other; the memory of samples that have negatives."""
    k, n, _ = x.shape
    group, labels = group or list(range(n)), labels or list(range(n))
    losses, after = [], {}
    for i in range(n):
        others = [j for j in range(n) if group[j] != group[i] and labels[j] != labels[i]]
        if not others:
            continue
        of_views, means, slopes = [], [], []
        for a in range(k):
            negatives = torch.stack([x[a, i] @ x[b, j] for b in range(k) for j in others])
            positives = [x[a, i] @ x[b, i] for b in range(k) if b != a]
            positives += [x[a, i] @ x[b, j] for b in range(k) for j in range(n) if j != i and labels[j] == labels[i]]
            e = (negatives.detach() / tau[i]).exp()
            mean = e.mean() if first[i] else (1 - gamma) * s[i] + gamma * e.mean()
            w = e / mean
            of_views.append((w * negatives).mean() - torch.stack(positives).mean())
            means.append(mean)
            slopes.append(mean.log() + rho - (w * negatives.detach()).mean() / tau[i])
        losses.append(2 * torch.stack(of_views).mean())
        slope = torch.stack(slopes).mean().clamp(-clip, clip)
        new_u = (1 - beta) * u[i] + beta * slope
        new_tau = (tau[i] - eta * new_u).clamp(low, high)
        after[i] = (torch.stack(means).mean().item(), new_u.item(), new_tau.item())
    return torch.stack(losses).mean(), after


@pytest.mark.parametrize("gamma", [0.3, 1.0])
@pytest.mark.parametrize(("k", "n"), [(2, 2), (2, 6), (3, 4)])
def test_step_equals_the_loops_in_value_gradient_and_memory(k: int, n: int, gamma: float) -> None:
    before, first = memory(n), [i % 2 == 0 for i in range(n)]
    fast, slow = (unit(random(k, n, 5)).requires_grad_() for _ in range(2))
    settings = {**SETTINGS, "gamma": gamma}
    loss, after = isogclr_step(fast, before, torch.tensor(first), **settings)
    wanted, known = reference(slow, before.log_s.exp(), before.u, before.tau, first, **settings)
    loss.backward()
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=1e-12)
    found = torch.stack([after.log_s.exp(), after.u, after.tau], dim=1)
    torch.testing.assert_close(found, torch.tensor([known[i] for i in range(n)], dtype=torch.float64))


def test_without_history_its_gradient_is_that_of_temperature_times_the_decoupled_cross_entropy() -> None:
    fast, slow = (unit(random(2, 5, 4)).requires_grad_() for _ in range(2))
    before = memory(5)
    loss, after = isogclr_step(fast, before, torch.zeros(5, dtype=torch.bool), **{**SETTINGS, "gamma": 1.0, "eta": 0.0})
    loss.backward()
    total = slow.sum() * 0
    for a in range(2):
        for i in range(5):
            s = torch.stack([slow[a, i] @ slow[b, j] for b in range(2) for j in range(5) if j != i])
            log_mean = (s / before.tau[i]).logsumexp(0) - math.log(len(s))
            total = total + (before.tau[i] * log_mean - slow[a, i] @ slow[1 - a, i]) / 5
    total.backward()
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=1e-10)
    assert torch.equal(after.tau, before.tau)


def test_slope_is_the_gradient_of_the_objective_with_respect_to_the_temperature() -> None:
    similarity = random(1, 4, 9).tanh()
    negatives = torch.ones(4, 9, dtype=torch.bool)
    before = memory(4)
    tau = before.tau.clone().requires_grad_()
    found = surrogate(
        similarity, torch.zeros(1, 4, dtype=torch.float64), negatives, before, torch.ones(4, dtype=torch.bool),
        rho=0.4, gamma=0.7,
    )  # fmt: skip
    objective = (tau * ((similarity / tau.unsqueeze(-1)).logsumexp(-1) - math.log(9)) + tau * 0.4).sum()
    objective.backward()
    torch.testing.assert_close(found.slope[0], tau.grad, atol=1e-12, rtol=1e-10)
    assert found.objective.sum().item() == pytest.approx(objective.item())


def test_a_larger_rho_lowers_the_temperatures() -> None:
    x, before, first = unit(random(2, 6, 4)), memory(6), torch.ones(6, dtype=torch.bool)
    low, high = (isogclr_step(x, before, first, **{**SETTINGS, "rho": rho})[1].tau for rho in (0.1, 0.5))
    assert (high < low).all()


def test_far_apart_moments_neither_overflow_nor_vanish() -> None:
    """exp(±200) leaves float32 (its range ends at exp(88)); the logarithm does not."""
    tau = torch.full((3,), 0.005)
    x = torch.nn.functional.normalize(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    for log_s in (-500.0, -torch.inf, 200.0):
        before = SampleMemory(torch.full((3,), log_s), torch.zeros(3), tau)
        leaf = x.clone().requires_grad_()
        loss, after = isogclr_step(leaf, before, torch.zeros(3, dtype=torch.bool), **SETTINGS)
        loss.backward()
        assert loss.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()
        assert all(part.isfinite().all() for part in after)


def test_weights_stay_bounded_when_the_history_was_much_smaller() -> None:
    similarity = torch.tensor([[[0.9, -0.9, 0.0, 0.1]]], dtype=torch.float64)
    before = SampleMemory(*(torch.full((1,), v, dtype=torch.float64) for v in (-80.0, 0.0, 0.05)))
    similarity.requires_grad_()
    found = surrogate(
        similarity, torch.zeros(1, 1), torch.ones(1, 4, dtype=torch.bool), before, torch.zeros(1, dtype=torch.bool),
        rho=0.3, gamma=0.8,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(found.losses.sum(), similarity)
    assert gradient.sum().item() == pytest.approx(1 / 0.8)  # M weights of mean 1/γ


def test_what_stands_twice_in_a_batch_is_averaged() -> None:
    index, valid = torch.tensor([4, 7, 4, 7, 9]), torch.tensor([True, True, True, False, False])
    log_s, slope = torch.tensor([0.0, 1.0, 2.0, 50.0, 3.0]), torch.tensor([1.0, 5.0, 3.0, 50.0, 7.0])
    mean, slopes, known = averaged_over_repeats(index, valid, log_s, slope)
    assert mean[[0, 2]].tolist() == pytest.approx([math.log((1 + math.e**2) / 2)] * 2)
    assert mean[[1, 3]].tolist() == [1, 1] and slopes[:4].tolist() == [2, 5, 2, 5]
    assert known.tolist() == [True, True, True, True, False]


# --- the objective ------------------------------------------------------------------------------------------------


def objective(samples: int = 12, **options: Any) -> ISogCLR:
    made = ISogCLR(**{"eta": 0.05, **options})
    made.remember(samples)
    return made.double()


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize(
    ("group", "labels"),
    [(None, None), ([0, 0, 1, 2, 1], None), (None, [0, 1, 1, 2, 1]), ([0, 0, 0, 0, 1], None), ([0, 0, 0, 0, 0], None)],
)
def test_two_steps_equal_the_loops_with_groups_and_labels(
    group: list[int] | None, labels: list[int] | None, chunk: int
) -> None:
    made, index = objective(chunk=chunk), torch.tensor([3, 0, 8, 11, 5])
    settings = {"rho": 0.3, "gamma": 0.8, "beta": 0.5, "eta": 0.05, "low": 0.05, "high": 1.0, "clip": 3.0}
    s, u, tau = torch.zeros(5), torch.zeros(5), torch.full((5,), 0.1)
    s, u, tau = (x.double() for x in (s, u, tau))
    for step in range(2):
        fast, slow = (random(3, 5, 4, seed=step).requires_grad_() for _ in range(2))
        loss = made(
            fast, index=index, group=None if group is None else torch.tensor(group),
            labels=None if labels is None else torch.tensor(labels),
        ).loss  # fmt: skip
        loss.backward()
        if group == [0] * 5:
            assert loss.item() == 0 and made.log_s.isneginf().all() and not made.u.any()
            continue
        wanted, after = reference(unit(slow), s, u, tau, [step == 0] * 5, **settings, group=group, labels=labels)
        wanted.backward()
        assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
        torch.testing.assert_close(fast.grad, slow.grad, atol=1e-11, rtol=1e-9)
        for i, known in after.items():
            s[i], u[i], tau[i] = known
        for kept, known in ((made.log_s.exp(), s), (made.u, u), (made.tau, tau)):
            torch.testing.assert_close(kept[index], known, rtol=1e-12, atol=1e-12)
    others = [i for i in range(12) if i not in index]
    assert made.log_s[others].isneginf().all() and (made.tau[others] == torch.tensor(0.1).double()).all()


def test_a_recording_that_comes_twice_is_no_negative_of_itself() -> None:
    made, x = objective().eval(), random(2, 3, 4)
    twice = x[:, [0, 1, 2, 0]]
    with_group = made(twice, index=torch.tensor([0, 1, 2, 0]), group=torch.tensor([0, 1, 2, 0])).loss
    assert made(twice, index=torch.tensor([0, 1, 2, 0])).loss.item() == with_group.item()
    assert made(twice, index=torch.tensor([0, 1, 2, 3])).loss.item() != with_group.item()


def test_frequent_kinds_get_larger_temperatures_than_rare_ones() -> None:
    torch.manual_seed(0)
    kinds = torch.eye(32)
    frequent = torch.nn.functional.normalize(kinds[:1] + 0.05 * torch.randn(8, 32), dim=-1)
    x = torch.cat([frequent, kinds[1:25]])
    made = ISogCLR()
    made.remember(32)
    for _ in range(100):
        made(torch.stack([x, x]), index=torch.arange(32))
    assert made.tau[:8].min() > 1.5 * made.tau[8:].max()


def test_it_logs_the_objective_that_falls_while_free_embeddings_are_told_apart() -> None:
    torch.manual_seed(0)
    made = ISogCLR()
    made.remember(16)
    x = torch.randn(2, 16, 8, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=1e-2)
    history = []
    for _ in range(200):
        output = made(x, index=torch.arange(16))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        history.append(output.logs["objective"].item())
    z = torch.nn.functional.normalize(x.detach(), dim=-1)
    assert history[-1] < history[0] - 0.5
    assert (z[0] * z[1]).sum(-1).mean() > 0.9 and (z[0] @ z[0].T - torch.eye(16)).abs().mean() < 0.5


def test_moved_clips_at_both_ends() -> None:
    before = SampleMemory(torch.zeros(2), torch.tensor([9.0, -9.0]), torch.tensor([0.1, 0.9]))
    after = moved(before, torch.zeros(2), torch.zeros(2), beta=0.5, eta=1.0, low=0.05, high=1.0)
    assert after.tau.tolist() == pytest.approx([0.05, 1.0]) and after.u.tolist() == [4.5, -4.5]


def test_bad_arguments_are_refused() -> None:
    for options, what in (
        ({"gamma": 0.0}, "gamma"), ({"gamma": 1.5}, "gamma 1.5"), ({"beta": -0.1}, "beta -0.1"),
        ({"temperature": 2.0}, "from 0.05"), ({"low": 0.0}, "low"), ({"rho": -1.0}, "rho -1.0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            ISogCLR(**options)
