"""Supervised contrastive learning against loops and against InfoNCE."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.contrastive import InfoNCE, info_nce
from medssl.objectives.supervised import SupCon, sup_con

Form = Literal["out", "in"]


def random_views(k: int, n: int, d: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(k, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(views: Tensor, labels: list[int], temperature: float, form: Form, group: list[int]) -> Tensor:
    """The definition, one of the K·N embeddings after the other."""
    k, n, _ = views.shape
    z = (views / views.norm(dim=-1, keepdim=True)).flatten(0, 1)
    losses = []
    for i in range(k * n):
        friends, everyone = [], []
        for j in range(k * n):
            friend = labels[j % n] == labels[i % n]
            if j == i or (group[j % n] == group[i % n] and not friend):
                continue
            s = z[i] @ z[j] / temperature
            everyone.append(s)
            if friend:
                friends.append(s)
        energy, positives = torch.stack(everyone).logsumexp(0), torch.stack(friends)
        losses.append(energy - (positives.mean() if form == "out" else positives.exp().mean().log()))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])
def test_equals_the_loops_in_value_and_gradient(k: int, form: Form, group: list[int]) -> None:
    labels = [0, 1, 1, 2, 1]
    fast, slow = random_views(k, 5).requires_grad_(), random_views(k, 5).requires_grad_()
    value = sup_con(fast, torch.tensor(labels), temperature=0.3, form=form, group=torch.tensor(group))
    wanted = reference(slow, labels, 0.3, form, group)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_two_views_are_info_nce_with_labels() -> None:
    views, labels = random_views(2, 6), torch.tensor([0, 0, 1, 2, 2, 2])
    wanted = info_nce(views, temperature=0.2, labels=labels).item()
    assert sup_con(views, labels, temperature=0.2).item() == pytest.approx(wanted, abs=1e-12)


def test_the_inner_mean_is_never_above_the_outer() -> None:
    views, labels = random_views(3, 6), torch.tensor([0, 0, 1, 1, 2, 2])
    inner, outer = (sup_con(views, labels, temperature=0.2, form=form).item() for form in ("in", "out"))
    assert inner < outer
    lone = torch.arange(6)
    two = [sup_con(views[:2], lone, temperature=0.2, form=form).item() for form in ("in", "out")]
    assert two[0] == pytest.approx(two[1], abs=1e-12), "one positive: nothing to average"


def test_samples_of_one_label_gather() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    views = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([views], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        SupCon()(views, labels=labels).loss.backward()
        optimizer.step()
    z = torch.nn.functional.normalize(views.detach(), dim=-1)[0]
    cosine = z @ z.T
    same = labels.unsqueeze(1) == labels
    assert cosine[same].min() > 0.9 > 0 > cosine[~same].max()


def test_a_queue_adds_negatives_of_other_labels_only() -> None:
    objective = SupCon(temperature=0.2, queue=6)
    objective.fit_width(7)
    labels = torch.tensor([0, 1, 2])
    first, second = random_views(2, 3).float(), random_views(2, 3, seed=1).float()
    objective(first, labels=labels)
    found = objective.eval()(second, labels=labels).loss.item()
    z, queue = (torch.nn.functional.normalize(x, dim=-1) for x in (second.flatten(0, 1), first[0]))
    losses = []
    for i in range(6):
        others = [z[i] @ z[j] / 0.2 for j in range(6) if j != i]
        earlier = [z[i] @ queue[j] / 0.2 for j in range(3) if j != i % 3]
        losses.append(torch.stack(others + earlier).logsumexp(0) - z[i] @ z[(i + 3) % 6] / 0.2)
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_logs_how_many_positives_there_are() -> None:
    output = SupCon()(random_views(3, 4), labels=torch.tensor([0, 0, 1, 2]))
    assert output.logs["positives"].item() == pytest.approx((5 + 5 + 2 + 2) / 4)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="forms 'out' and 'in'"):
        SupCon(form="middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temperature"):
        SupCon(temperature=-1)
    with pytest.raises(ConfigError, match="'pairs' or 'mean'"):
        InfoNCE(positives="all")  # type: ignore[arg-type]
