"""DCL and DCLW against loops, against InfoNCE, and in their limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given
from medssl.objectives.contrastive import info_nce, info_nce_anchors
from medssl.objectives.decoupled import DCL, DCLW, dcl, dcl_anchors, dclw, pair_weights
from medssl.objectives.pairs import pair_up


def random_views(k: int, n: int, d: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(k, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(
    views: Tensor,
    temperature: float,
    group: list[int] | None = None,
    labels: list[int] | None = None,
    sigma: float = math.inf,
) -> Tensor:
    """The definition, one anchor after the other; an infinite sigma is DCL."""
    k, n, _ = views.shape
    group, labels = group or list(range(n)), labels or list(range(n))
    z = views / views.norm(dim=-1, keepdim=True)
    losses = []
    for a in range(k):
        for b in range(k):
            if a == b:
                continue
            positives, energies = [], []
            for i in range(n):
                friends, foes = [z[a, i] @ z[b, i]], []
                for j in range(n):
                    if j != i and labels[j] == labels[i]:
                        friends += [z[a, i] @ z[a, j], z[a, i] @ z[b, j]]
                    elif j != i and group[j] != group[i]:
                        foes += [z[a, i] @ z[a, j], z[a, i] @ z[b, j]]
                positives.append(torch.stack(friends).mean())
                energies.append((torch.stack(foes) / temperature).logsumexp(0))
            positive = torch.stack(positives)
            weight = 2 - n * (positive.detach() / sigma).softmax(0)
            losses.append(torch.stack(energies) - weight * positive / temperature)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("sigma", [math.inf, 0.5])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(
    ("k", "group", "labels"),
    [
        (2, None, None),
        (3, None, None),
        (2, [0, 0, 1, 2, 1], None),
        (3, None, [0, 1, 1, 2, 1]),
        (2, [0, 0, 1, 2, 3], [5, 6, 7, 7, 8]),
    ],
)
def test_equals_the_loops_in_value_and_gradient(
    k: int, group: list[int] | None, labels: list[int] | None, temperature: float, sigma: float
) -> None:
    fast, slow = random_views(k, 5).requires_grad_(), random_views(k, 5).requires_grad_()
    masks = {n: None if v is None else torch.tensor(v) for n, v in (("group", group), ("labels", labels))}
    if math.isinf(sigma):
        value = dcl(fast, temperature=temperature, **masks)
    else:
        value = dclw(fast, temperature=temperature, sigma=sigma, **masks)
    wanted = reference(slow, temperature, group, labels, sigma)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_info_nce_is_the_softplus_of_the_decoupled_loss() -> None:
    """log(exp(L_DCL,i) + 1), with negatives from both views."""
    pairs = pair_up(random_views(2, 6), Given(group=torch.tensor([0, 0, 1, 2, 3, 4])))
    for temperature in (0.05, 0.3, 2.0):
        coupled = info_nce_anchors(pairs, temperature=temperature).losses
        decoupled = dcl_anchors(pairs, temperature=temperature).losses
        torch.testing.assert_close(coupled, torch.logaddexp(decoupled, torch.zeros(())), atol=1e-12, rtol=1e-12)


def pairs_at(cosine: Tensor) -> Tensor:
    """Two views of n samples that are orthogonal but for the similarity of each pair."""
    n = len(cosine)
    own, other = torch.eye(2 * n, dtype=cosine.dtype).chunk(2)
    turned = cosine.unsqueeze(1) * own + (1 - cosine**2).sqrt().unsqueeze(1) * other
    return torch.stack([own, turned])


@pytest.mark.parametrize("aligned", [0.1, 0.9])
def test_pull_of_a_positive_does_not_depend_on_how_easy_the_negatives_are(aligned: float) -> None:
    temperature, n = 0.2, 4
    cosine = torch.full((n,), aligned, dtype=torch.float64, requires_grad=True)
    (pull,) = torch.autograd.grad(dcl(pairs_at(cosine), temperature=temperature), cosine)
    torch.testing.assert_close(pull, torch.full_like(pull, -1 / temperature / n))
    (coupled,) = torch.autograd.grad(info_nce(pairs_at(cosine), temperature=temperature), cosine)
    assert (coupled.abs() < pull.abs()).all()


def test_solved_by_hand() -> None:
    n, temperature = 5, 0.5
    same = torch.ones(2, n, 3, dtype=torch.float64)
    assert dcl(same, temperature=temperature).item() == pytest.approx(math.log(2 * n - 2))
    orthogonal = torch.eye(n, dtype=torch.float64).expand(2, n, n)
    assert dcl(orthogonal, temperature=temperature).item() == pytest.approx(math.log(2 * n - 2) - 1 / temperature)
    assert torch.isfinite(dcl(random_views(2, 2), temperature=0.1)), "two negatives are enough"


def test_weights_have_mean_one_and_vanish_for_a_large_sigma() -> None:
    similarity = 2 * torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    torch.testing.assert_close(pair_weights(similarity, sigma=0.5).mean(1), torch.ones(3, dtype=torch.float64))
    views = random_views(2, 6)
    wide = dclw(views, temperature=0.1, sigma=1e9).item()
    assert wide == pytest.approx(dcl(views, temperature=0.1).item(), rel=1e-6)


def test_an_outstanding_pair_is_pushed_apart_and_shows_in_the_log() -> None:
    outstanding = pairs_at(torch.tensor([0.99, -0.9, -0.9, -0.9, -0.9]))
    assert DCLW()(outstanding).logs["min_weight"].item() < 0
    alike = pairs_at(torch.full((5,), 0.3))
    assert DCLW()(alike).logs["min_weight"].item() == pytest.approx(1, abs=1e-5)


def test_weights_without_gradient_unless_asked() -> None:
    attached, detached = random_views(2, 5).requires_grad_(), random_views(2, 5).requires_grad_()
    values = [
        dclw(attached, temperature=0.1, detach_weights=False),
        dclw(detached, temperature=0.1, detach_weights=True),
    ]
    assert values[0].item() == values[1].item()
    torch.stack(values).sum().backward()
    assert attached.grad is not None and detached.grad is not None
    assert not torch.allclose(attached.grad, detached.grad)


def test_keys_of_a_queue_are_negatives_and_save_a_lonely_sample() -> None:
    objective = DCL(temperature=0.2, queue=4)
    objective.fit_width(7)
    views, one_patient = random_views(2, 3).float(), torch.zeros(3, dtype=torch.long)
    lonely = objective(views, group=one_patient)
    assert lonely.loss.item() == 0 and lonely.logs["samples_with_negatives"].item() == 0
    later = random_views(2, 3, seed=1).float().requires_grad_()
    output = objective(later, group=one_patient + 1)
    output.loss.backward()
    z, queue = torch.nn.functional.normalize(later.detach(), dim=-1), torch.nn.functional.normalize(views[0], dim=-1)
    energy = (z @ queue.T / 0.2).logsumexp(-1)
    wanted = (energy - (z[0] * z[1]).sum(-1) / 0.2).mean()
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert later.grad is not None and later.grad.isfinite().all()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="DCL needs a temperature"):
        DCL(temperature=0)
    with pytest.raises(ConfigError, match="DCLW needs a sigma"):
        DCLW(sigma=0)
