"""The analytic predictors: their algebra, when they move, and that all processes have the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.direct_pred import (
    DirectCopy,
    DirectPred,
    batch_correlation,
    direct_copy,
    direct_predictor,
    running_correlation,
)
from medssl.objectives.distillation import BYOL

WORKER = Path(__file__).with_name("direct_pred_worker.py")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def correlation(d: int = 6) -> Tensor:
    return batch_correlation(random(2, 20, d) * torch.linspace(0.1, 3, d, dtype=torch.float64))


def ready(kind: type[Any], width: int = 4, **options: Any) -> Any:
    made = kind(**options)
    made.fit_width(width)
    return made.double()


FORMS = pytest.mark.parametrize(
    "options",
    [{"eps": 0.01}, {"eps": 0.1, "exponent": 4.0}, {"eps": 0.1, "eps_inside": True}, {"eps": 0.1, "form": "paper"}],
    ids=str,
)


def test_correlation_is_the_mean_of_outer_products() -> None:
    views = random(3, 4, 5)
    wanted = sum(torch.outer(f, f) for view in views for f in view) / 12
    torch.testing.assert_close(batch_correlation(views), wanted, atol=1e-14, rtol=0)


def test_correlation_runs_on_from_the_first_batch() -> None:
    first, second = correlation(), 2 * correlation()
    assert running_correlation(None, first, decay=0.3) is first
    torch.testing.assert_close(running_correlation(first, second, decay=0.3), 0.3 * first + 0.7 * second)


@FORMS
def test_predictor_is_symmetric_positive_and_shares_the_eigenvectors(options: dict[str, Any]) -> None:
    f = correlation()
    made = direct_predictor(f, **options)
    w = made.weight
    torch.testing.assert_close(w, w.T, atol=1e-12, rtol=0)
    assert (torch.linalg.eigvalsh(w) > 0).all()
    torch.testing.assert_close(w @ f, f @ w, atol=1e-11, rtol=0)
    torch.testing.assert_close(made.spectrum, torch.linalg.eigvalsh(f))


@FORMS
def test_only_the_form_of_the_paper_depends_on_the_scale(options: dict[str, Any]) -> None:
    f = correlation()
    same = torch.allclose(direct_predictor(100 * f, **options).weight, direct_predictor(f, **options).weight)
    assert same == (options.get("form") != "paper")


def test_one_direction_gives_the_others_what_epsilon_leaves() -> None:
    direction = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    for eps in (0.0, 0.01):
        gains = torch.linalg.eigvalsh(direct_predictor(torch.outer(direction, direction), eps=eps).weight)
        assert gains.tolist() == pytest.approx([max(eps, 1e-4)] * 2 + [1 + eps], abs=1e-7)


def test_solved_by_hand() -> None:
    f = torch.diag(torch.tensor([16.0, 4.0, 1.0], dtype=torch.float64))

    def gains(**options: Any) -> list[float]:
        return direct_predictor(f, **options).weight.diagonal().tolist()

    assert gains(eps=0.1) == pytest.approx([1.1, 0.6, 0.35])
    assert gains(eps=0.1, exponent=4.0) == pytest.approx([1.1, 0.5**0.5 + 0.1, 0.6])
    assert gains(eps=0.1, form="paper") == pytest.approx([5.6, 3.6, 2.6])
    assert gains(eps=0.0, eps_inside=True) == pytest.approx([1, 0.5, 0.25])
    assert direct_copy(f, eps=0.5).diagonal().tolist() == [16.5, 4.5, 1.5]


def test_the_predictor_of_a_step_is_that_of_the_steps_before() -> None:
    objective, plain = ready(DirectPred, eps=0.1, decay=0.3), BYOL()
    predictor, running = torch.eye(4, dtype=torch.float64), None
    for step in range(3):
        views, targets = random(2, 5, 4, seed=step), random(2, 5, 4, seed=10 + step)
        found = objective(views, targets=targets).loss.item()
        assert found == pytest.approx(plain(views @ predictor, targets=targets).loss.item(), abs=1e-12)
        running = running_correlation(running, batch_correlation(views), decay=0.3)
        predictor = direct_predictor(running, eps=0.1).weight
        torch.testing.assert_close(objective.correlation, running, atol=1e-13, rtol=0)
        torch.testing.assert_close(objective.weight, predictor, atol=1e-10, rtol=0)


def test_gradient_takes_the_predictor_as_a_constant() -> None:
    objective = ready(DirectPred)
    objective(random(2, 5, 4), targets=random(2, 5, 4))
    weight = objective.weight.clone()
    views, targets = random(2, 5, 4, seed=3).requires_grad_(), random(2, 5, 4, seed=4)
    objective(views, targets=targets).loss.backward()
    again = views.detach().clone().requires_grad_()
    BYOL()(again @ weight, targets=targets).loss.backward()
    torch.testing.assert_close(views.grad, again.grad, atol=1e-13, rtol=0)
    assert not list(objective.parameters()) and not objective.weight.requires_grad


def test_predictor_is_made_every_so_many_steps() -> None:
    objective, changes = ready(DirectPred, every=3), []
    for step in range(7):
        before = objective.weight.clone()
        objective(random(2, 5, 4, seed=step), targets=random(2, 5, 4))
        changes.append(not torch.equal(before, objective.weight))
    assert changes == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("kind", [DirectPred, DirectCopy])
def test_a_batch_that_is_not_finite_is_left_out(kind: type[Any]) -> None:
    objective = ready(kind)
    objective(random(2, 5, 4), targets=random(2, 5, 4))
    state = {k: v.clone() for k, v in objective.state_dict().items()}
    objective(torch.full((2, 5, 4), torch.nan, dtype=torch.float64), targets=random(2, 5, 4))
    assert all(torch.equal(v, state[k]) for k, v in objective.state_dict().items())


def test_diagnostics_tell_one_direction_from_many() -> None:
    even, lined = ready(DirectPred), ready(DirectPred)
    targets = random(2, 4, 4)
    found = even(torch.eye(4, dtype=torch.float64).expand(2, 4, 4), targets=targets).logs
    assert found["effective_rank"].item() == pytest.approx(4) and found["top_share"].item() == pytest.approx(0.25)
    found = lined(torch.ones(2, 4, 4, dtype=torch.float64), targets=targets).logs
    assert found["effective_rank"].item() == pytest.approx(1) and found["top_share"].item() == pytest.approx(1)


def test_two_processes_have_the_correlation_of_the_joined_batch(tmp_path: Path) -> None:
    commands = [[sys.executable, str(WORKER), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=100)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints
    views = random(3, 2, 6, 4)
    joined = ready(DirectPred)
    for step in views:
        joined(step, targets=step)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in joined.state_dict().items():
            torch.testing.assert_close(found[name], value, atol=1e-10, rtol=0)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"decay": 1.0}, {"every": 0}, {"eps": -1.0}):
        for kind in (DirectPred, DirectCopy):
            with pytest.raises(ConfigError, match=next(iter(wrong))):
                kind(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exponent"):
        DirectPred(exponent=0)
    with pytest.raises(ConfigError, match="forms"):
        DirectPred(form="other")  # type: ignore[arg-type]
