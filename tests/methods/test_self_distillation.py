"""SelfDistillation: teachers and targets, published heads, and the predictor's learning rate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import collate, signal, signal_encoder

from medssl.errors import ConfigError
from medssl.methods.self_distillation import SelfDistillation
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.direct_pred import DirectPred
from medssl.objectives.distillation import BYOL, SimSiam
from medssl.optim import Optim
from medssl.views.signal import SignalViews


def method(**options: Any) -> SelfDistillation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SelfDistillation(
            signal_encoder(), SignalViews((128,)), **({"projector": (16, 8), "predictor": 4} | options)
        )


def batch(of: SelfDistillation, patients: str = "ABC") -> dict[str, Any]:
    readers = [signal(i) for i in range(len(patients))]
    for reader, patient in zip(readers, patients, strict=True):
        reader.patient = patient
    samples = [of.draw(r, np.random.default_rng(i)) for i, r in enumerate(readers)]  # type: ignore[arg-type]
    return collate(samples, seed=0)


def total(of: SelfDistillation, drawn: dict[str, Any]) -> torch.Tensor:
    of.generator.manual_seed(drawn["seed"])
    return of.loss(drawn).total


def layers(head: nn.Module) -> int:
    return sum(isinstance(m, nn.Linear) for m in head.modules())


def test_a_teacher_where_the_objective_was_published_with_one() -> None:
    assert method().momentum == 0.996 and isinstance(method().objective, BYOL)
    assert method(momentum=0.99).momentum == 0.99
    alone = method(objective=SimSiam())
    assert alone.momentum == 0 and not hasattr(alone, "teacher_encoder")
    with pytest.raises(ConfigError, match="needs a teacher"):
        method(momentum=0)


def test_heads_are_those_of_the_papers() -> None:
    byol, simsiam, direct = method(), method(objective=SimSiam()), method(objective=DirectPred())
    assert (layers(byol.projector), layers(byol.predictor)) == (2, 2)
    assert (layers(simsiam.projector), layers(simsiam.predictor)) == (3, 2)
    assert (layers(direct.projector), layers(direct.predictor)) == (2, 0)
    assert isinstance(list(simsiam.projector)[-1], nn.BatchNorm1d)
    assert isinstance(list(byol.projector)[-1], nn.Linear)
    assert layers(method(layers=4).projector) == 4
    with pytest.raises(ConfigError, match="at least 1 layer"):
        method(layers=0)


def test_targets_are_the_teachers_or_the_networks_own_projections() -> None:
    for objective in (BYOL(), SimSiam()):
        seen: dict[str, Any] = {}
        of = method(objective=objective)
        of.objective.register_forward_pre_hook(lambda _m, _a, given, seen=seen: seen.update(given), with_kwargs=True)
        losses = of.loss(batch(of))
        assert losses.embeddings is not None
        own = losses.embeddings.unflatten(0, (2, 3))
        # a teacher that has not moved yet says what the student says
        torch.testing.assert_close(seen["targets"], own)
        assert not seen["targets"].requires_grad


def test_no_gradient_reaches_the_teacher_and_following_moves_it() -> None:
    of = method(momentum=0.9)
    total(of, batch(of)).backward()
    assert all(p.grad is None for p in of.teacher_encoder.parameters())
    before = [p.clone() for p in of.teacher_encoder.parameters()]
    with torch.no_grad():
        for p in of.encoder.parameters():
            p.add_(1.0)
    of.follow()
    for old, new, student in zip(before, of.teacher_encoder.parameters(), of.encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)
    for mine, theirs in zip(of.teacher_encoder.buffers(), of.encoder.buffers(), strict=True):
        assert torch.equal(mine, theirs), "running statistics are the student's"


def test_the_distance_to_the_teacher_is_shown() -> None:
    of = method()
    assert of.loss(batch(of)).terms["teacher_distance"] == 0
    with torch.no_grad():
        for p in of.encoder.parameters():
            p.mul_(2.0)
    assert of.loss(batch(of)).terms["teacher_distance"].item() == pytest.approx(0.5)


def test_recordings_of_a_patient_may_be_each_others_targets() -> None:
    for patients, different in (("ABA", 2), ("ABC", 1)):
        values = {
            round(total(of, batch(of, patients)).item(), 6)
            for of in (method(same_patient=mode) for mode in ("ignore", "positive"))
        }
        assert len(values) == different


def learning_rates(of: SelfDistillation, steps: int) -> tuple[list[float], list[float]]:
    """Of the encoder and of the predictor, step by step."""
    of._trainer = SimpleNamespace(estimated_stepping_batches=steps)  # type: ignore[assignment]
    made = of.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    of._trainer = None

    def rate(parameter: nn.Parameter) -> float:
        (found,) = [g["lr"] for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
        return float(found)

    encoder, predictor = [], []
    for _ in range(steps):
        encoder.append(rate(next(of.encoder.parameters())))
        predictor.append(rate(next(of.predictor.parameters())))
        optimizer.step()
        schedule.step()
    return encoder, predictor


@pytest.mark.parametrize(
    ("options", "constant"),
    [
        ({"objective": SimSiam()}, True),
        ({"objective": SimSiam(), "predictor_lr": "scheduled"}, False),
        ({}, False),
        ({"predictor_lr": "constant"}, True),
    ],
    ids=["simsiam", "simsiam_scheduled", "byol", "byol_constant"],
)
def test_learning_rate_of_the_predictor(options: dict[str, Any], constant: bool) -> None:
    encoder, predictor = learning_rates(method(optim=Optim(lr=0.1, warmup=0), **options), 10)
    assert encoder[0] == pytest.approx(0.1) and encoder[-1] < 0.01
    assert predictor == (pytest.approx([0.1] * 10) if constant else pytest.approx(encoder))


def test_every_trained_weight_stands_once_in_the_optimiser() -> None:
    of = method(objective=SimSiam())
    of._trainer = SimpleNamespace(estimated_stepping_batches=4)  # type: ignore[assignment]
    groups = of.configure_optimizers()["optimizer"].param_groups
    of._trainer = None
    known = [id(p) for g in groups for p in g["params"]]
    assert sorted(known) == sorted(id(p) for p in of.parameters() if p.requires_grad)


def test_objectives_of_other_families_are_refused() -> None:
    with pytest.raises(ConfigError, match="contrastive family"):
        method(objective=InfoNCE())
