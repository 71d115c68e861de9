"""InfoNCE against a loop-written reference, values solvable by hand, and its masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.contrastive import InfoNCE, info_nce


def random_views(k: int, n: int, d: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(k, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return x / x.norm().clamp_min(1e-12)


def reference(
    views: Tensor, temperature: float, group: list[int] | None = None, labels: list[int] | None = None
) -> Tensor:
    """The definition, one anchor after the other, in float64."""
    k, n, _ = views.shape
    group, labels = group or list(range(n)), labels or list(range(n))
    losses = []
    for i in range(n):
        if all(group[j] == group[i] or labels[j] == labels[i] for j in range(n) if j != i):
            continue
        for a in range(k):
            pairs = []
            for b in range(k):
                if b == a:
                    continue
                logits, positives = [], []
                for view in (a, b):
                    for j in range(n):
                        if (view, j) == (a, i):
                            continue
                        positive = j == i or labels[j] == labels[i]
                        if group[j] == group[i] and not positive:
                            continue
                        s = unit(views[a, i]) @ unit(views[view, j]) / temperature
                        logits.append(s)
                        if positive:
                            positives.append(s)
                pairs.append(torch.stack(logits).logsumexp(0) - torch.stack(positives).mean())
            losses.append(torch.stack(pairs).mean())
    return torch.stack(losses).mean() if losses else views.sum() * 0


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(("k", "n"), [(2, 2), (2, 5), (3, 4), (4, 3)])
def test_equals_the_loops_in_value_and_gradient(k: int, n: int, temperature: float) -> None:
    fast, slow = random_views(k, n).requires_grad_(), random_views(k, n).requires_grad_()
    value, wanted = info_nce(fast, temperature=temperature), reference(slow, temperature)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(
    ("group", "labels"),
    [([0, 0, 1, 2, 1], None), (None, [0, 1, 1, 2, 1]), ([0, 0, 1, 2, 3], [5, 6, 7, 7, 8]), ([0, 0, 0, 0, 1], None)],
)
def test_same_group_is_no_negative_and_same_label_is_a_positive(
    k: int, group: list[int] | None, labels: list[int] | None
) -> None:
    fast, slow = random_views(k, 5).requires_grad_(), random_views(k, 5).requires_grad_()
    value = info_nce(
        fast,
        temperature=0.3,
        group=None if group is None else torch.tensor(group),
        labels=None if labels is None else torch.tensor(labels),
    )
    wanted = reference(slow, 0.3, group, labels)
    value.backward()
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=0)


def test_a_batch_of_one_patient_teaches_nothing_and_breaks_nothing() -> None:
    views = random_views(2, 4).requires_grad_()
    loss = info_nce(views, temperature=0.1, group=torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert views.grad is not None and not views.grad.any()


def test_solved_by_hand() -> None:
    n, temperature = 5, 0.5
    same = torch.ones(2, n, 3, dtype=torch.float64)
    assert info_nce(same, temperature=temperature).item() == pytest.approx(math.log(2 * n - 1))
    orthogonal = torch.eye(n, dtype=torch.float64).expand(2, n, n)
    wanted = math.log(math.exp(1 / temperature) + 2 * n - 2) - 1 / temperature
    assert info_nce(orthogonal, temperature=temperature).item() == pytest.approx(wanted)


def test_scale_of_the_embeddings_does_not_matter() -> None:
    views = random_views(2, 4)
    assert info_nce(17 * views, temperature=0.2).item() == pytest.approx(info_nce(views, temperature=0.2).item())


def test_weights_of_anchors_and_the_samples_a_weighting_sees() -> None:
    views, group = random_views(2, 4), torch.tensor([0, 1, 2, 2])
    one_anchor = torch.zeros(2, 4)
    one_anchor[1, 2] = 1
    parts = []
    for k in range(2):
        for i in range(4):
            weights = torch.zeros(2, 4, dtype=torch.float64)
            weights[k, i] = 1
            parts.append(info_nce(views, temperature=0.2, weights=weights, group=group).item())
    assert sum(parts) == pytest.approx(info_nce(views, temperature=0.2, group=group).item())

    seen: list[Tensor] = []

    def weighting(losses: Tensor) -> Tensor:
        seen.append(losses)
        return torch.ones_like(losses)

    lonely = torch.zeros(4, dtype=torch.long)
    info_nce(views, temperature=0.2, group=lonely, weights=weighting)
    assert seen[0].isnan().all(), "samples without negatives are shown as NaN"


def test_accuracy_counts_positives_that_are_nearest() -> None:
    views = torch.eye(4).expand(2, 4, 4).clone()
    assert InfoNCE()(views).logs["pair_accuracy"].item() == 1
    swapped = torch.stack([views[0], views[1][[1, 0, 2, 3]]])
    assert InfoNCE()(swapped).logs["pair_accuracy"].item() == pytest.approx(0.5)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        info_nce(random_views(2, 1), temperature=0.1)
    with pytest.raises(ValueError, match="at least 2 views"):
        info_nce(random_views(1, 4), temperature=0.1)
    with pytest.raises(ConfigError, match="temperature"):
        InfoNCE(temperature=0)
