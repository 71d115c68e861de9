"""What a temperature does to InfoNCE, in its limits, and the hard contrastive loss against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.behaviour import (
    HardInfoNCE,
    hard_info_nce,
    probabilities,
    relative_penalties,
    similarity_gradient,
    tolerance,
)
from medssl.objectives.contrastive import info_nce


def random_views(k: int, n: int, d: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(k, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosines(n: int = 6) -> Tensor:
    a, b = torch.nn.functional.normalize(random_views(2, n), dim=-1)
    return a @ b.T


def own_losses(similarity: Tensor, temperature: float) -> Tensor:
    return -(similarity / temperature).log_softmax(-1).diagonal()


@pytest.mark.parametrize("temperature", [0.07, 0.3, 1.0])
def test_gradient_by_similarities_is_that_of_autograd(temperature: float) -> None:
    similarity = cosines().requires_grad_()
    (wanted,) = torch.autograd.grad(own_losses(similarity, temperature).sum(), similarity)
    found = similarity_gradient(similarity.detach(), temperature=temperature)
    torch.testing.assert_close(found, wanted, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(found.sum(-1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_penalties_are_shares_of_the_gradient_of_the_positive() -> None:
    similarity = cosines()
    gradient = similarity_gradient(similarity, temperature=0.2)
    penalties = relative_penalties(similarity, temperature=0.2)
    shares = gradient / gradient.diagonal().abs().unsqueeze(1)
    off = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(penalties[off], shares[off], atol=1e-12, rtol=1e-12)
    assert not penalties.diagonal().any()
    torch.testing.assert_close(penalties.sum(-1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(probabilities(similarity, temperature=0.2).sum(-1), torch.ones(6, dtype=torch.float64))


def test_small_temperatures_see_the_nearest_negative_alone() -> None:
    similarity, temperature = cosines(), 1e-3
    nearest = similarity.clone().fill_diagonal_(-math.inf).amax(-1)
    limit = (nearest - similarity.diagonal()).clamp_min(0)
    torch.testing.assert_close(temperature * own_losses(similarity, temperature), limit, atol=2e-3, rtol=0)
    assert relative_penalties(similarity, temperature=temperature).amax(-1).min() > 0.99


def test_large_temperatures_see_all_negatives_alike() -> None:
    similarity, temperature = cosines(), 200.0
    limit = -similarity.diagonal() / temperature + similarity.mean(-1) / temperature + math.log(6)
    torch.testing.assert_close(own_losses(similarity, temperature), limit, atol=1e-4, rtol=0)
    penalties = relative_penalties(similarity, temperature=temperature)
    torch.testing.assert_close(penalties, (1 - torch.eye(6).double()) / 5, atol=2e-3, rtol=0)


def test_tolerance_by_hand() -> None:
    z = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]])
    assert tolerance(z, torch.tensor([0, 1, 0, 2])).item() == pytest.approx(math.sqrt(0.5))
    assert tolerance(z, torch.tensor([0, 1, 0, 0])).item() == pytest.approx(-1 / 3, abs=1e-6)
    assert tolerance(z, torch.arange(4)).isnan()


def reference(views: Tensor, temperature: float, quantile: float, same_view: bool, group: list[int]) -> Tensor:
    """The definition, one anchor after the other; the quantile is taken of each view's negatives."""
    k, n, _ = views.shape
    z = views / views.norm(dim=-1, keepdim=True)
    losses = []
    for a in range(k):
        for b in range(k):
            if a == b:
                continue
            for i in range(n):
                positive, kept = z[a, i] @ z[b, i], []
                for view in (a, b) if same_view else (b,):
                    foes = torch.stack([z[a, i] @ z[view, j] for j in range(n) if group[j] != group[i]])
                    kept.append(foes[foes >= torch.quantile(foes.detach(), quantile) - 1e-12])
                energy = (torch.cat([positive.view(1), *kept]) / temperature).logsumexp(0)
                losses.append(energy - positive / temperature)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("same_view", [False, True])
@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.8, 1.0])
@pytest.mark.parametrize(("k", "group"), [(2, [0, 1, 2, 3, 4, 5]), (3, [0, 0, 1, 2, 1, 1])])
def test_hard_loss_equals_the_loops(k: int, group: list[int], quantile: float, same_view: bool) -> None:
    fast, slow = random_views(k, 6).requires_grad_(), random_views(k, 6).requires_grad_()
    value = hard_info_nce(fast, temperature=0.3, quantile=quantile, same_view=same_view, group=torch.tensor(group))
    wanted = reference(slow, 0.3, quantile, same_view, group)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_no_quantile_keeps_all_negatives() -> None:
    views = random_views(2, 6)
    for same_view in (False, True):
        wanted = info_nce(views, temperature=0.3, same_view=same_view).item()
        assert hard_info_nce(views, temperature=0.3, quantile=0.0, same_view=same_view).item() == wanted


@pytest.mark.parametrize(("quantile", "negatives"), [(0.55, 101), (0.07, 101), (0.7, 11), (0.3, 11)])
def test_a_quantile_that_is_a_negative_keeps_it(quantile: float, negatives: int) -> None:
    """0.55 · 100 is 55 and a little in floating point; the negative of that rank must stay, and all above it."""
    rank = round(quantile * (negatives - 1))
    cosine = torch.cat([torch.ones(1), (torch.arange(negatives) - rank) / negatives]).double()  # 0 at the quantile
    views = torch.zeros(2, negatives + 1, 2, dtype=torch.float64)
    views[0, :, 0] = 1
    views[1] = torch.stack([cosine, (1 - cosine**2).sqrt()], -1)
    weights = torch.zeros(2, negatives + 1, dtype=torch.float64)
    weights[0, 0] = 2 * (negatives + 1)  # the first anchor alone
    found = hard_info_nce(views, temperature=1.0, quantile=quantile, weights=weights)
    wanted = cosine[cosine >= 0].logsumexp(0) - 1
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)


def test_easy_keys_of_a_queue_are_left_out_too() -> None:
    objective = HardInfoNCE(temperature=0.5, quantile=1.0, queue=3)
    objective.fit_width(4)
    objective(torch.eye(4)[:3].expand(2, 3, 4))
    near = torch.tensor([[0.0, 0.0, 0.6, 0.8], [0.0, 0.0, 0.0, 1.0]])
    found = objective.eval()(near.expand(2, 2, 4)).loss.item()
    first = math.log(math.exp(2) + math.exp(1.6) + math.exp(1.2)) - 2  # itself, the other sample, the nearest key
    second = math.log(math.exp(2) + math.exp(1.6) + 3) - 2  # all keys of the queue are equally far
    assert found == pytest.approx((first + second) / 2, rel=1e-5)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="quantile from 0 to 1"):
        HardInfoNCE(quantile=1.5)
    with pytest.raises(ConfigError, match="temperature"):
        HardInfoNCE(temperature=0)
