"""What every objective promises, checked on each by discovery."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import ObjectiveCase, every_case

from medssl.configurable import build, discover, spec
from medssl.objectives.base import LossOutput, Objective

_, OBJECTIVES = every_case()
objectives = pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in sorted(OBJECTIVES.items())])


def views(case: ObjectiveCase, n: int = 6, *, seed: int = 0, k: int | None = None) -> torch.Tensor:
    shape = (k or max(case.views, 2), n, 8, *case.grid)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(case: ObjectiveCase, x: torch.Tensor, objective: Objective | None = None, **more: Any) -> LossOutput:
    objective = case.ready() if objective is None else objective
    output: LossOutput = objective(x, **{**case.given(objective, x), **more})
    return output


def test_every_objective_has_a_case() -> None:
    assert set(discover("medssl.objectives", Objective)) == set(OBJECTIVES)  # type: ignore[type-abstract]


@objectives
@pytest.mark.parametrize("extra", [0, 1])
def test_value_and_gradient_are_finite(case: ObjectiveCase, extra: int) -> None:
    x = views(case, k=max(case.views, 2) + extra).requires_grad_()
    output = run(case, x, group=torch.tensor([0, 0, 1, 2, 3, 3]))
    output.loss.backward()
    assert output.loss.ndim == 0 and x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert all(not v.requires_grad and v.ndim == 0 and torch.isfinite(v) for v in output.logs.values())


@objectives
@pytest.mark.parametrize("what", ["identical", "zero", "huge", "opposite"])
def test_degenerate_embeddings_stay_finite(case: ObjectiveCase, what: str) -> None:
    like = views(case, 4)
    x = {
        "identical": torch.ones_like(like),
        "zero": torch.zeros_like(like),
        "huge": 1e15 * like,
        "opposite": torch.stack([like[0] * (-1) ** v for v in range(len(like))]),
    }[what].requires_grad_()
    output = run(case, x)
    output.loss.backward()
    assert torch.isfinite(output.loss) and x.grad is not None and torch.isfinite(x.grad).all()


@objectives
def test_own_weights_get_finite_gradients(case: ObjectiveCase) -> None:
    objective = case.ready()
    run(case, views(case).requires_grad_(), objective).loss.backward()
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@objectives
def test_computed_in_float32_under_autocast(case: ObjectiveCase) -> None:
    x = views(case)
    with torch.autocast("cpu", torch.bfloat16):
        inside = run(case, x).loss
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(run(case, x).loss.item(), rel=1e-5, abs=1e-6)
    assert run(case, x.bfloat16()).loss.dtype == torch.float32


@objectives
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the tracer looks at inputs
def test_compiled_equals_eager(case: ObjectiveCase) -> None:
    """Traced forward and backward; the compiler's own kernels are not what is tested."""
    x, y = views(case).requires_grad_(), views(case).requires_grad_()
    wanted = run(case, x)
    wanted.loss.backward()
    objective = case.ready()
    torch._dynamo.reset()
    found = run(case, y, torch.compile(objective, backend="aot_eager"))  # type: ignore[arg-type]
    found.loss.backward()
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-5, abs=1e-6)
    assert x.grad is not None and y.grad is not None
    torch.testing.assert_close(y.grad, x.grad, atol=1e-6, rtol=1e-4)


@objectives
def test_order_of_samples_does_not_matter(case: ObjectiveCase) -> None:
    if case.ordered:
        pytest.skip("compares neighbours in the batch")
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    objective, x = case.ready().eval(), views(case)
    given = case.given(objective, x)
    turned = {k: v[order] if k in ("index", "labels") else v for k, v in given.items()}
    for key in ("targets", "mask"):
        if key in turned:
            turned[key] = given[key][:, order]
    if "mixture" in turned:
        mixture, place = given["mixture"], torch.argsort(order)
        turned["mixture"] = type(mixture)(mixture.embeddings[order], place[mixture.order[order]], mixture.share[order])
    for one in (given, turned):
        one["generator"] = torch.Generator().manual_seed(5)
    assert objective(x[:, order], **turned).loss.item() == pytest.approx(objective(x, **given).loss.item(), rel=1e-5)


@objectives
def test_weights_scale_the_losses_of_single_samples(case: ObjectiveCase) -> None:
    objective, x = case.ready().eval(), views(case)
    if not objective.pairwise:
        pytest.skip("has no loss of single samples")
    plain = run(case, x, objective).loss.item()
    assert run(case, x, objective, weights=torch.full((6,), 0.5)).loss.item() == pytest.approx(plain / 2, rel=1e-6)
    assert run(case, x, objective, weights=lambda losses: torch.zeros_like(losses)).loss.item() == 0
    seen: list[torch.Tensor] = []
    run(case, x, objective, weights=lambda losses: seen.append(losses) or torch.ones_like(losses))
    assert seen[0].shape == (6,) and not seen[0].requires_grad
    assert seen[0].nanmean().item() == pytest.approx(plain, rel=1e-5)


@objectives
def test_fewer_samples_or_views_than_needed_are_refused(case: ObjectiveCase) -> None:
    objective = case.ready()
    if objective.min_samples < 2:
        assert torch.isfinite(run(case, views(case, 1), objective).loss)
    else:
        with pytest.raises(ValueError, match=f"at least {objective.min_samples} samples"):
            run(case, views(case, 1), objective)
    with pytest.raises(ValueError, match=f"at least {objective.min_views} views"):
        objective(views(case)[: objective.min_views - 1])


@objectives
def test_what_it_needs_is_asked_for(case: ObjectiveCase) -> None:
    objective, x = case.ready(), views(case)
    for need in objective.needs:
        given = {k: v for k, v in case.given(objective, x).items() if k != need}
        with pytest.raises(ValueError, match=need):
            objective(x, **given)


@objectives
def test_memory_is_checkpointed_and_changes_in_training_only(case: ObjectiveCase) -> None:
    objective, x = case.ready(), views(case)
    run(case, x, objective)
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    again = case.ready()
    again.load_state_dict(state)
    run(case, views(case, seed=1), objective.eval())
    assert all(torch.equal(v, state[k]) for k, v in objective.state_dict().items())
    one, other = (run(case, views(case, seed=2), o.train()).loss for o in (objective, again))
    assert torch.equal(one, other)


@objectives
def test_specification_round_trip(case: ObjectiveCase) -> None:
    objective = case.make()
    assert spec(build(spec(objective), Objective)) == spec(objective)  # type: ignore[type-abstract]


@objectives
def test_it_says_what_it_is(case: ObjectiveCase) -> None:
    kind = type(case.make())
    assert kind.family in ("contrastive", "distillation", "redundancy", "clustering", "dense")
    assert kind.requirements() and kind.__doc__
