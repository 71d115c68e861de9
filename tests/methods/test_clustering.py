"""Clustering: which head, which views the teacher sees, positions taken out of what is exported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import Case, joint, signal_encoder

from medssl.encoders.position_free import PositionFree
from medssl.errors import ConfigError
from medssl.methods.clustering import Clustering
from medssl.objectives.base import Objective
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.dino import DINO
from medssl.objectives.matryoshka import Matryoshka
from medssl.objectives.sim_dino import SimDINO
from medssl.objectives.swav import SwAV
from medssl.views.signal import SignalViews

VIEWS = SignalViews((128,), count=3, gap_s=1.0)


def method(objective: Objective | None = None, **options: Any) -> Clustering:
    torch.manual_seed(0)
    return Clustering(signal_encoder(), VIEWS, objective=objective, projector=(16, 8), **options)


def names(module: torch.nn.Module) -> list[str]:
    return [type(m).__name__ for m in module.children()]


def batch(case: Case, made: Clustering) -> dict[str, Any]:
    drawn = case.batch(made, size=4)
    made.generator.manual_seed(drawn["seed"])
    return drawn


def test_heads_are_those_of_the_papers() -> None:
    assert names(method().projector) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert names(method(DINO()).projector) == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    own = method(Matryoshka(prototypes=16, hidden=8, bottleneck=4))
    assert isinstance(own.projector, torch.nn.Identity)
    assert own.objective.heads[-1].part == own.encoder.out_dim


def test_teacher_where_the_objective_wants_one() -> None:
    assert not hasattr(method(), "teacher_encoder")
    assert hasattr(method(SimDINO()), "teacher_encoder") and method(SimDINO()).momentum == 0.996
    with pytest.raises(ConfigError, match="SwAV has no teacher"):
        method(momentum=0.9)
    with pytest.raises(ConfigError, match="DINO needs a teacher"):
        method(DINO(), momentum=0.0)
    with pytest.raises(ConfigError, match="contrastive family"):
        method(InfoNCE())


def test_teacher_sees_the_first_views_only() -> None:
    case = joint(Clustering, "signal")
    for seen in (1, 2, 3):
        made = method(DINO(prototypes=6, globals=seen))
        sizes: list[int] = []
        made.teacher_encoder.register_forward_pre_hook(lambda _, inputs, s=sizes: s.append(len(inputs[0])))
        made.loss(batch(case, made))
        assert sizes == [4 * seen]


def test_prototypes_of_the_teacher_move_with_it() -> None:
    made = method(DINO(prototypes=6), momentum=0.5)
    made._trainer = SimpleNamespace(max_steps=10, global_step=0)  # type: ignore[assignment]
    start = made.objective.teacher_prototypes.clone()
    with torch.no_grad():
        made.objective.prototypes.add_(1.0)
    made.follow()
    torch.testing.assert_close(made.objective.teacher_prototypes, start + 0.5)


def test_training_does_not_see_that_positions_are_taken_out() -> None:
    case = joint(Clustering, "signal")
    plain, free = method(SimDINO()), method(SimDINO(), position_free=2)
    losses = []
    for _ in range(2):
        losses.append([made.loss(batch(case, made)).total.item() for made in (plain, free)])
        free.finish()  # an export in between
    assert all(one == pytest.approx(other) for one, other in losses)


def test_finish_settles_what_is_exported() -> None:
    case = joint(Clustering, "signal")
    made = method(SwAV(prototypes=6), position_free=2)
    assert isinstance(made.encoder, PositionFree) and made.encoder.collect
    identity = made.encoder.projection.clone()
    made.finish()
    assert torch.equal(made.encoder.projection, identity), "nothing was gathered"
    made.loss(batch(case, made))
    assert made.encoder.cells > 0
    made.finish()
    first = made.encoder.projection.clone()
    assert torch.linalg.matrix_rank(first, rtol=1e-4) == 16 - 2
    made.loss({**batch(case, made), "seed": 9})
    made.finish()
    assert not torch.equal(made.encoder.projection, first), "computed anew for each export"


def test_a_teacher_gathers_nothing() -> None:
    made = method(SimDINO(), position_free=1)
    made.loss(batch(joint(Clustering, "signal"), made))
    assert isinstance(made.teacher_encoder, PositionFree)
    assert made.encoder.cells > 0 and not made.teacher_encoder.cells  # type: ignore[operator]


def test_without_rounds_the_encoder_is_not_wrapped() -> None:
    made = method()
    assert not isinstance(made.encoder, PositionFree)
    made.finish()
