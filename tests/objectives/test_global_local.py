"""Global and local contrast: references written in loops, limits that can be worked out by hand, and symmetries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.global_local import (
    Regions,
    gather_regions,
    global_domain,
    global_negatives,
    global_random,
    local_domain,
    local_random,
    regions,
)

Loss = Callable[..., Tensor]
GLOBAL = {"random": (global_random, 2), "negatives": (global_negatives, 3), "domain": (global_domain, 2)}
everywhere = pytest.mark.parametrize("name", sorted(GLOBAL))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def term(anchor: Tensor, positive: Tensor, negatives: Sequence[Tensor], temperature: float) -> Tensor:
    top = torch.exp(cosine(anchor, positive) / temperature)
    return -torch.log(top / (top + sum(torch.exp(cosine(anchor, k) / temperature) for k in negatives)))


def global_loops(name: str, z: Tensor, temperature: float) -> Tensor:
    volumes, members, parts = z.shape[:3]
    places = list(itertools.product(range(volumes), range(members), range(parts)))
    pairs = []
    for v, s in itertools.product(range(volumes), range(parts)):
        if name == "domain":
            w = (v + 1) % volumes
            ties = [((v, 0), (v, 1)), ((v, 0), (w, 0)), ((w, 0), (w, 1)), ((v, 1), (w, 1))]
            pairs += [((*a, s), (*b, s)) for one, other in ties for a, b in ((one, other), (other, one))]
        else:
            pairs += [((v, a, s), (v, b, s)) for a, b in itertools.permutations(range(members), 2)]
    losses = []
    for a, b in pairs:
        if name == "random":
            negatives = [z[k] for k in places if k not in (a, b)]
        else:
            negatives = [z[k] for k in places if k[2] != a[2]]
        losses.append(term(z[a], z[b], negatives, temperature))
    return torch.stack(losses).mean()


def local_loops(first: Tensor, second: Tensor, table: Regions, temperature: float, *, across: bool) -> Tensor:
    """(V, S, P, D) each."""
    losses = []
    for v, s, r in itertools.product(range(first.shape[0]), range(first.shape[1]), range(len(table.anchors))):
        near, place = table.negatives[r].nonzero().flatten().tolist(), int(table.anchors[r])
        partners = [(first[v, s], second[v, s])]
        if across:
            partners += [(first[v, s], first[w, s]) for w in range(len(first)) if w != v]
        else:
            partners += [(second[v, s], first[v, s])]
        for own, other in partners:
            negatives = [m[k] for m in (own, other) for k in near]
            losses.append(term(own[place], other[place], negatives, temperature))
    return torch.stack(losses).mean()


def embeddings(name: str, volumes: int = 3, parts: int = 2, width: int = 4, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    shape = (volumes, GLOBAL[name][1], parts, width)
    return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()


@everywhere
@pytest.mark.parametrize("shape", [(2, 2), (3, 3)])
def test_global_losses_and_gradients_are_those_of_the_loops(name: str, shape: tuple[int, int]) -> None:
    z = embeddings(name, *shape)
    found, wanted = GLOBAL[name][0](z, temperature=0.3), global_loops(name, z, 0.3)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", [(12, 9), (4, 8, 9)])
@pytest.mark.parametrize("across", [False, True])
def test_local_losses_and_gradients_are_those_of_the_loops(size: tuple[int, ...], across: bool) -> None:
    table = regions(size, edge=1)
    shape = (2, 1, len(table.cells), 3)
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for _ in "ab")
    found = (
        local_domain(first, second, table, temperature=0.5)
        if across
        else local_random(first.flatten(0, 1), second.flatten(0, 1), table, temperature=0.5)
    )
    wanted = local_loops(first, second, table, 0.5, across=across)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for one, other in zip(*(torch.autograd.grad(x, (first, second)) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_equal_rows_cost_the_logarithm_of_the_number_of_negatives() -> None:
    for volumes, parts in ((3, 4), (2, 2)):
        size = volumes * parts  # slices of one draw
        same = torch.ones(volumes, 3, parts, 5, dtype=torch.float64)
        one = math.log(1 + 3 * size * (parts - 1) / parts)
        assert global_negatives(same, temperature=0.1).item() == pytest.approx(one)
        assert global_negatives(same, temperature=0.1, reduction="reference").item() == pytest.approx(2 * one)
        one = math.log(1 + 2 * size * (parts - 1) / parts)
        assert global_domain(same[:, :2], temperature=0.1).item() == pytest.approx(one)
        assert global_domain(same[:, :2], temperature=0.1, reduction="reference").item() == pytest.approx(4 * one)
        assert global_random(same[:, :2], temperature=0.1).item() == pytest.approx(math.log(2 * size - 1))
    # the published batch of 12 slices: 2 log 28 and, with two draws of it, 4 log 37
    published = torch.ones(3, 3, 4, 5)
    assert global_negatives(published, temperature=0.1, reduction="reference").item() == pytest.approx(2 * math.log(28))
    published = torch.ones(6, 2, 4, 5)
    assert global_domain(published, temperature=0.1, reduction="reference").item() == pytest.approx(4 * math.log(37))


@pytest.mark.parametrize("name", ["negatives", "domain"])
def test_clusters_of_parts_cost_nothing_when_it_is_cold(name: str) -> None:
    loss, members = GLOBAL[name]
    z = torch.eye(4).expand(3, members, 4, 4)
    assert loss(z, temperature=0.01).item() == pytest.approx(0, abs=1e-6)
    assert loss(z, temperature=1e-4).isfinite(), "logarithms of sums of exponentials must not overflow"


@everywhere
def test_symmetries_of_the_global_losses(name: str) -> None:
    loss = GLOBAL[name][0]
    z = embeddings(name, volumes=4, parts=3).detach()
    wanted = loss(z, temperature=0.2)
    lengths = torch.rand(*z.shape[:3], 1, dtype=z.dtype) + 0.5
    same = [z * lengths, z.roll(1, 0), z[:, :, [2, 0, 1]], z.flip(0)]
    if name != "domain":  # any order of volumes and members
        same += [z[[2, 0, 3, 1]], z.flip(1)]
    for other in same:
        torch.testing.assert_close(loss(other, temperature=0.2), wanted)


def test_what_the_domain_losses_pull_together() -> None:
    """Slices of one part of two volumes are positives, and never negatives."""
    z = embeddings("domain", volumes=2).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(global_domain(z, temperature=0.5), z)
    step = z - 0.05 * gradient
    before, after = (
        torch.stack([cosine(x[0, 0, s], x[1, 0, s]) for s in range(2)]).mean() for x in (z.detach(), step.detach())
    )
    assert after > before


@everywhere
def test_half_precision_is_raised(name: str) -> None:
    z = embeddings(name).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = GLOBAL[name][0](z.bfloat16(), temperature=0.1)
    assert found.dtype == torch.float32 and found.isfinite()


@pytest.mark.parametrize(("name", "shape"), [("negatives", (2, 3, 1, 4)), ("domain", (1, 2, 2, 4)), ("random", (6, 4))])
def test_what_has_no_negatives_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least"):
        GLOBAL[name][0](torch.randn(shape), temperature=0.1)


def vectors(y: Tensor, table: Regions) -> Tensor:
    return gather_regions(y, table.cells)


def test_regions_are_gathered_row_by_row_with_their_channels() -> None:
    y = torch.arange(2 * 12 * 12.0).view(1, 2, 12, 12)
    table = regions((12, 12))
    found = vectors(y, table)
    assert found.shape == (1, len(table.cells), 18)
    torch.testing.assert_close(found[0, 4], y[0, :, 4:7, 4:7].permute(1, 2, 0).flatten())


@pytest.mark.parametrize(("edge", "size"), [(3, (12, 12)), (1, (8, 8)), (3, (8, 16, 12)), (1, (3, 9, 5))])
def test_published_regions_leave_the_last_row_and_column_out(edge: int, size: tuple[int, ...]) -> None:
    table = regions(size, edge=edge)  # type: ignore[arg-type]
    y = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    first, second = vectors(y, table), vectors(y.flip(0), table)
    local_random(first, second, table, temperature=0.5).backward()
    assert y.grad is not None
    seen = y.grad.abs().sum((0, 1)) > 0
    assert seen[..., 0, 0].any() and seen[..., -2 if edge == 3 else -1, 0].any()
    if edge == 3:
        assert not seen[..., -1, :].any() and not seen[..., :, -1].any()


def test_what_lies_outside_all_regions_has_no_influence() -> None:
    table = regions((48, 48), negatives="all")
    outside = torch.ones(48 * 48, dtype=torch.bool)
    outside[table.cells.flatten()] = False
    assert outside.sum() == 48 * 48 - 13 * 9, "far from each other, the regions do not overlap"
    y = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    moved = torch.where(outside.view(48, 48), y.roll(1, -1), y)
    found = [local_random(*vectors(m, table)[:, None], table, temperature=0.2) for m in (y, moved)]
    assert found[0] == found[1]


def test_symmetries_of_the_local_losses() -> None:
    table = regions((12, 12), edge=1)
    a, b = torch.randn(2, 6, len(table.cells), 4, dtype=torch.float64)
    wanted = local_random(a, b, table, temperature=0.2)
    scale = torch.rand(6, len(table.cells), 1, dtype=torch.float64) + 0.5
    for first, second in ((b, a), (a * scale, b), (a.flip(0), b.flip(0))):
        torch.testing.assert_close(local_random(first, second, table, temperature=0.2), wanted)
    volumes, views = a.unflatten(0, (3, 2)), b.unflatten(0, (3, 2))
    wanted = local_domain(volumes, views, table, temperature=0.2)
    torch.testing.assert_close(local_domain(volumes[[2, 0, 1]], views[[2, 0, 1]], table, temperature=0.2), wanted)
    reference = local_domain(volumes, views, table, temperature=0.2, reduction="reference")
    torch.testing.assert_close(reference, 1.5 * wanted)  # 3 volumes: 3 terms a region, divided by 2


def test_equal_regions_cost_the_logarithm_of_the_number_of_negatives() -> None:
    for options, each in (({}, 5), ({"listed": 4}, 4), ({"negatives": "all"}, 12)):
        table = regions((24, 24), **options)
        assert (table.negatives.sum(1) == each).all()
        same = torch.ones(2, len(table.cells), 4)
        assert local_random(same, same, table, temperature=0.1).item() == pytest.approx(math.log(1 + 2 * each))


def test_all_negatives_are_the_regions_that_do_not_overlap() -> None:
    table = regions((12, 12), negatives="all")
    assert len(table.cells) == 13
    sets = [set(c.tolist()) for c in table.cells]
    for r, others in enumerate(table.negatives.tolist()):
        assert others == [not (sets[r] & s) for s in sets]


@pytest.mark.parametrize(
    ("depth", "starts", "deep"), [(1, [0], 1), (2, [0], 2), (5, [1], 3), (6, [0, 3], 3), (12, [0, 4, 9], 3)]
)
def test_regions_of_volumes_lie_in_layers(depth: int, starts: list[int], deep: int) -> None:
    flat, table = regions((12, 16)), regions((depth, 12, 16))
    assert sorted({c // (12 * 16) for c in table.cells[:, 0].tolist()}) == starts
    assert table.cells.shape == (17 * len(starts), 9 * deep) and len(table.anchors) == 13 * len(starts)
    for layer in range(len(starts)):
        first = table.cells[17 * layer : 17 * (layer + 1)]
        assert torch.equal(first[:, :9] - starts[layer] * 12 * 16, flat.cells)
        own = table.negatives[13 * layer : 13 * (layer + 1)]
        assert torch.equal(own[:, 17 * layer : 17 * (layer + 1)], flat.negatives)
    assert table.negatives.sum() == 5 * 13 * len(starts), "listed negatives are of the same layer"
    everything = regions((depth, 24, 24), negatives="all")
    assert (everything.negatives.sum(1) == 13 * len(starts) - 1).all()


@pytest.mark.parametrize("size", [(7, 12), (12, 7), (3, 12, 7)])
def test_maps_that_are_too_small_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="8 × 8"):
        regions(size)
    with pytest.raises(ConfigError, match="no negatives"):
        regions((8, 8), negatives="all")


def test_no_table_names_a_region_twice_or_itself() -> None:
    for edge, count in ((3, 13), (1, 13), (3, 9), (1, 9)):
        table = regions((16, 16), edge=edge, count=count)  # type: ignore[arg-type]
        assert (table.negatives.sum(1) == 5).all()
        assert not table.negatives.gather(1, table.anchors[:, None]).any()
