"""DISCOVR's parts against loops in float64, and their limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.objectives.discovr import (
    Targets,
    cluster_distillation,
    in_published_order,
    masked_self_distillation,
    moved_centre,
    random_tokens,
    standardised_frames,
    teacher_tokens,
    usage,
)
from medssl.objectives.pairs import unit


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assigned_by_loops(scores: list[list[float]], epsilon: float, iterations: int) -> list[list[float]]:
    """Sinkhorn-Knopp as published: rows to 1/K and columns to 1/M in turn."""
    m, k = len(scores), len(scores[0])
    q = [[math.exp(x / epsilon) for x in row] for row in scores]
    for _ in range(iterations):
        for j in range(k):
            total = sum(q[i][j] for i in range(m))
            for i in range(m):
                q[i][j] /= total * k
        for i in range(m):
            total = sum(q[i])
            q[i] = [x / (total * m) for x in q[i]]
    return [[x * m for x in row] for row in q]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a / a.norm() * b).sum()


def clusters_by_loops(student: Tensor, teacher: Tensor, prototypes: Tensor, *, epsilon: float, hard: bool) -> Tensor:
    """Token by token."""
    known = [[float(cosine(f, c)) for c in prototypes.detach()] for f in teacher]
    total = student.new_zeros(())
    for z, q in zip(student, assigned_by_loops(known, epsilon, 10), strict=True):
        logits = torch.stack([cosine(z, c) / 0.1 for c in prototypes])
        told = [logit - logits.exp().sum().log() for logit in logits]
        best = q.index(max(q))
        for k, share in enumerate(q):
            total = total - (float(k == best) if hard else share) * told[k]
    return total / len(student)


def distillation_by_loops(scores: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """View by view and sample by sample, at temperatures of 0.1 and 0.05."""
    total = scores.new_zeros(())
    for view in scores:
        for u, t in zip(view, teacher, strict=True):
            shares = [math.exp((float(x) - float(c)) / 0.05) for x, c in zip(t, centre, strict=True)]
            told = u / 0.1 - (u / 0.1).exp().sum().log()
            for share, p in zip(shares, told, strict=True):
                total = total - share / sum(shares) * p
    return total / (len(scores) * len(teacher))


@pytest.mark.parametrize("targets", ["soft", "hard"])
@pytest.mark.parametrize(("tokens", "count"), [(12, 5), (4, 9), (2, 3)])
def test_cluster_distillation_equals_loops(targets: Targets, tokens: int, count: int) -> None:
    student, teacher = random(tokens, 6).requires_grad_(), random(tokens, 6, seed=1)
    prototypes = unit(random(count, 6, seed=2)).requires_grad_()
    found = cluster_distillation(student, teacher, prototypes, epsilon=0.1, targets=targets).loss
    wanted = clusters_by_loops(student, teacher, prototypes, epsilon=0.1, hard=targets == "hard")
    torch.testing.assert_close(found, wanted)
    pairs = zip(*(torch.autograd.grad(x, [student, prototypes]) for x in (found, wanted)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_self_distillation_equals_loops() -> None:
    scores, teacher, centre = random(3, 4, 7).requires_grad_(), random(4, 7, seed=1), random(7, seed=2)
    found = masked_self_distillation(scores, teacher, centre, temperature=0.1, teacher_temperature=0.05).loss
    wanted = distillation_by_loops(scores, teacher, centre)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(x, scores)[0] for x in (found, wanted)))


def test_teachers_get_no_gradient_and_prototypes_get_theirs_from_the_student_alone_unless_symmetric() -> None:
    student, teacher = random(6, 4).requires_grad_(), random(6, 4, seed=1).requires_grad_()
    prototypes = unit(random(3, 4, seed=2)).requires_grad_()
    one_sided = cluster_distillation(student, teacher, prototypes).loss
    both = cluster_distillation(student, teacher, prototypes, symmetric=True).loss
    gradients = [torch.autograd.grad(x, [student, teacher, prototypes], allow_unused=True) for x in (one_sided, both)]
    assert all(g[1] is None for g in gradients)
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][2], gradients[1][2])

    scores, logits = random(2, 5, 4).requires_grad_(), random(5, 4, seed=1).requires_grad_()
    loss = masked_self_distillation(scores, logits, torch.zeros(4), temperature=0.1, teacher_temperature=0.04).loss
    assert torch.autograd.grad(loss, [scores, logits], allow_unused=True)[1] is None


def test_aligned_tokens_are_told_best_and_any_other_order_worse() -> None:
    tokens = torch.eye(6, dtype=torch.float64)
    prototypes = torch.eye(6, dtype=torch.float64)
    aligned = cluster_distillation(tokens, tokens, prototypes).loss
    assert float(aligned) < 1e-3
    for shift in range(1, 6):
        assert cluster_distillation(tokens.roll(shift, 0), tokens, prototypes).loss > aligned + 5


def test_a_single_token_teaches_nothing_and_has_a_gradient_of_zero() -> None:
    student, prototypes = random(1, 4).requires_grad_(), unit(random(3, 4)).requires_grad_()
    for symmetric in (False, True):
        found = cluster_distillation(student, random(1, 4, seed=1), prototypes, symmetric=symmetric)
        torch.testing.assert_close(found.assignments, torch.full((1, 3), 1 / 3, dtype=torch.float64))
        assert float(found.loss.detach()) == 0
        assert all((g == 0).all() for g in torch.autograd.grad(found.loss, [student, prototypes]))


def test_half_precision_is_raised_so_that_sharp_assignments_do_not_overflow() -> None:
    student, teacher, prototypes = random(32, 8), random(32, 8, seed=1), unit(random(5, 8, seed=2))
    wanted = cluster_distillation(student, teacher, prototypes, epsilon=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        half = cluster_distillation(student.bfloat16(), teacher.bfloat16(), prototypes.float(), epsilon=0.01)
    assert half.loss.dtype == half.assignments.dtype == torch.float32
    torch.testing.assert_close(half.loss.double(), wanted.loss, atol=0.1, rtol=0.05)


def test_uniform_students_have_a_loss_of_log_k() -> None:
    teacher, zeros = random(5, 8), torch.zeros(3, 5, 8).double()
    loss = masked_self_distillation(zeros, teacher, torch.zeros(8), temperature=0.1, teacher_temperature=0.04).loss
    assert float(loss) == pytest.approx(math.log(8))


def test_the_released_centre_stays_near_uniform_and_the_right_one_follows_the_teacher() -> None:
    teacher = random(64, 8) + torch.arange(8)
    right = wrong = torch.zeros(8, dtype=torch.float64)
    for _ in range(60):
        shares = [
            masked_self_distillation(teacher[None], teacher, c, temperature=0.1, teacher_temperature=0.07).shares
            for c in (right, wrong)
        ]
        right = moved_centre(right, teacher, shares[0], momentum=0.8)
        wrong = moved_centre(wrong, teacher, shares[1], momentum=0.8, reference=True)
    torch.testing.assert_close(right, teacher.mean(0), atol=1e-3, rtol=0)
    assert float(wrong.abs().max()) <= 1
    assert float(usage(shares[0])["spread"]) > 2 * float(usage(shares[1])["spread"])


def test_frames_are_standardised_each_for_itself() -> None:
    tokens = random(2, 3, 9, 4) * torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1) + 7
    found = standardised_frames(tokens)
    torch.testing.assert_close(found.mean(2), torch.zeros(2, 3, 4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.std(2), torch.ones(2, 3, 4).double(), atol=1e-4, rtol=0)
    other = tokens.clone()
    other[:, 1] += 100
    torch.testing.assert_close(standardised_frames(other)[:, [0, 2]], found[:, [0, 2]])
    assert (standardised_frames(torch.ones(1, 2, 9, 4)) == 0).all(), "a frame of nothing stays nothing"
    assert (standardised_frames(random(1, 2, 1, 4)) == 0).all(), "a single token has no spread"


def test_tokens_of_the_released_code_stand_beside_other_places() -> None:
    frames, patches, tubelet = 8, 49, 2
    tokens = torch.arange(frames * patches).view(1, frames, patches, 1)
    published = teacher_tokens(tokens, tubelet, "reference").flatten().tolist()
    aligned = teacher_tokens(tokens, tubelet).flatten().tolist()
    assert len(published) == len(aligned) == frames // tubelet * patches
    for i in range(len(aligned)):
        assert aligned[i] == tubelet * (i // patches) * patches + i % patches
        assert published[i] == (2 * i // patches) * patches + 2 * i % patches
    assert teacher_tokens(tokens, 1).flatten().tolist() == teacher_tokens(tokens, 1, "reference").flatten().tolist()


def test_the_released_decoder_leaves_visible_tokens_first() -> None:
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])
    places = torch.arange(4).view(1, 4, 1).expand(2, 4, 3)
    assert in_published_order(places, hidden)[..., 0].tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]


def test_random_tokens_are_different_places_and_all_equally_likely() -> None:
    places = random_tokens(9, 3, 6000, torch.Generator().manual_seed(0))
    assert places.shape == (6000, 3) and (places.diff(dim=1) > 0).all()
    often = torch.bincount(places.flatten(), minlength=9) / 6000
    torch.testing.assert_close(often, torch.full((9,), 1 / 3), atol=0.03, rtol=0)
    assert torch.equal(places, random_tokens(9, 3, 6000, torch.Generator().manual_seed(0)))


def test_usage_tells_a_teacher_that_says_nothing_from_one_that_says_the_same() -> None:
    nothing = usage(torch.full((6, 4), 0.25))
    same = usage(torch.eye(4)[:1].expand(6, 4))
    assert (float(nothing["entropy"]), float(nothing["spread"])) == pytest.approx((1, 1))
    assert (float(same["entropy"]), float(same["spread"])) == pytest.approx((0, 0))
