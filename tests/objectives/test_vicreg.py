"""VICReg against a loop-written reference, and each of its terms by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.vicreg import VICReg, vicreg, vicreg_terms


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(views: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """The definition; for two views, half the sum of the hinges and the sum of the covariances."""
    k, n, d = views.shape
    pairs = list(combinations(range(k), 2))
    invariance = sum(((views[a] - views[b]) ** 2).sum() / (n * d) for a, b in pairs) / len(pairs)
    hinge, covariance = views.new_zeros(()), views.new_zeros(())
    for view in views:
        centred = [[view[s, i] - sum(view[:, i]) / n for i in range(d)] for s in range(n)]
        for i in range(d):
            for j in range(d):
                entry = sum(centred[s][i] * centred[s][j] for s in range(n)) / (n - 1)
                if i == j:
                    hinge = hinge + torch.relu(1 - torch.sqrt(entry + 1e-4)) / d
                else:
                    covariance = covariance + entry**2 / d
    return weights[0] * invariance + weights[1] * hinge / k + weights[2] * 2 * covariance / k


@pytest.mark.parametrize(("k", "n", "d"), [(2, 2, 1), (2, 5, 3), (3, 4, 2)])
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (0.0, 1.0, 0.0), (0.5, 0.0, 2.0)])
def test_equals_the_loops_in_value_and_gradient(k: int, n: int, d: int, weights: tuple[float, float, float]) -> None:
    fast, slow = random(k, n, d).requires_grad_(), random(k, n, d).requires_grad_()
    invariance, variance, covariance = weights
    value = VICReg(invariance=invariance, variance=variance, covariance=covariance)(fast).loss
    wanted = reference(slow, weights)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)
    same = vicreg(fast, invariance=invariance, variance=variance, covariance=covariance)
    assert same.item() == pytest.approx(value.item())


def test_each_term_by_hand() -> None:
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    wide = vicreg_terms(torch.stack([2 * corners, 2 * corners]))
    assert [t.item() for t in wide] == [0, 0, 0]
    apart = vicreg_terms(torch.stack([2 * corners, 2 * corners + 3]))
    assert apart.invariance.item() == pytest.approx(9)
    narrow = vicreg_terms(torch.zeros(2, 4, 2, dtype=torch.float64))
    assert narrow.variance.item() == pytest.approx(1 - 0.01)
    repeated = vicreg_terms(corners[:, :1].expand(2, 4, 2))
    assert repeated.covariance.item() == pytest.approx((4 / 3) ** 2)  # two entries of 4/3, over D = 2


def test_order_of_views_and_of_dimensions_do_not_matter() -> None:
    views = random(2, 6, 4)
    value = vicreg(views).item()
    assert vicreg(views.flip(0)).item() == pytest.approx(value)
    assert vicreg(views[:, :, [2, 0, 3, 1]]).item() == pytest.approx(value)
    assert value >= 0


def test_collapsed_embeddings_are_pushed_apart() -> None:
    """A constant dimension has no direction to grow, but the least difference has a steep one."""
    constant = torch.ones(2, 4, 3, dtype=torch.float64).requires_grad_()
    vicreg(constant).backward()
    assert constant.grad is not None and torch.isfinite(constant.grad).all()
    nearly = (torch.ones(2, 4, 3, dtype=torch.float64) + 1e-3 * random(2, 4, 3)).requires_grad_()
    vicreg(nearly, invariance=0.0).backward()
    assert nearly.grad is not None
    step = nearly.detach() - 1e-3 * nearly.grad
    assert (step.std(1) > nearly.detach().std(1)).all()
    assert VICReg()(constant.detach()).logs["dead_dimensions"].item() == 1


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="covariance -1"):
        VICReg(covariance=-1)
