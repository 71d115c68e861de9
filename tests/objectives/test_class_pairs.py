"""SimLAP against loops, its gate, and its memory of classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.base import Given
from medssl.objectives.class_pairs import PairGate, SimLAP, class_rows, draw_partners, simlap, simlap_anchors
from medssl.objectives.pairs import pair_up


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(
    views: Tensor, gate: Tensor, label: list[int], partner: list[int], temperature: float, group: list[int]
) -> Tensor:
    """The definition over the K·N embeddings; every key is filtered with the anchor's gate."""
    k, n, _ = views.shape
    terms = []
    for a in range(k):
        for i in range(n):
            x = gate[i] * views[a, i]
            logits, foes = {}, []
            for b in range(k):
                for j in range(n):
                    y = gate[i] * views[b, j]
                    logits[b, j] = x @ y / (x.norm() * y.norm()) / temperature
                    if label[j] not in (label[i], partner[i]) and group[j] != group[i]:
                        foes.append(logits[b, j])
            for b in range(k):
                for j in range(n):
                    if label[j] == partner[i]:
                        terms.append(torch.stack([logits[b, j], *foes]).logsumexp(0) - logits[b, j])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 3]])
@pytest.mark.parametrize("chunk", [0, 2])
def test_equals_the_loops_in_value_and_gradient(k: int, group: list[int], chunk: int) -> None:
    label, partner = [0, 0, 1, 2, 2, 1], [2, 0, 0, 1, 2, 7]
    results = []
    for slow in (False, True):
        views, gate = random(k, 6, 5).requires_grad_(), random(6, 5, seed=1).sigmoid().requires_grad_()
        if slow:
            value = reference(views, gate, label, partner, 0.3, group)
        else:
            terms = simlap_anchors(
                pair_up(views, Given(group=torch.tensor(group))), gate, torch.tensor(label), torch.tensor(partner),
                temperature=0.3, chunk=chunk,
            )  # fmt: skip
            value = terms.losses.mean()
        results.append((value.detach(), *torch.autograd.grad(value, (views, gate))))
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=1e-12)


def test_no_sample_of_the_class_that_was_asked_for() -> None:
    z, gate = random(4, 5).requires_grad_(), random(4, 5, seed=1).sigmoid().requires_grad_()
    loss = simlap(z, gate, torch.tensor([0, 1, 2, 3]), torch.full((4,), 9), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None and not z.grad.any() and gate.grad is not None and not gate.grad.any()


def test_an_anchor_that_meets_its_own_class_and_no_negative_learns_nothing() -> None:
    z, same = random(3, 5), torch.zeros(3, dtype=torch.long)
    assert simlap(z, torch.ones(3, 5).double(), same, same, temperature=0.1).item() == pytest.approx(0, abs=1e-12)


def test_dimensions_that_the_gate_closes_do_not_matter() -> None:
    z, gate = random(4, 6), torch.ones(4, 6).double()
    gate[:, 4:] = 0
    label, partner = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 0, 0])
    changed = z.clone()
    changed[:, 4:] = random(4, 2, seed=5)
    found = simlap(changed, gate, label, partner, temperature=0.1)
    assert found.item() == pytest.approx(simlap(z, gate, label, partner, temperature=0.1).item(), abs=1e-12)


@pytest.mark.parametrize("partners", ["any", "same", "other"])
def test_partners_are_classes_of_the_batch(partners: Any) -> None:
    label = torch.tensor([3, 3, 5, 5, 5, 8])
    drawn = torch.stack([draw_partners(label, partners, torch.Generator().manual_seed(s)) for s in range(50)])
    if partners == "any":
        assert all(torch.equal(row.sort().values, label.sort().values) for row in drawn)
        assert (drawn != drawn[0]).any()
    else:
        assert bool((drawn == label).all()) if partners == "same" else bool((drawn != label).all())
    again = draw_partners(label, partners, torch.Generator().manual_seed(7))
    assert torch.equal(again, draw_partners(label, partners, torch.Generator().manual_seed(7)))
    lone = draw_partners(torch.full((4,), 2), partners, torch.Generator())
    assert lone.tolist() == [2, 2, 2, 2]


def test_a_class_keeps_its_row() -> None:
    vocabulary = torch.full((5,), -1)
    large = 2**62 + 17  # labels are 63-bit integers that stand for names
    rows, vocabulary = class_rows(torch.tensor([large, 4, large]), vocabulary)
    assert rows.tolist() == [0, 1, 0] and vocabulary.tolist() == [large, 4, -1, -1, -1]
    rows, vocabulary = class_rows(torch.tensor([9, 4, 7, 9]), vocabulary)
    assert rows.tolist() == [2, 1, 3, 2] and vocabulary.tolist() == [large, 4, 9, 7, -1]
    with pytest.raises(ValueError, match="room for 5 classes, and now 6"):
        class_rows(torch.tensor([1, 2]), vocabulary)


def small(**options: Any) -> SimLAP:
    torch.manual_seed(0)
    objective = SimLAP(**{"classes": 4, "embedding": 6, "hidden": 10, **options})
    objective.fit_width(8)
    return objective


def test_vocabulary_grows_in_training_only_and_is_checkpointed() -> None:
    objective, views = small(partners="same"), torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    objective(views, labels=torch.tensor([50, 20, 50, 20]))
    assert objective.vocabulary.tolist() == [50, 20, -1, -1]
    objective.eval()(views, labels=torch.tensor([7, 7, 50, 8]))
    assert objective.state_dict()["vocabulary"].tolist() == [50, 20, -1, -1]
    with pytest.raises(ValueError, match="room for 4 classes"):
        objective.train()(views, labels=torch.tensor([1, 2, 3, 4]))


@pytest.mark.parametrize("fusion", ["mean", "product"])
def test_gate_lies_between_zero_and_one_and_does_not_mind_the_order_of_the_classes(fusion: Any) -> None:
    torch.manual_seed(0)
    gate = PairGate(5, 7, embedding=6, hidden=10, fusion=fusion).eval()
    first, second = torch.tensor([0, 1, 4]), torch.tensor([3, 1, 2])
    found = gate(first, second)
    assert found.shape == (3, 7) and found.min() > 0 and found.max() < 1
    torch.testing.assert_close(gate(second, first), found)


@pytest.mark.parametrize("fusion", ["mean", "product"])
def test_gate_is_trained_with_the_embeddings(fusion: Any) -> None:
    objective = small(fusion=fusion)
    views = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels, random_numbers = torch.tensor([0, 0, 1, 1, 2, 2]), torch.Generator().manual_seed(0)
    objective(views, labels=labels, generator=random_numbers).loss.backward()
    assert views.grad is not None and views.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in objective.gate.layers[2:].parameters())
    embedding = objective.gate.embedding.weight.grad
    assert embedding is not None and embedding[:3].any(1).all() and not embedding[3].any(), "the last class is unseen"


def test_settings_and_labels_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="partners 'any', 'same' or 'other'"):
        SimLAP(partners="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="classes above 0"):
        SimLAP(classes=0)
    with pytest.raises(ValueError, match="continuous values"):
        small()(torch.randn(2, 4, 8), labels=torch.rand(4))
