"""What every objective promises, checked on each by discovery."""

from __future__ import annotations

import pytest
import torch
from toys import OBJECTIVES

from medssl.configurable import build, discover, spec
from medssl.objectives.base import Objective

objectives = pytest.mark.parametrize("name", sorted(OBJECTIVES))


def views(k: int = 2, n: int = 6, d: int = 8, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(k, n, d, generator=torch.Generator().manual_seed(seed))


def test_every_objective_has_a_case() -> None:
    assert set(discover("medssl.objectives", Objective)) == set(OBJECTIVES)  # type: ignore[type-abstract]


@objectives
@pytest.mark.parametrize("k", [2, 3])
def test_value_and_gradient_are_finite(name: str, k: int) -> None:
    x = views(k).requires_grad_()
    output = OBJECTIVES[name]()(x, index=torch.arange(6), group=torch.tensor([0, 0, 1, 2, 3, 3]))
    output.loss.backward()
    assert output.loss.ndim == 0 and x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert all(not v.requires_grad and torch.isfinite(v) for v in output.logs.values())


@objectives
@pytest.mark.parametrize("what", ["identical", "zero", "huge", "opposite"])
def test_degenerate_embeddings_stay_finite(name: str, what: str) -> None:
    x = {
        "identical": torch.ones(2, 4, 8),
        "zero": torch.zeros(2, 4, 8),
        "huge": 1e18 * views(2, 4),
        "opposite": torch.stack([views(1, 4)[0], -views(1, 4)[0]]),
    }[what].requires_grad_()
    output = OBJECTIVES[name]()(x)
    output.loss.backward()
    assert torch.isfinite(output.loss) and x.grad is not None and torch.isfinite(x.grad).all()


@objectives
def test_computed_in_float32_under_autocast(name: str) -> None:
    objective, x = OBJECTIVES[name](), views()
    with torch.autocast("cpu", torch.bfloat16):
        inside = objective(x).loss
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(objective(x).loss.item(), rel=1e-6)
    assert objective(x.bfloat16()).loss.dtype == torch.float32


@objectives
def test_order_of_samples_does_not_matter(name: str) -> None:
    objective, x, order = OBJECTIVES[name](), views(), torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert objective(x[:, order]).loss.item() == pytest.approx(objective(x).loss.item(), rel=1e-5)


@objectives
def test_weights_scale_the_losses_of_single_samples(name: str) -> None:
    objective, x = OBJECTIVES[name](), views()
    if not objective.pairwise:
        pytest.skip("has no loss of single samples")
    plain = objective(x).loss.item()
    assert objective(x, weights=torch.full((6,), 0.5)).loss.item() == pytest.approx(plain / 2, rel=1e-6)
    assert objective(x, weights=lambda losses: torch.zeros_like(losses)).loss.item() == 0
    seen: list[torch.Tensor] = []
    objective(x, weights=lambda losses: seen.append(losses) or torch.ones_like(losses))  # type: ignore[func-returns-value]
    assert seen[0].shape == (6,) and not seen[0].requires_grad
    assert seen[0].mean().item() == pytest.approx(plain, rel=1e-5)


@objectives
def test_fewer_samples_than_needed_are_refused(name: str) -> None:
    objective = OBJECTIVES[name]()
    if objective.min_samples < 2:
        assert torch.isfinite(objective(views(n=1)).loss)
    else:
        with pytest.raises(ValueError, match="at least 2 samples"):
            objective(views(n=1))


@objectives
def test_state_and_specification_round_trip(name: str) -> None:
    objective = OBJECTIVES[name]()
    again = build(spec(objective), Objective)  # type: ignore[type-abstract]
    again.load_state_dict(objective.state_dict())
    assert spec(again) == spec(objective)
