"""CWCL against loops, and the limits of its weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import joint

from medssl.errors import CohortError, ConfigError
from medssl.methods.contrastive import Contrastive
from medssl.objectives.base import Given
from medssl.objectives.continuous_weights import (
    CWCL,
    LabelCWCL,
    cosine_weights,
    cwcl,
    cwcl_anchors,
    effective_number,
    gaussian_weights,
)
from medssl.objectives.contrastive import info_nce
from medssl.objectives.pairs import pair_up


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(p: Tensor, q: Tensor, weights: Tensor, temperature: float, group: list[int] | None = None) -> Tensor:
    """The definition, one sample after the other."""
    n = len(p)
    group = group or list(range(n))
    p, q = (x / x.norm(dim=-1, keepdim=True) for x in (p, q))
    losses = []
    for i in range(n):
        met = [j for j in range(n) if j == i or group[j] != group[i]]
        row = torch.stack([p[i] @ q[j] for j in met]) / temperature
        column = torch.stack([p[j] @ q[i] for j in met]) / temperature
        w = weights[i, met]
        own = met.index(i)
        losses.append(-(w * row.log_softmax(0)).sum() / w.sum() - column.log_softmax(0)[own])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("sharpness", [1.0, 5.0])
@pytest.mark.parametrize("group", [None, [0, 0, 1, 2, 1]])
def test_equals_the_loops_in_value_and_gradient(sharpness: float, group: list[int] | None) -> None:
    frozen = random(5, 9, seed=2)
    f = frozen / frozen.norm(dim=-1, keepdim=True)
    weights = ((f @ f.T + 1) / 2) ** sharpness
    results = []
    for slow in (False, True):
        p, q = random(5, 7).requires_grad_(), random(5, 7, seed=1).requires_grad_()
        if slow:
            value = reference(p, q, weights, 0.2, group)
        else:
            given = None if group is None else torch.tensor(group)
            value = cwcl(p, q, frozen, temperature=0.2, sharpness=sharpness, group=given)
        results.append((value.detach(), *torch.autograd.grad(value, (p, q))))
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=1e-12)


def test_orthogonal_samples_still_weigh_a_half() -> None:
    weights = cosine_weights(torch.eye(4, dtype=torch.float64).unsqueeze(0)).exp()[0]
    torch.testing.assert_close(weights, 0.5 + 0.5 * torch.eye(4, dtype=torch.float64))


def test_sharp_weights_are_info_nce() -> None:
    views = random(2, 6, 7)
    wanted = 2 * info_nce(views, temperature=0.2, same_view=False).item()
    sharp = cwcl(views[0], views[1], random(6, 9, seed=2), temperature=0.2, sharpness=1e4).item()
    assert sharp == pytest.approx(wanted, abs=1e-9)


def test_a_sample_that_stands_twice_gets_the_same_target_twice() -> None:
    frozen = random(4, 9)
    frozen[3] = frozen[1]
    weights = cosine_weights(frozen.unsqueeze(0))[0].exp()
    torch.testing.assert_close(weights[:, 3], weights[:, 1])
    assert weights[1, 3].item() == pytest.approx(1)


def test_opposite_samples_weigh_nothing_and_break_nothing() -> None:
    views = torch.stack([torch.eye(2), -torch.eye(2)]).requires_grad_()
    frozen = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).expand(2, 2, 2)
    output = CWCL()(views, targets=frozen)
    output.loss.backward()
    assert views.grad is not None and views.grad.isfinite().all()
    assert output.logs["effective_positives"].item() == pytest.approx(1)


def test_more_than_two_views_are_the_mean_over_pairs() -> None:
    views, targets = random(3, 5, 7), random(3, 5, 9, seed=4)
    wanted = torch.stack(
        [cwcl(views[a], views[b], targets[b], temperature=0.1) for a, b in itertools.combinations(range(3), 2)]
    ).mean()
    assert CWCL(temperature=0.1)(views, targets=targets).loss.item() == pytest.approx(wanted.item(), abs=1e-12)


@pytest.mark.parametrize("width", [0.5, 20.0])
def test_weights_of_ages_equal_the_loops(width: float) -> None:
    views, ages = random(3, 5, 7), torch.tensor([30.0, 31.0, 45.0, 60.0, 60.0], dtype=torch.float64)
    weights = torch.tensor([[np.exp(-((a - b) ** 2) / (2 * width**2)) for b in ages.tolist()] for a in ages.tolist()])
    wanted = torch.stack(
        [reference(views[a], views[b], weights, 0.1) for a, b in itertools.combinations(range(3), 2)]
    ).mean()
    found = LabelCWCL(width=width, temperature=0.1)(views, labels=ages).loss
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)


def test_effective_positives_run_from_one_to_all() -> None:
    ages, pairs = torch.tensor([30.0, 40.0, 50.0, 60.0], dtype=torch.float64), pair_up(random(2, 4, 7), Given())
    for width, wanted in ((0.1, 1.0), (1e5, 4.0)):
        terms = cwcl_anchors(pairs, gaussian_weights(ages, width=width), temperature=0.1)
        assert terms.logs["effective_positives"].item() == pytest.approx(wanted, abs=1e-6)
    assert effective_number(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx([1, 2])


def test_alike_samples_gather() -> None:
    """Ages order the embeddings: neighbours in age end nearer than the ends of the scale."""
    ages = torch.tensor([20.0, 25.0, 30.0, 70.0, 75.0, 80.0])
    views = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    objective, optimizer = LabelCWCL(width=10.0), torch.optim.Adam([views], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        objective(views, labels=ages).loss.backward()
        optimizer.step()
    z = torch.nn.functional.normalize(views.detach(), dim=-1)
    cosine = z[0] @ z[1].T
    assert cosine[0, 1] > cosine[0, 5] + 0.1 and cosine[4, 5] > cosine[4, 0] + 0.1


def test_the_method_reads_numbers_as_numbers() -> None:
    case = joint(Contrastive, "signal", objective=LabelCWCL, label="age")
    method = case.make()
    reader = case.readers(3)[2]
    label = method.draw(reader, np.random.default_rng(0))["label"]  # type: ignore[arg-type]
    assert label.dtype == np.float32 and label == 42
    with pytest.raises(CohortError, match="no number"):
        joint(Contrastive, "signal", objective=LabelCWCL, label="patient").make().draw(reader, np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="numeric column"):
        joint(Contrastive, "signal", objective=LabelCWCL, same_patient="positive").make()
    assert "numeric label" in LabelCWCL.requirements()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="CWCL needs a sharpness"):
        CWCL(sharpness=0)
    with pytest.raises(ConfigError, match="LabelCWCL needs a width"):
        LabelCWCL(width=-1)
    with pytest.raises(ValueError, match="these are classes"):
        LabelCWCL()(random(2, 4, 7), labels=torch.tensor([1, 2, 3, 4]))
