"""Matryoshka: what each level reads and gives, a reference level by level, its teacher."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.assignment import sinkhorn
from medssl.objectives.dino import koleo
from medssl.objectives.matryoshka import Matryoshka, Nesting

NESTINGS: tuple[Nesting, ...] = ("slice", "project")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ready(width: int = 8, **options: object) -> Matryoshka:
    settings: dict[str, object] = {
        "prototypes": 12, "levels": (0.25, 0.5, 1.0), "hidden": 10, "bottleneck": 6, "frozen": 0.0, "koleo": 0.0,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = Matryoshka(**(settings | options))  # type: ignore[arg-type]
        objective.fit_width(width)
    return objective.double()


def reference(objective: Matryoshka, views: Tensor, targets: Tensor) -> Tensor:
    total = torch.zeros(()).double()
    for student, teacher in zip(objective.heads, objective.teacher_heads, strict=True):
        logits, scores = teacher(targets[:2]), student(views)
        q = sinkhorn(logits.flatten(0, 1), epsilon=0.07, iterations=3).view_as(logits)
        pairs = [
            -(q[u] * (scores[v] / 0.1).log_softmax(-1)).sum(-1).mean()
            for u, v in itertools.product(range(2), range(len(views)))
            if u != v
        ]
        total = total + torch.stack(pairs).mean()
    return total


@pytest.mark.parametrize("nesting", NESTINGS)
def test_equals_the_sum_over_levels(nesting: Nesting) -> None:
    objective = ready(nesting=nesting)
    fast, slow = random(4, 3, 8).requires_grad_(), random(4, 3, 8).requires_grad_()
    targets = random(4, 3, 8, seed=1)
    value, wanted = objective(fast, targets=targets).loss, reference(objective, slow, targets)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("nesting", NESTINGS)
def test_levels_have_their_share_of_features_and_prototypes(nesting: Nesting) -> None:
    objective = ready(nesting=nesting)
    assert [head(random(3, 8)).shape for head in objective.heads] == [(3, 3), (3, 6), (3, 12)]
    assert [head.part for head in objective.heads] == [2, 4, 8]
    tiny = ready(width=4, levels=(0.0625, 1.0), nesting=nesting)
    assert [head.part for head in tiny.heads] == [1, 4]
    assert [len(head.prototypes) for head in tiny.heads] == [3, 12]


def test_a_sliced_level_ignores_later_features_and_a_projected_one_does_not() -> None:
    x, changed = random(3, 8), random(3, 8)
    changed[:, 2:] = random(3, 6, seed=5)
    sliced, projected = ready(nesting="slice").heads[0], ready(nesting="project").heads[0]
    assert torch.equal(sliced(x), sliced(changed))
    assert not torch.allclose(projected(x), projected(changed))


def test_first_features_serve_more_levels_than_the_last() -> None:
    objective, views = ready(levels=(0.25,)), random(2, 3, 8).requires_grad_()
    objective(views, targets=random(2, 3, 8, seed=1)).loss.backward()
    assert views.grad is not None and views.grad[..., :2].any() and not views.grad[..., 2:].any()


def test_sliced_scores_are_cosines_and_projected_ones_grow_with_the_features() -> None:
    x = random(3, 8)
    assert all(head(x).abs().max() <= 1 for head in ready(nesting="slice").heads)
    head = ready(nesting="project").heads[-1]
    assert head(100 * x).abs().max() > 10 * head(x).abs().max()


def test_teacher_heads_follow_and_are_not_trained() -> None:
    objective = ready()
    objective(random(2, 3, 8), targets=random(2, 3, 8, seed=1)).loss.backward()
    assert all(p.grad is not None for p in objective.heads.parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher_heads.parameters())
    start = [p.clone() for p in objective.teacher_heads.parameters()]
    with torch.no_grad():
        for p in objective.heads.parameters():
            p.add_(1.0)
    objective.follow(0.75)
    for before, after in zip(start, objective.teacher_heads.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.25)


def test_prototypes_stand_still_at_the_start_and_the_rest_of_the_heads_does_not() -> None:
    objective = ready(frozen=0.1)
    objective(random(2, 3, 8), targets=random(2, 3, 8, seed=1), progress=0.05).loss.backward()
    for head in objective.heads:
        assert not head.prototypes.grad.any() and head.network[0].weight.grad.any()


def test_koleo_spreads_the_features() -> None:
    views, targets = random(3, 4, 8), random(3, 4, 8, seed=1)
    wanted = ready()(views, targets=targets).loss + 0.1 * koleo(views[:2]).sum()
    assert ready(koleo=0.1)(views, targets=targets).loss.item() == pytest.approx(wanted.item())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="'slice' or 'project', not 'nest'"):
        Matryoshka(nesting="nest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="levels above 0 and up to 1"):
        Matryoshka(levels=(0.5, 2.0))
    with pytest.raises(ConfigError, match="levels above 0 and up to 1"):
        Matryoshka(levels=())
    with pytest.raises(ConfigError, match="bottleneck"):
        Matryoshka(bottleneck=1)
