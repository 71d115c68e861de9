"""AutoTCL's gate and losses: references written in loops, limits that can be worked out by hand, and symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.objectives.autotcl import (
    kept_beyond,
    local_contrast,
    max_mean_discrepancy,
    one_way_info_nce,
    relaxed_gate,
    sampled_variation,
    straight_through,
    temporal_variation,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_gate_equals_its_equation_and_lies_between_0_and_1() -> None:
    w, u = 4 * random(5, 7), torch.rand(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    b, gamma, temperature = 0.1, 0.3, 0.7
    gate = relaxed_gate(w, u, bias=b, stretch=gamma, temperature=temperature)
    for got, logit, noise in zip(gate.flatten().tolist(), w.flatten().tolist(), u.flatten().tolist(), strict=True):
        eps = (2 * b - 1) * noise + (1 - b)
        a = 1 / (1 + math.exp(-(math.log(eps) - math.log(1 - eps) + logit) / temperature))
        assert got == pytest.approx(min(1.0, max(0.0, a * (1 + gamma) - gamma)), abs=1e-12)
    assert gate.min() == 0 and 0.9 < gate.max() <= 1  # the stretch reaches 0, never above 1


def test_cold_gate_is_a_bernoulli_variable_of_the_logit() -> None:
    u = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for logit in (-2.0, 0.0, 1.0):
        w = torch.full_like(u, logit)
        gate = relaxed_gate(w, u, bias=1e-9, stretch=0.0, temperature=1e-4)
        assert ((gate < 1e-3) | (gate > 1 - 1e-3)).double().mean() > 0.999
        assert float(gate.mean()) == pytest.approx(1 / (1 + math.exp(-logit)), abs=0.005)


def test_noise_stays_finite_at_its_ends() -> None:
    w = torch.zeros(2).requires_grad_()
    gate = relaxed_gate(w, torch.tensor([0.0, 1.0]), bias=0.001)
    gate.sum().backward()
    assert gate.isfinite().all() and w.grad is not None and w.grad.isfinite().all()


def test_hard_gate_is_binary_with_the_soft_gradient() -> None:
    w = random(30).requires_grad_()
    soft = relaxed_gate(w, None, stretch=0.1)
    hard = straight_through(soft)
    assert set(hard.tolist()) == {0.0, 1.0} and torch.equal(hard > 0.5, soft > 0.5)
    weights = random(30, seed=1)
    (wanted,) = torch.autograd.grad((soft * weights).sum(), w, retain_graph=True)
    (found,) = torch.autograd.grad((hard * weights).sum(), w)
    assert torch.equal(found, wanted)
    assert float(straight_through(torch.tensor(0.5))) == 0.5


def test_contrast_goes_one_way() -> None:
    x, v = random(5, 4), random(5, 4, seed=1)
    loss, logits = one_way_info_nce(x, v, temperature=0.3)
    losses = []
    for i in range(5):
        s = [float(x[i] @ v[j] / (x[i].norm() * v[j].norm())) / 0.3 for j in range(5)]
        losses.append(math.log(sum(map(math.exp, s))) - s[i])
        assert logits[i].tolist() == pytest.approx(s)
    assert float(loss) == pytest.approx(sum(losses) / 5)
    assert float(one_way_info_nce(v, x, temperature=0.3)[0]) != pytest.approx(float(loss))


def test_contrast_of_orthogonal_rows_and_of_a_single_one() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    assert float(one_way_info_nce(3 * eye, eye)[0]) == pytest.approx(math.log(1 + 5 * math.exp(-1)))
    assert float(one_way_info_nce(eye[:1], eye[:1])[0]) == 0
    part, _ = one_way_info_nce(eye[2:4], eye, first=2)  # what one of three processes does
    assert float(part) == pytest.approx(math.log(1 + 5 * math.exp(-1)))


def discrepancy_loops(x: Tensor, y: Tensor) -> float:
    rows = [*x, *y]
    n = len(rows)
    width = sum(float((a - b).square().sum()) for a in rows for b in rows) / (n * n - n)

    def kernel(a: Tensor, b: Tensor) -> float:
        return sum(math.exp(-float((a - b).square().sum()) / (width * 2.0 ** (k - 2))) for k in range(5))

    pairs = [(i, j) for i in range(len(x)) for j in range(len(x))]
    terms = [kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(y[i], x[j]) for i, j in pairs]
    return sum(terms) / len(terms)


def test_discrepancy_equals_the_loops() -> None:
    x, y = random(4, 3), 0.5 + random(4, 3, seed=1)
    found = max_mean_discrepancy(x, y)
    assert float(found) == pytest.approx(discrepancy_loops(x, y))
    assert float(found) > 0 and float(max_mean_discrepancy(y, x)) == pytest.approx(float(found))


def test_discrepancy_of_a_sample_and_itself_is_0() -> None:
    x = random(6, 3)
    assert abs(float(max_mean_discrepancy(x, x.clone()))) < 1e-12
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert abs(float(max_mean_discrepancy(x, x[order]))) < 1e-12
    flat = torch.ones(4, 3, requires_grad=True)  # no spread at all: a width of 0
    loss = max_mean_discrepancy(flat, flat)
    loss.backward()
    assert float(loss.detach()) == 0 and flat.grad is not None and flat.grad.isfinite().all()


def local_loops(steps: Tensor, start: int, temperature: float) -> list[float]:
    length = steps.shape[1] // 16
    losses = []
    for series in steps:
        unit = [step / step.norm() for step in series[start:]]
        pooled = [torch.stack(unit[i * length : (i + 1) * length]).amax(0) for i in range(16)]
        terms = []
        for i in range(16):
            positive = i + 1 if i < 15 else 14
            left_out = {i - 1, i, i + 1} | ({2} if i == 0 else set()) | ({13} if i == 15 else set())
            negatives = [k for k in range(16) if k not in left_out]
            assert len(negatives) == 13
            s = [math.exp(float(pooled[i] @ pooled[k]) / temperature) for k in (positive, *negatives)]
            terms.append(-math.log(s[0] / sum(s)))
        losses.append(sum(terms) / 16)
    return losses


@pytest.mark.parametrize(("steps", "start"), [(16, 0), (35, 3), (50, 0)])
def test_local_contrast_equals_the_loops(steps: int, start: int) -> None:
    z = random(3, steps, 4)
    assert local_contrast(z, start, temperature=0.6).tolist() == pytest.approx(local_loops(z, start, 0.6))


def test_local_contrast_of_few_steps_is_0_and_of_equal_ones_log_14() -> None:
    assert local_contrast(random(2, 15, 3), 0).tolist() == [0, 0]
    assert local_contrast(torch.ones(1, 32, 3, dtype=torch.float64), 0).item() == pytest.approx(math.log(14))


def test_what_is_kept_beyond_the_share() -> None:
    assert float(kept_beyond(torch.full((2, 5, 3), 0.7), 0.4)) == pytest.approx(0.3)
    assert float(kept_beyond(torch.full((2, 5, 3), 0.3), 0.4)) == 0


def test_variation_counts_steps_of_the_gate() -> None:
    square = torch.tensor([0.0, 0, 1, 1, 0]).view(1, 5, 1)
    assert float(temporal_variation(square)) == pytest.approx(2 / 4)
    assert float(temporal_variation(torch.ones(2, 5, 3))) == 0


def test_published_variation_equals_the_loops() -> None:
    p = random(3, 9, 2).sigmoid()
    first, second = torch.tensor([1, 4, 6]), torch.tensor([5, 5, 2])
    terms = []
    for series in p:
        for s, t in zip(first.tolist(), second.tolist(), strict=True):
            for c in range(2):
                q = series[:, c].tolist()
                across = abs(q[s] - q[t])
                terms.append(abs(q[s] - q[s - 1]) + abs(q[s] - q[s + 1]) + (across if t - s > 1 else 1 - across))
    assert float(sampled_variation(p, first, second)) == pytest.approx(sum(terms) / len(terms))


def test_everything_is_float32_in_half_precision() -> None:
    x, y = random(4, 32, 3).bfloat16(), random(4, 32, 3, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            relaxed_gate(x, None), one_way_info_nce(x[:, 0], y[:, 0])[0], max_mean_discrepancy(x[:, 0], y[:, 0]),
            local_contrast(x, 0), kept_beyond(x, 0.4), temporal_variation(x),
        ]  # fmt: skip
    assert all(f.dtype == torch.float32 for f in found)
