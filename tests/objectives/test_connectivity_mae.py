"""Masks of regions, pairs of windows and losses of edges: loop references, limits by hand, exact counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medssl.objectives.connectivity_mae import (
    edge_loss,
    edge_scores,
    hidden_regions,
    neighbouring_windows,
    node_loss,
    of_places,
    pairs_between,
    temporal_edge_loss,
    temporal_gap,
)
from medssl.objectives.graph_mae import scaled_cosine_error


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def everything(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("kind", ["block", "random"])
def test_the_asked_share_of_valid_regions_is_hidden_in_every_window(kind: str) -> None:
    valid = torch.rand(8, 20, generator=generator()) < 0.8
    masks = hidden_regions(valid, 6, 0.3, generator(1), kind=kind)  # type: ignore[arg-type]
    wanted = (0.3 * valid.sum(1) + 0.5).long().unsqueeze(1).expand(-1, 6)
    assert torch.equal(masks.hidden.sum(-1), wanted) and not (masks.hidden & ~valid.unsqueeze(1)).any()
    assert torch.equal(masks.counted.sum(-1), wanted)
    again = torch.zeros_like(masks.hidden).scatter(-1, masks.places, masks.counted)
    assert torch.equal(again, masks.hidden), "places are those of the hidden regions"


def test_blocks_follow_each_other_among_valid_regions_and_may_lie_anywhere() -> None:
    valid = everything(1, 10)
    valid[0, 4] = False
    hidden = hidden_regions(valid, 400, 0.3, generator()).hidden[0][:, valid[0]]
    first, last = hidden.int().argmax(-1), 8 - hidden.flip(-1).int().argmax(-1)
    assert torch.equal(last - first, torch.full((400,), 2))
    assert first.unique().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_one_region_stays_visible_and_a_recording_without_any_hides_none() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert hidden_regions(valid, 2, 0.9, generator()).hidden.sum(-1).tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize(("window", "stride"), [(50, 3), (50, 16), (30, 30), (30, 10), (7, 2)])
def test_windows_that_another_is_told_from_never_overlap_it_nor_each_other(window: int, stride: int) -> None:
    gap = temporal_gap(window, stride)
    count = 2 * gap + 5
    drawn = neighbouring_windows(everything(30, count), gap, generator())
    t = torch.arange(count)
    assert torch.equal(drawn.counted, ((t >= gap) & (t < count - gap)).expand(30, -1))
    before, after = (part[drawn.counted] for part in (drawn.before, drawn.after))
    told = t.expand(30, -1)[drawn.counted]
    assert (told - before >= gap).all() and (after - told >= gap).all()
    assert ((after - before) * stride >= window).all()
    assert before.min() == 0 and after.max() == count - 1, "all that are far enough are drawn"


def test_windows_of_padding_take_no_part_and_too_few_windows_give_nothing() -> None:
    usable = torch.tensor(
        [[False, False, True, True, True, True, True], [True, True, True, False, False, False, False]]
    )
    drawn = neighbouring_windows(usable, 2, generator())
    assert drawn.counted.int().tolist() == [[0, 0, 0, 0, 1, 0, 0], [0] * 7]
    assert (int(drawn.before[0, 4]), int(drawn.after[0, 4])) == (2, 6)


def test_the_spatial_loss_is_that_of_loops() -> None:
    z, edges, pairs = (
        random(2, 4, 3),
        torch.rand(2, 4, 4, generator=generator(1)) < 0.4,
        pairs_between(everything(2, 4)),
    )
    each = []
    for k, i, j in pairs.nonzero().tolist():
        p = sigmoid(float(z[k, i] @ z[k, j]) / math.sqrt(3))
        each.append(-math.log(p if edges[k, i, j] else 1 - p))
    assert len(each) == 24
    assert edge_loss(edge_scores(z, z), edges, pairs).item() == pytest.approx(sum(each) / 24, abs=1e-12)


def test_the_temporal_loss_is_that_of_loops_and_symmetric() -> None:
    one, other = random(2, 4, 3), random(2, 4, 3, seed=1)
    edges = torch.rand(2, 4, 4, generator=generator(1)) < 0.4
    pairs = pairs_between(torch.tensor([[True, True, True, False], [True, True, True, True]]))
    each, odds = [], torch.zeros(2, 4, 4, dtype=torch.float64)
    for k, i, j in pairs.nonzero().tolist():
        s, t = (float(a @ b) / math.sqrt(3) for a, b in ((one[k, i], other[k, j]), (other[k, i], one[k, j])))
        p = (sigmoid(s) + sigmoid(t)) / 2
        odds[k, i, j] = math.log(p / (1 - p))
        each.append(-math.log(p if edges[k, i, j] else 1 - p))
    loss, found = temporal_edge_loss(one, other, edges, pairs)
    assert loss.item() == pytest.approx(sum(each) / len(each), abs=1e-12) and len(each) == 18
    torch.testing.assert_close(torch.where(pairs, found, 0.0), odds, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found, found.mT)
    swapped, _ = temporal_edge_loss(other, one, edges, pairs)
    torch.testing.assert_close(loss, swapped)


def test_scores_of_any_size_leave_loss_and_gradient_finite() -> None:
    one, other = (300 * random(1, 5, 4, seed=seed).float() for seed in (0, 1))
    one.requires_grad_()
    loss, _ = temporal_edge_loss(one, other, everything(1, 5, 5), pairs_between(everything(1, 5)))
    loss.backward()
    assert torch.isfinite(loss) and loss > 100 and torch.isfinite(one.grad).all()


def test_the_error_of_regions_is_graphmaes_or_the_mean_square() -> None:
    told, wanted, hidden = random(2, 3, 5, 7), random(2, 3, 5, 7, seed=1), torch.rand(2, 3, 5) < 0.5
    assert node_loss(told, wanted, hidden, gamma=3.0) == scaled_cosine_error(told, wanted, hidden, gamma=3.0)
    torch.testing.assert_close(node_loss(told, wanted, hidden, kind="mse"), (told - wanted)[hidden].square().mean())


def test_rows_of_places_are_those_of_an_index() -> None:
    x, places = random(2, 3, 6, 4), torch.randint(6, (2, 3, 2), generator=generator())
    taken = of_places(x, places)
    for b in range(2):
        for k in range(3):
            assert torch.equal(taken[b, k], x[b, k, places[b, k]])
