"""SimDINO: alignment pair by pair, limits of the coding rate, and what keeps it finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.sim_dino import SimDINO, alignment, coding_rate, expansion


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def reference(views: Tensor, targets: Tensor, *, epsilon: float, weight: float, both: bool) -> Tensor:
    """The definition, pair by pair, with the p x p covariance."""
    s, t = unit(views), unit(targets[:2])
    pairs = [(t[u] * s[v]).sum(-1).mean() for u in range(len(t)) for v in range(len(s)) if u != v]
    m, p = s.shape[1:]
    rates = []
    for g in range(len(t)):
        z = (s[g] + t[g]) / 2 if both else s[g]
        rates.append(torch.logdet(torch.eye(p).double() + p / (m * epsilon) * z.T @ z) / 2)
    return -weight * torch.stack(pairs).mean() - (p + m) / (p * m) * torch.stack(rates).mean()


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("v", "m", "p"), [(2, 5, 3), (2, 3, 5), (4, 4, 4), (3, 2, 7)])
def test_equals_the_loops_in_value_and_gradient(v: int, m: int, p: int, both: bool) -> None:
    fast, slow = random(v, m, p).requires_grad_(), random(v, m, p).requires_grad_()
    targets = random(v, m, p, seed=1)
    objective = SimDINO(epsilon=0.1, weight=2.0, expansion="both" if both else "student")
    value = objective(fast, targets=targets).loss
    wanted = reference(slow, targets, epsilon=0.1, weight=2.0, both=both)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_rate_of_identical_rows_and_of_rows_that_fill_the_space() -> None:
    same = torch.zeros(6, 4).double()
    same[:, 0] = 1
    assert coding_rate(same, epsilon=0.05).item() == pytest.approx(0.5 * math.log(1 + 4 / 0.05))
    spread = torch.eye(4).double().repeat(3, 1)
    most = coding_rate(spread, epsilon=0.05).item()
    assert most == pytest.approx(0.5 * 4 * math.log(1 + 1 / 0.05))
    for seed in range(10):
        assert coding_rate(same, epsilon=0.05).item() < coding_rate(unit(random(12, 4, seed=seed)), epsilon=0.05) < most


@pytest.mark.parametrize(("m", "p"), [(4, 7), (7, 4), (1, 5)])
def test_rate_does_not_depend_on_rotation_order_or_which_product_is_factorised(m: int, p: int) -> None:
    z = random(m, p)
    rate = coding_rate(z, epsilon=0.1)
    rotation, _ = torch.linalg.qr(random(p, p, seed=1))
    torch.testing.assert_close(coding_rate(z @ rotation, epsilon=0.1), rate)
    torch.testing.assert_close(coding_rate(z.flip(0), epsilon=0.1), rate)
    large, small = z.T @ z, z @ z.T
    for product in (large, small):
        wanted = torch.logdet(torch.eye(len(product)).double() + p / (m * 0.1) * product) / 2
        torch.testing.assert_close(wanted, rate)
    assert coding_rate(0.5 * z, epsilon=0.1) < rate < coding_rate(z, epsilon=0.05)


def test_gradient_of_the_rate_is_that_of_finite_differences() -> None:
    for shape in ((3, 5), (5, 3)):
        z = random(*shape).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: coding_rate(x, epsilon=0.1), (z,))


@pytest.mark.parametrize("epsilon", [0.05, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("kind", ["identical", "nearly"])
def test_rate_stays_finite_and_right_where_rounding_would_break_the_factorisation(kind: str, epsilon: float) -> None:
    z = unit(torch.ones(96, 128) + (0 if kind == "identical" else 1e-3) * random(96, 128).float())
    z.requires_grad_()
    rate = coding_rate(z, epsilon=epsilon)
    rate.backward()
    assert rate.isfinite() and z.grad is not None and z.grad.isfinite().all()
    if epsilon >= 1e-3:
        exact = coding_rate(z.detach().double(), epsilon=epsilon)
        assert rate.item() == pytest.approx(exact.item(), rel=1e-3)


def test_alignment_is_one_for_equal_views_and_leaves_out_the_own_view() -> None:
    view = unit(random(1, 4, 6))
    assert alignment(view.expand(3, 4, 6), view.expand(2, 4, 6)).item() == pytest.approx(1)
    assert alignment(view.expand(3, 4, 6), -view.expand(2, 4, 6)).item() == pytest.approx(-1)
    student = unit(random(2, 4, 6)).requires_grad_()
    teacher = torch.stack([random(4, 6, seed=1), torch.zeros(4, 6).double()])
    alignment(student, teacher).backward()
    assert student.grad is not None and not student.grad[0].any(), "only its own view is not 0"
    assert student.grad[1].any()


def test_teacher_part_of_the_expansion_has_no_gradient_and_halves_the_students() -> None:
    student, teacher = random(2, 4, 3).requires_grad_(), random(2, 4, 3, seed=1).requires_grad_()
    expansion(student, teacher, epsilon=0.1, of="both").backward()
    assert teacher.grad is None and student.grad is not None
    mean = ((student + teacher) / 2).detach().requires_grad_()
    expansion(mean, teacher, epsilon=0.1, of="student").backward()
    torch.testing.assert_close(student.grad, mean.grad / 2)


def test_training_spreads_collapsed_embeddings() -> None:
    torch.manual_seed(0)
    free = torch.nn.Parameter(torch.ones(16, 8) + 0.01 * torch.randn(16, 8))
    optimizer, objective = torch.optim.Adam([free], lr=5e-2), SimDINO()
    history = []
    for _ in range(100):
        optimizer.zero_grad()
        output = objective(free.expand(2, 16, 8), targets=free.detach().expand(2, 16, 8))
        output.loss.backward()
        optimizer.step()
        history.append(output.logs["expansion"].item())
    assert history[-1] > 3 * history[0]
    assert output.logs["alignment"].item() == pytest.approx(1, abs=1e-5)


def test_one_sample_is_refused_and_so_are_bad_settings() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        SimDINO()(random(2, 1, 4), targets=random(2, 1, 4))
    with pytest.raises(ConfigError, match="'student' or 'both', not 'teacher'"):
        SimDINO(expansion="teacher")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="epsilon above 0"):
        SimDINO(epsilon=0)
    with pytest.raises(ConfigError, match="1 or more globals"):
        SimDINO(globals=0)
