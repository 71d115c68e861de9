"""Moving-average teachers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from medssl.methods.teacher import distance, ema_update, frozen, momentum_at


def test_teacher_moves_by_the_stated_share() -> None:
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    wanted = [
        0.9 * t.detach() + 0.1 * s.detach() for t, s in zip(teacher.parameters(), student.parameters(), strict=True)
    ]
    before = [s.detach().clone() for s in student.parameters()]
    ema_update(teacher, student, 0.9)
    for value, expected in zip(teacher.parameters(), wanted, strict=True):
        torch.testing.assert_close(value.detach(), expected)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), before, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_limits(momentum: float) -> None:
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    kept = teacher.weight.detach().clone()
    ema_update(teacher, student, momentum)
    assert torch.equal(teacher.weight, student.weight if momentum == 0 else kept)


def test_frozen_parameters_want_no_gradient() -> None:
    assert not any(p.requires_grad for p in frozen(nn.Linear(3, 2)).parameters())


def test_buffers_are_left_alone_or_copied() -> None:
    for buffers in ("keep", "copy"):
        teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        student(torch.randn(8, 2))
        ema_update(teacher, student, 1.0, buffers=buffers)  # type: ignore[arg-type]
        for name, value in student.named_buffers():
            assert torch.equal(teacher.get_buffer(name), value) == (buffers == "copy")


def test_momentum_0_makes_the_teacher_a_copy_with_all_buffers() -> None:
    teacher = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    student = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    student(torch.randn(8, 2))
    ema_update(teacher, student, 0.0, buffers="copy")
    assert all(torch.equal(teacher.state_dict()[k], v) for k, v in student.state_dict().items())


@pytest.mark.parametrize("start", [0.0, 0.9, 0.996])
def test_momentum_rises_to_1_and_never_falls(start: float) -> None:
    values = [momentum_at(step / 100, start) for step in range(101)]
    assert values[0] == pytest.approx(start) and values[-1] == 1
    assert values[50] == pytest.approx((1 + start) / 2)
    assert all(a <= b for a, b in pairwise(values))


def test_distance_is_relative_to_the_student() -> None:
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    teacher.load_state_dict({k: 0.75 * v for k, v in student.state_dict().items()})
    assert distance(teacher, student).item() == pytest.approx(0.25)
    assert distance(student, student) == 0
    assert distance(nn.ReLU(), nn.ReLU()) == 0
