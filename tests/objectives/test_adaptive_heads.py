"""AMCL against a loop-written reference, its limits, its temperatures, and its masks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.adaptive_heads import AMCL, Form, PairTemperature, ParallelHeads, amcl, gaussian_penalty


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def omega(temperature: Tensor, width: int) -> Tensor:
    return width / 2 * temperature.log() + 1 / temperature


def reference(a: Tensor, b: Tensor, own: Tensor, other: Tensor, *, beta: float, form: Form, hardest: int = 1) -> Tensor:
    """The definition, one head and one sample after the other."""
    heads, n, d = a.shape
    total = a.sum() * 0
    for c in range(heads):
        for i in range(n):
            negatives = [j for j in range(n) if j != i]
            s = [unit(a[c, i]) @ unit(b[c, j]) for j in range(n)]
            positive = s[i] / own[c, i] - beta * omega(own[c, i], d)
            if form == "soft":
                logits = [s[i] / own[c, i]] + [s[j] / other[c, i, j] for j in negatives]
                repulsion = torch.stack(logits).logsumexp(0)
                repulsion = repulsion - beta * torch.stack([omega(other[c, i, j], d) for j in negatives]).mean()
            else:
                chosen = sorted(negatives, key=lambda j: -s[j].item())[:hardest]
                repulsion = torch.stack([s[j] / other[c, i, j] - beta * omega(other[c, i, j], d) for j in chosen])
                repulsion = repulsion.mean()
            total = total + (repulsion - positive) / n
    return total


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(("form", "hardest"), [("soft", 1), ("hard", 1), ("hard", 2)])
@pytest.mark.parametrize(("heads", "n"), [(1, 3), (3, 5)])
def test_equals_the_loops_in_value_and_gradient(heads: int, n: int, form: Form, hardest: int, beta: float) -> None:
    given = [
        random(heads, n, 6, seed=1), random(heads, n, 6, seed=2),
        0.1 + random(heads, n, seed=3).abs(), 0.1 + random(heads, n, n, seed=4).abs(),
    ]  # fmt: skip
    gradients = []
    values = []
    for function in (amcl, reference):
        leaves = [x.clone().requires_grad_() for x in given]
        value = function(*leaves, beta=beta, form=form, hardest=hardest)
        value.backward()
        values.append(value.item())
        gradients.append([x.grad for x in leaves])
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    for fast, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-12)


def test_one_head_and_one_temperature_are_the_cross_entropy_over_the_other_view() -> None:
    a, b = random(1, 5, 4, seed=1), random(1, 5, 4, seed=2)
    one = torch.full((1, 5), 0.3, dtype=torch.float64)
    logits = torch.nn.functional.normalize(a[0], dim=-1) @ torch.nn.functional.normalize(b[0], dim=-1).T / 0.3
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(5))
    found = amcl(a, b, one, one.unsqueeze(-1).expand(1, 5, 5), beta=0.0)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)


def test_the_order_of_the_heads_does_not_matter() -> None:
    given = [random(3, 4, 5, seed=s) for s in (1, 2)]
    given += [0.1 + random(3, 4, seed=3).abs(), 0.1 + random(3, 4, 4, seed=4).abs()]
    turned = [x[[2, 0, 1]] for x in given]
    assert amcl(*turned, beta=0.1).item() == pytest.approx(amcl(*given, beta=0.1).item(), abs=1e-12)


def test_penalty_is_least_at_two_over_the_width() -> None:
    temperatures = torch.linspace(0.01, 1, 1000, dtype=torch.float64)
    best = temperatures[gaussian_penalty(temperatures, 16).argmin()].item()
    assert best == pytest.approx(2 / 16, abs=1e-3)


def test_heads_side_by_side_are_separate_networks() -> None:
    torch.manual_seed(0)
    heads = ParallelHeads(5, heads=3, hidden=4, out=2)
    x = torch.randn(2, 6, 5)
    found = heads(x)
    assert found.shape == (3, 2, 6, 2)
    linear, norm, relu = heads.first
    for c in range(3):
        rows = x.flatten(0, 1) @ linear.weight[4 * c : 4 * c + 4].T
        hidden = relu((rows - rows.mean(0)) / (rows.var(0, correction=0) + norm.eps).sqrt())
        wanted = hidden @ heads.weight[c] + heads.bias[c]
        torch.testing.assert_close(found[c].flatten(0, 1), wanted, atol=1e-5, rtol=1e-4)


def test_temperatures_begin_near_the_start_and_stay_in_their_range_with_finite_gradients() -> None:
    torch.manual_seed(0)
    made = PairTemperature(16, low=0.05, high=2.0, start=0.1, hidden=32)
    z = torch.nn.functional.normalize(torch.randn(20, 16), dim=-1)
    phi = made.phi(z)
    temperature = made.of(phi @ phi.T)
    assert torch.equal(temperature, temperature.T) and 0.08 < temperature.mean() < 0.13
    for offset in (-1e4, 1e4):
        with torch.no_grad():
            made.offset.fill_(offset)
        at_the_end = made.of(made.phi(z) @ made.phi(z).T)
        gaussian_penalty(at_the_end, 16).sum().backward()
        assert at_the_end.min() >= 0.05 and at_the_end.max() <= 2.0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def objective(**options: Any) -> AMCL:
    torch.manual_seed(0)
    made = AMCL(heads=2, hidden=6, out=4, temperature_hidden=5, **options)
    made.fit_width(3)
    return made.double()


def looped(made: AMCL, x: Tensor, group: list[int], labels: list[int], keys: Tensor | None = None) -> Tensor:
    """The objective as it is documented: ordered pairs of views, samples without negatives left out."""
    z = torch.nn.functional.normalize(made.heads(x), dim=-1)  # (C, K, N, D)
    z_keys = z if keys is None else torch.nn.functional.normalize(made.heads(keys).detach(), dim=-1)
    heads, k, n, d = z.shape
    losses = []
    for i in range(n):
        negatives = [j for j in range(n) if group[j] != group[i] and labels[j] != labels[i]]
        positives = [j for j in range(n) if j == i or labels[j] == labels[i]]
        if not negatives:
            continue
        for a in range(k):
            for b in range(k):
                if a == b:
                    continue
                loss = x.sum() * 0
                for c in range(heads):
                    s = [z[c, a, i] @ z_keys[c, b, j] for j in range(n)]
                    phi = made.temperature.phi
                    t = [made.temperature.of(phi(z[c, a, i]) @ phi(z_keys[c, b, j])) for j in range(n)]
                    attraction = torch.stack([s[j] / t[j] - made.beta * omega(t[j], d) for j in positives]).mean()
                    if made.form == "soft":
                        repulsion = torch.stack([s[j] / t[j] for j in positives + negatives]).logsumexp(0)
                        repulsion = repulsion - made.beta * torch.stack([omega(t[j], d) for j in negatives]).mean()
                    else:
                        j = max(negatives, key=lambda j: s[j].item())
                        repulsion = s[j] / t[j] - made.beta * omega(t[j], d)
                    loss = loss + repulsion - attraction
                losses.append(loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("form", ["soft", "hard"])
@pytest.mark.parametrize(
    ("group", "labels"),
    [(None, None), ([0, 0, 1, 2, 1], None), (None, [0, 1, 1, 2, 1]), ([0, 0, 0, 0, 1], None), ([0] * 4 + [1], [7] * 5)],
)
def test_objective_equals_the_loops_with_groups_and_labels(
    form: Form, group: list[int] | None, labels: list[int] | None, chunk: int
) -> None:
    made, x = objective(form=form, chunk=chunk).eval(), random(3, 5, 3).requires_grad_()
    found = made(
        x,
        group=None if group is None else torch.tensor(group),
        labels=None if labels is None else torch.tensor(labels),
    ).loss
    if labels == [7] * 5:
        assert found.item() == 0
        return
    wanted = looped(made, x, group or list(range(5)), labels or list(range(5)))
    assert found.item() == pytest.approx(wanted.item(), abs=1e-10)
    parameters = [x, *made.parameters()]
    fast, slow = (torch.autograd.grad(loss, parameters) for loss in (found, wanted))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)


def test_a_teachers_features_pass_through_the_same_heads_without_gradient() -> None:
    made, x, keys = objective().eval(), random(2, 5, 3).requires_grad_(), random(2, 5, 3, seed=9).requires_grad_()
    found = made(x, targets=keys).loss
    found.backward()
    assert found.item() == pytest.approx(looped(made, x, list(range(5)), list(range(5)), keys).item(), abs=1e-10)
    assert keys.grad is None and x.grad is not None


def test_free_features_are_told_apart() -> None:
    torch.manual_seed(0)
    made = AMCL(heads=3, hidden=16, out=8, temperature_hidden=8)
    made.fit_width(8)
    x = torch.randn(2, 16, 8, requires_grad=True)
    optimiser = torch.optim.Adam([x, *made.parameters()], lr=1e-2)
    history = []
    for _ in range(150):
        output = made(x)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        history.append(output)
    assert history[-1].logs["pair_accuracy"] > 0.95 > history[0].logs["pair_accuracy"]
    assert all(0.05 <= history[-1].logs[f"{which}_temperature"] <= 2 for which in ("positive", "negative"))
    assert math.isfinite(history[-1].loss.item()) and history[-1].loss < history[0].loss


def test_bad_arguments_are_refused() -> None:
    for options, what in (
        ({"low": 0.01}, "low 0.01"), ({"start": 3.0}, "start 3.0"), ({"form": "medium"}, "soft and hard"),
        ({"heads": 0}, "heads"), ({"beta": -1.0}, "beta"), ({"hardest": 0}, "hardest"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            AMCL(**options)  # type: ignore[arg-type]
