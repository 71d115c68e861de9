"""Heads over several windows: bags whose order does not matter, sequences whose order does; padding is never seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toy_heads import batch, changed, encoder, weights

from medssl.errors import ConfigError
from medssl.heads.bag import BagHead
from medssl.heads.context import CONTEXTS
from medssl.heads.sequence import OUTSIDE, SequenceHead
from medssl.heads.windows import WindowsHead, padded

CLASSES = ("W", "N", "R")


def several(counts: list[int], places: int) -> dict[str, Any]:
    """A batch of items with so many windows each, of ``places``; what stands at the other places is noise."""
    parts = [batch(places, seed=n) for n in range(len(counts))]
    known = torch.arange(places) < torch.tensor(counts).unsqueeze(1)
    return {
        **parts[0], "x": torch.stack([p["x"][:, 0] for p in parts]), "known": known,
        **{k: torch.stack([p[k][0] for p in parts]) for k in ("input_scale", "input_offset", "input_range", "row")},
        "y": torch.where(known, torch.stack([p["y"] for p in parts]), OUTSIDE),
    }  # fmt: skip


def bag(**options: Any) -> BagHead:
    torch.manual_seed(1)
    return BagHead(encoder(), CLASSES, attention_width=8, **options)


def sequence(context: str = "lstm", **options: Any) -> SequenceHead:
    torch.manual_seed(1)
    return SequenceHead(encoder(), CLASSES, context=context, width=8, **options)


def test_rows_go_to_the_known_places_in_order() -> None:
    known = torch.tensor([[True, True], [True, False]])
    assert padded(torch.tensor([[1.0], [2.0], [3.0]]), known).flatten().tolist() == [1, 2, 3, 0]


def test_attention_by_hand() -> None:
    head = bag().eval()
    features, known = torch.randn(2, 4, 8), torch.tensor([[True] * 4, [True, True, False, False]])
    found = head.attention(features, known)
    for b, n in ((0, 4), (1, 2)):
        scores = []
        for i in range(n):
            h = features[b, i]
            hidden = torch.tanh(head.value.weight @ h + head.value.bias) * torch.sigmoid(
                head.gate.weight @ h + head.gate.bias
            )
            scores.append(head.score.weight[0] @ hidden)
        torch.testing.assert_close(found[b, :n], torch.stack(scores).softmax(0))
    assert found[1, 2:].tolist() == [0.0, 0.0]
    pooled = (found.unsqueeze(2) * features).sum(1)
    torch.testing.assert_close(head.decide(features, known), head.output(pooled))


def test_a_bag_has_no_order_and_a_single_window_is_its_own_mean() -> None:
    head = bag().eval()
    x = torch.randn(1, 5, 1, 32)
    torch.testing.assert_close(head(x), head(x[:, [3, 1, 4, 0, 2]]))
    torch.testing.assert_close(head(x[:, :1]), head.output(head.encode(x[:, 0]).pooled))


@pytest.mark.parametrize("make", [bag, sequence])
def test_padding_is_neither_encoded_nor_answered(make: Any) -> None:
    """Other values where no window is change neither loss nor any weight's gradient nor running statistics."""
    outcomes = []
    for noise in (0, 1000):
        head: WindowsHead = make(dropout=0.0).train()
        given = several([4, 2, 1], 4)
        given["x"] = torch.where(given["known"][..., None, None], given["x"], given["x"] + noise)
        if make is bag:
            given["y"] = torch.tensor([0, 1, 2])
        loss, _ = head.loss(given)
        loss.backward()
        gradients = [p.grad.clone() for p in head.parameters() if p.grad is not None]
        outcomes.append((loss.detach(), gradients, weights(head)))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert all(torch.equal(a, b) for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True))
    assert all(torch.equal(v, outcomes[1][2][k]) for k, v in outcomes[0][2].items())


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_short_sequence_is_answered_as_if_it_were_alone(context: str) -> None:
    head = sequence(context).eval()
    features = torch.randn(3, 5, 8)
    known = torch.arange(5) < torch.tensor([5, 2, 2]).unsqueeze(1)
    together = head.decide(features, known)
    assert together.shape == (3, 5, 3) and not together[1:, 2:].any()
    alone = head.decide(features[2:, :2], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(together[2, :2], alone[0])


@pytest.mark.parametrize("context", ["mamba", "lstm"])
def test_what_runs_both_ways_sees_what_comes(context: str) -> None:
    features, known = torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool)
    other = features.clone()
    other[0, 5] += 1
    for both in (False, True):
        head = sequence(context, bidirectional=both).eval()
        moved = (head.decide(features, known) != head.decide(other, known))[0].any(1).tolist()
        assert moved[5] and moved[4] == both and (both or not any(moved[:5]))


def test_the_loss_is_the_mean_over_all_known_places() -> None:
    head = sequence(class_weights=(1.0, 2.0, 3.0)).eval()
    given = several([4, 2], 4)
    logits = head.decide(padded(head.per_window(torch.ones(6, 1, 32)), given["known"]), given["known"])
    flat, y = logits[given["known"]], given["y"][given["known"]]
    expected = F.cross_entropy(flat, y, weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(head.logits_loss(logits, given["y"]), expected)


@pytest.mark.parametrize("make", [bag, sequence])
def test_stored_features_stand_for_the_signals_of_a_frozen_encoder(make: Any) -> None:
    head: WindowsHead = make(dropout=0.0, encoder_lr=0.0).train()
    given = several([4, 3], 4)
    if make is bag:
        given["y"] = torch.tensor([2, 0])
    before = weights(head.encoder)
    x = (given["x"].float() * 0.01)[given["known"]]
    stored = {k: v for k, v in given.items() if k != "x"} | {"features": padded(head.per_window(x), given["known"])}
    torch.testing.assert_close(head.loss(given)[0], head.loss(stored)[0])
    head.loss(given)[0].backward()
    assert not changed(head.encoder, before) and all(p.grad is None for p in head.encoder.parameters())


def test_items_are_decided_from_their_own_windows() -> None:
    head = bag().eval()
    windows = torch.randn(5, 8)
    found = head.per_item(windows, [2, 3])
    one = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(found[1:], head.decide(windows[2:].unsqueeze(0), one))
    torch.testing.assert_close(found[:1], head.decide(windows[:2].unsqueeze(0), one[:, :2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "at least 1"),
        ({"context": "gru"}, "gru"),
        ({"context": "attention", "width": 12}, "multiple of 8"),
    ],
)
def test_impossible_contexts_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SequenceHead(encoder(), CLASSES, **options)
