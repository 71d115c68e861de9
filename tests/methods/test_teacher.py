"""Moving-average teachers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medssl.methods.teacher import ema_update, frozen


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
