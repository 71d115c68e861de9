"""CoTAP: which cells are compared with which, against loops; neighbours, random others, clusters, settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.assignment import sinkhorn
from medssl.objectives.cotap import Cells, CoTAP, neighbour_ranking_loss, similarity_lists
from medssl.objectives.neighbours import most_similar_other, neighbour_cross_entropy, random_others
from medssl.objectives.ranking import ap_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a, b, dim=0))


def objective(width: int = 5, **options: Any) -> CoTAP:
    torch.manual_seed(0)
    made = CoTAP(**({"cells": (2, 3), "top": 2, "others": 3} | options))
    made.fit_width(width)
    return made.double()


def run(of: CoTAP, views: Tensor, **more: Any) -> Tensor:
    given = {"targets": views + 0.5 * random(*views.shape, seed=9), "generator": torch.Generator().manual_seed(3)}
    loss: Tensor = of(views, **{**given, **more}).loss
    return loss


@pytest.mark.parametrize("pool", [True, False])
def test_similarity_lists_equal_the_loops(pool: bool) -> None:
    own, other = random(2, 4, 3, 5), random(2, 4, 3, 5, seed=1)
    cells = Cells(own, other) if pool else Cells(own)
    pairs = torch.tensor([[1, 0, 3, 2], [2, 3, 0, 0]])
    found = similarity_lists(cells, pairs)
    against = other if pool else own
    for p in range(2):
        wanted = [
            cosine(own[p, m, i], against[p, pairs[r, m], j])
            for r in range(2) for m in range(4) for i in range(3) for j in range(3)
        ]  # fmt: skip
        torch.testing.assert_close(found[p], torch.tensor(wanted, dtype=torch.float64))


def test_the_same_pair_of_cells_has_the_same_similarity_to_the_last_bit() -> None:
    cells = Cells(random(1, 7, 3, 33).float())
    found = similarity_lists(cells, torch.tensor([[1, 0, 2, 4, 3, 6, 5], [1, 0, 2, 4, 3, 6, 5]]))[0].view(2, 7, 3, 3)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0, 0], found[0, 1].T), "there and back"
    assert (found[0, 2].diagonal() == 1).all(), "a cell with itself"


def test_only_the_first_pairs_have_full_weight() -> None:
    student, teacher = Cells(random(1, 4, 2, 5)), Cells(random(1, 4, 2, 5, seed=1))
    pairs = torch.tensor([[1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
    targets, scores = (similarity_lists(c, pairs)[0] for c in (teacher, student))
    matched = torch.arange(len(scores)) < 4 * 4
    found = neighbour_ranking_loss(student, teacher, pairs, unmatched=0.1)
    assert found.item() == pytest.approx(ap_loss(targets, scores, matched, unmatched=0.1).item(), abs=1e-14)
    assert found.item() != pytest.approx(ap_loss(targets, scores).item(), abs=1e-6)


@pytest.mark.parametrize("neighbour", ["view", "batch"])
@pytest.mark.parametrize("k", [2, 3])
def test_the_objective_is_the_mean_over_grids_and_pairings(neighbour: str, k: int) -> None:
    """With all cells kept, no mask is involved: grids of 1 and of 2 cells an axis over maps of 2 × 2."""
    views, targets = random(k, 4, 5, 2, 2), random(k, 4, 5, 2, 2, seed=1)
    of = objective(cells=(1, 2), top=99, neighbour=neighbour)
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    found = of(views, targets=targets, generator=generator).loss
    summaries = targets.flatten(3).mean(-1)
    partner = most_similar_other((summaries - summaries.mean((0, 1))).mean(0))
    losses = []
    for edge in (1, 2):
        others = random_others(3, 4, generator=again, device=views.device)
        pooled = [functional.adaptive_avg_pool2d(x.flatten(0, 1), edge).flatten(2).unflatten(0, (k, 4)) for x in
                  (targets, views)]  # fmt: skip
        cells = [x.transpose(2, 3) for x in pooled]  # (k, 4, cells, 5)
        rows = [(v, (v + 1) % k) for v in range(k if k > 2 else 1)] if neighbour == "view" else [(None, None)]
        for a, b in rows:
            lists: list[list[float]] = [[], []]
            for pairs in [torch.arange(4) if neighbour == "view" else partner, *others]:
                for n in range(4):
                    for which, x in enumerate(cells):
                        mine = x[a, n] if a is not None else x[:, n].flatten(0, 1)
                        theirs = x[b, pairs[n]] if b is not None else x[:, pairs[n]].flatten(0, 1)
                        lists[which] += [cosine(p, q) for p in mine for q in theirs]
            y, x = (torch.tensor(values, dtype=torch.float64) for values in lists)
            matched = torch.arange(len(y)) < len(y) // 4
            losses.append(ap_loss(y.round(decimals=12), x.round(decimals=12), matched))
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-9)


def test_random_others_leave_nobody_in_its_place_and_repeat_nobody() -> None:
    others = random_others(200, 5, generator=torch.Generator().manual_seed(0), device=torch.device("cpu"))
    assert (others.sort(1).values == torch.arange(5)).all()
    assert (others != torch.arange(5)).all()
    for sample in range(5):
        assert len(others[:, sample].unique()) == 4, "everybody else gets a turn"
    pair = random_others(3, 2, generator=None, device=torch.device("cpu"))
    assert (pair == torch.tensor([1, 0])).all()


def test_the_most_similar_other_is_of_another_patient() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.6, 0.8], [0.0, 1.0]])
    assert most_similar_other(features).tolist() == [1, 0, 3, 2]
    assert most_similar_other(5 * features, torch.tensor([7, 7, 8, 8])).tolist() == [2, 2, 1, 1]
    assert most_similar_other(features, torch.zeros(4)).tolist() == [0, 1, 2, 3]


def test_clusters_across_neighbours_equal_the_loops() -> None:
    s, t, q, r = random(2, 3, 4), random(2, 3, 4, seed=1), random(2, 3, 4, seed=2), random(2, 3, 4, seed=3)
    q, r = q.softmax(-1), r.softmax(-1)
    found = neighbour_cross_entropy(s, q, t, r, temperature=0.2)
    terms = []
    for n in range(3):
        for c in range(2):
            for d in range(2):
                terms.append(-(r[d, n] * (s[c, n] / 0.2).log_softmax(-1)).sum())
                terms.append(-(q[d, n] * (t[c, n] / 0.2).log_softmax(-1)).sum())
    assert found.item() == pytest.approx(torch.stack(terms).mean().item())


def test_a_student_that_ranks_like_its_teacher_is_better_than_one_that_does_not() -> None:
    views = random(2, 6, 5, 4, 4)
    of = objective()
    assert run(of, views, targets=views).item() < run(of, views, targets=random(2, 6, 5, 4, 4, seed=4)).item()
    assert run(of, views, targets=torch.ones_like(views)).item() == 0, "a teacher that says nothing teaches nothing"


@pytest.mark.parametrize(
    "change",
    [
        {"cells": (2,)}, {"top": 3}, {"others": 5}, {"neighbour": "batch"}, {"margin": 0.1}, {"floor": 0.3},
        {"keep": 0.1}, {"surrogate": "hinge"}, {"clusters": 4}, {"prototypes": 3, "heads": 1, "window": (3, 3)},
    ],
)  # fmt: skip
def test_every_option_changes_the_loss(change: dict[str, Any]) -> None:
    views = random(2, 6, 5, 4, 4)
    assert run(objective(**change), views).item() != pytest.approx(run(objective(), views).item(), abs=1e-9)


def test_options_of_the_filter_change_the_loss() -> None:
    views = random(2, 6, 8, 4, 4)
    base = {"prototypes": 3, "window": (3, 3), "heads": 2}
    plain = run(objective(8, **base), views).item()
    for change in ({"prototypes": 5}, {"window": (1, 3)}, {"heads": 4}):
        assert run(objective(8, **{**base, **change}), views).item() != pytest.approx(plain, abs=1e-9)


def test_prototypes_are_made_of_the_memory_once_it_is_full() -> None:
    of = objective(4, prototypes=3, heads=1, window=(3,), memory=20)
    before = of.bank.detach().clone()
    for step in range(3):  # 12 windows each
        run(of, random(2, 6, 4, 7, seed=step))
        assert bool(of.bank_made) is (step > 0)
        if step == 1:
            made = of.bank.detach().clone()
            torch.testing.assert_close(made.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert not torch.equal(made, before) and torch.equal(of.bank, made), "made once, trained afterwards"


def test_the_teacher_s_filter_and_clusters_follow() -> None:
    of = objective(4, prototypes=3, heads=1, window=(3,), clusters=5)
    assert of.filter is not None and of.teacher_filter is not None
    with torch.no_grad():
        of.filter.proj.weight.fill_(1.0)
        of.teacher_filter.proj.weight.fill_(0.0)
        of.clusters.fill_(1.0)
        of.teacher_clusters.fill_(0.0)
    of.follow(0.75)
    assert of.teacher_filter.proj.weight.eq(0.25).all() and of.teacher_clusters.eq(0.25).all()
    assert not any(p.requires_grad for p in of.teacher_filter.parameters())


def test_clusters_of_views_are_those_of_swav() -> None:
    views, targets = random(2, 6, 5, 3), random(2, 6, 5, 3, seed=1)
    of = objective(clusters=4)
    logs = of(views, targets=targets, generator=torch.Generator()).logs
    whole = [x.mean(-1) - x.mean((0, 1, -1)) for x in (views, targets)]
    scores, known = (functional.normalize(x, dim=-1) @ functional.normalize(of.clusters, dim=1).T for x in whole)
    shares = sinkhorn(known.flatten(0, 1), epsilon=0.07, iterations=3).view_as(known)
    there = -(shares[0] * (scores[1] / 0.1).log_softmax(-1)).sum(-1)
    back = -(shares[1] * (scores[0] / 0.1).log_softmax(-1)).sum(-1)
    assert logs["clusters"].item() == pytest.approx(((there + back) / 2).mean().item())
    assert math.isfinite(logs["ranking"].item()) and 0 < logs["foreground"].item() < 1


def test_bad_settings_and_maps_are_refused() -> None:
    for wrong, word in (
        ({"cells": ()}, "cells"), ({"margin": 0}, "margin"), ({"keep": 2.0}, "keep"), ({"neighbour": "x"}, "view"),
        ({"surrogate": "x"}, "hinge"), ({"prototypes": 9, "memory": 8}, "memory"), ({"window": (2, 2)}, "odd"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            CoTAP(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="window"):
        run(objective(prototypes=3, heads=1, window=(3, 3)), random(2, 4, 5, 6))
    with pytest.raises(ValueError, match="same shape"):
        run(objective(), random(2, 4, 5, 6), targets=random(2, 4, 5, 3))
