"""Any objective, any encoder, any views: each trains a step with its family's method, on every kind of cohort."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from test_encoders import EXAMPLES, make
from toys import Case, ObjectiveCase, Optim, SignalViews, VolumeViews, every_case, joint

from medssl.configurable import discover
from medssl.methods.base import Method
from medssl.methods.joint import JointEmbedding

_, OBJECTIVES = every_case()
JOINT: dict[str, Any] = discover("medssl.methods", JointEmbedding)  # type: ignore[type-abstract]
DISCOVERED = [m for m in JOINT.values() if "objective" in inspect.signature(m).parameters]  # others bring their own
METHODS = {method.family: method for method in DISCOVERED}


def one_step(method: Method, case: Case, size: int = 4) -> None:
    batch = case.batch(method, size=size)
    method.generator.manual_seed(batch["seed"])
    losses = method.loss(batch)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    gradients = [p.grad for p in method.encoder.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients) and any(g.abs().sum() > 0 for g in gradients)


def test_there_is_one_method_a_family() -> None:
    families = {type(case.make()).family for case in OBJECTIVES.values()}
    assert set(METHODS) == families and len(METHODS) == len(DISCOVERED)


@pytest.mark.parametrize("kind", ["volume", "signal"])
@pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in sorted(OBJECTIVES.items())])
def test_every_objective_trains_on_every_kind_of_recording(case: ObjectiveCase, kind: str) -> None:
    objective = type(case.make())  # with its defaults, as a name in a configuration gives it
    options: dict[str, Any] = {"same_patient": "positive"} if "labels" in objective.needs else {}
    options = {"label": "age"} if objective.continuous else options
    tried = joint(METHODS[objective.family], kind, objective=objective, count=max(2, objective.min_views), **options)
    method = tried.make()
    method.check(tried.info)
    one_step(method, tried)


@pytest.mark.parametrize("encoder", sorted(EXAMPLES))
@pytest.mark.parametrize("family", sorted(METHODS))
def test_every_family_trains_every_encoder(family: str, encoder: str) -> None:
    channels, *size = EXAMPLES[encoder].shape
    kind = "volume" if len(size) == 3 else "signal"
    views: Any = VolumeViews(tuple(size)) if kind == "volume" else SignalViews(tuple(size))  # type: ignore[arg-type]
    torch.manual_seed(0)
    method = METHODS[family](make(encoder), views, projector=(16, 8), optim=Optim())
    case = Case(lambda: method, kind, channels)
    method.prepare(type("Source", (), {"places": range(8), "cohorts": [], "manifest": None})(), batch=3)
    one_step(method, case, size=3)
