"""DINO: a reference written pair by pair, its teacher, centre and schedule; KoLeo."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.assignment import sinkhorn
from medssl.objectives.dino import DINO, koleo


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def ready(width: int = 6, **options: object) -> DINO:
    settings: dict[str, object] = {"prototypes": 5, "frozen": 0.0} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = DINO(**settings)  # type: ignore[arg-type]
        objective.fit_width(width)
    return objective.double()


def reference(views: Tensor, targets: Tensor, objective: DINO, temperature: float) -> Tensor:
    """The definition: the teacher's view u against every other view v of the student, sample by sample."""
    student = unit(views) @ unit(objective.prototypes).T
    teacher = (unit(targets) @ unit(objective.teacher_prototypes).T).detach()
    if objective.assignment == "sinkhorn":
        q = sinkhorn(teacher.flatten(0, 1), epsilon=temperature, iterations=3).view_as(teacher)
    else:
        q = ((teacher - objective.centre) / temperature).softmax(-1)
    losses = []
    for u, v in itertools.product(range(len(targets)), range(len(views))):
        if u != v:
            losses += [-(a * (b / 0.1).log_softmax(0)).sum() for a, b in zip(q[u], student[v], strict=True)]
    return torch.stack(losses).mean()


def reference_koleo(x: Tensor) -> Tensor:
    x = unit(x)
    losses = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        nearest = max(others, key=lambda j: float(x[i].detach() @ x[j].detach()))
        losses.append(-((x[i] - x[nearest] + 1e-8).norm() + 1e-8).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("assignment", ["centre", "sinkhorn"])
@pytest.mark.parametrize(("v", "n"), [(2, 4), (2, 1), (5, 3)])
def test_equals_the_loops_in_value_and_gradient(v: int, n: int, assignment: str) -> None:
    objective, targets = ready(assignment=assignment), random(2, n, 6, seed=1)
    objective.centre.copy_(0.1 * random(5, seed=2))
    fast, slow = random(v, n, 6).requires_grad_(), random(v, n, 6).requires_grad_()
    wanted = reference(slow, targets, objective, 0.07)
    (by_hand,) = torch.autograd.grad(wanted, objective.prototypes, retain_graph=True)
    wanted.backward()
    objective.zero_grad()
    value = objective(fast, targets=targets).loss
    value.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(objective.prototypes.grad, by_hand, atol=1e-12, rtol=0)


def test_only_the_first_views_of_the_teacher_count() -> None:
    objective, views, targets = ready().eval(), random(4, 3, 6), random(4, 3, 6, seed=1)
    loss = objective(views, targets=targets).loss.item()
    assert objective(views, targets=targets[:2]).loss.item() == loss
    assert objective(views, targets=targets[:2].flip(0)).loss.item() != pytest.approx(loss)
    assert ready(globals=3).eval()(views, targets=targets).loss.item() != pytest.approx(loss)


def test_teacher_gets_no_gradient_and_follows_the_student() -> None:
    objective, targets = ready(), random(2, 3, 6, seed=1).requires_grad_()
    objective(random(2, 3, 6), targets=targets).loss.backward()
    assert targets.grad is None and not objective.teacher_prototypes.requires_grad
    start = objective.teacher_prototypes.clone()
    assert torch.equal(start, objective.prototypes.detach())
    with torch.no_grad():
        objective.prototypes.add_(1.0)
    objective.follow(0.9)
    torch.testing.assert_close(objective.teacher_prototypes, start + 0.1)
    objective.follow(1.0)
    torch.testing.assert_close(objective.teacher_prototypes, start + 0.1)


def test_centre_moves_after_the_loss_in_training_with_the_raw_scores() -> None:
    objective, views, targets = ready(), random(2, 3, 6), random(2, 3, 6, seed=1)
    assert objective(views, targets=targets).loss.item() == pytest.approx(
        reference(views, targets, ready(), 0.07).item()
    )
    raw = unit(targets) @ unit(objective.teacher_prototypes).T
    torch.testing.assert_close(objective.centre, 0.1 * raw.mean((0, 1)))
    held = objective.centre.clone()
    objective.eval()(views, targets=targets)
    assert torch.equal(objective.centre, held)
    by_sinkhorn = ready(assignment="sinkhorn")
    by_sinkhorn(views, targets=targets)
    assert not by_sinkhorn.centre.any(), "either or"


def test_teacher_becomes_less_sharp_during_the_warm_up() -> None:
    objective, views, targets = ready().eval(), random(2, 3, 6), random(2, 3, 6, seed=1)
    for progress, temperature in ((0.0, 0.04), (0.15, 0.055), (0.3, 0.07), (1.0, 0.07)):
        found = objective(views, targets=targets, progress=progress).loss.item()
        assert found == pytest.approx(reference(views, targets, objective, temperature).item(), abs=1e-12)


def test_prototypes_stand_still_at_the_start() -> None:
    objective, given = ready(frozen=0.1), {"targets": random(2, 3, 6, seed=1)}
    objective(random(2, 3, 6), **given, progress=0.05).loss.backward()
    assert objective.prototypes.grad is not None and not objective.prototypes.grad.any()
    objective(random(2, 3, 6), **given, progress=0.1).loss.backward()
    assert objective.prototypes.grad.any()


@pytest.mark.parametrize("n", [2, 3, 8])
def test_koleo_equals_the_loops_in_value_and_gradient(n: int) -> None:
    fast, slow = random(2, n, 5).requires_grad_(), random(2, n, 5).requires_grad_()
    value, wanted = koleo(fast), torch.stack([reference_koleo(x) for x in slow])
    torch.testing.assert_close(value, wanted, atol=1e-12, rtol=0)
    value.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_koleo_by_hand() -> None:
    opposite = torch.tensor([[[1.0, 0.0], [-3.0, 0.0]]])
    assert koleo(opposite).item() == pytest.approx(-math.log(2), abs=1e-6)
    orthogonal = torch.eye(4).unsqueeze(0)
    assert koleo(orthogonal).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-6)


def test_koleo_of_duplicates_and_of_one_sample_is_finite() -> None:
    x = torch.ones(2, 4, 5, requires_grad=True)
    koleo(x).sum().backward()
    assert koleo(x).isfinite().all() and x.grad is not None and x.grad.isfinite().all()
    assert not koleo(torch.randn(2, 1, 5)).any()


def test_koleo_is_added_with_its_weight_for_every_first_view() -> None:
    views, targets = random(3, 4, 6), random(3, 4, 6, seed=1)
    plain, spread = ready().eval(), ready(koleo=0.1).eval()
    wanted = plain(views, targets=targets).loss + 0.1 * koleo(views[:2]).sum()
    assert spread(views, targets=targets).loss.item() == pytest.approx(wanted.item())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="'centre' or 'sinkhorn', not 'none'"):
        DINO(assignment="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="teacher temperature above 0"):
        DINO(teacher_temperature=(0.0, 0.07))
    with pytest.raises(ConfigError, match="2 or more prototypes"):
        DINO(prototypes=1)
    with pytest.raises(ConfigError, match="warmup from 0 to 1"):
        DINO(warmup=30)
