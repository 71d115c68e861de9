"""Learning-rate schedules and parameter groups."""

from __future__ import annotations

import math

import pytest
import torch

from medssl.optim import Optim, configure, lr_factor


def test_warm_up_is_linear_and_cosine_ends_at_zero() -> None:
    factors = [lr_factor(s, total=100, warmup=10) for s in range(101)]
    assert factors[:11] == pytest.approx([i / 10 for i in range(11)])
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)


def test_warm_up_below_one_is_a_fraction_of_all_steps() -> None:
    assert lr_factor(5, total=200, warmup=0.05) == pytest.approx(0.5)


@pytest.mark.parametrize(("schedule", "expected"), [("poly", 0.5**0.9), ("constant", 1.0), ("cosine", 0.5)])
def test_half_way_values(schedule: str, expected: float) -> None:
    assert lr_factor(50, total=100, warmup=0, schedule=schedule) == pytest.approx(expected)


def test_biases_and_norms_are_not_decayed_and_groups_are_scaled() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    settings = Optim(lr=0.1, weight_decay=0.5, warmup=0)
    found = configure([(list(net.named_parameters()), 0.1)], settings, total=10)["optimizer"].param_groups
    assert {g["weight_decay"]: sum(p.numel() for p in g["params"]) for g in found} == {0.5: 6, 0.0: 9}
    assert all(math.isclose(g["initial_lr"], 0.01) for g in found)


def test_steady_weights_keep_the_peak_and_all_else_follows_the_schedule() -> None:
    net, head = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
    groups = [(list(net.named_parameters()), 0.5)]
    made = configure(groups, Optim(lr=0.1, warmup=0), total=10, steady=list(head.named_parameters()))
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for _ in range(5):
        optimizer.step()
        schedule.step()
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert [rates[id(p)] for p in net.parameters()] == pytest.approx([0.025, 0.025])
    assert [rates[id(p)] for p in head.parameters()] == pytest.approx([0.1, 0.1])
