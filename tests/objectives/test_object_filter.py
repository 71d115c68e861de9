"""Object-aware filter: attention over prototypes against loops, limits, and how prototypes specialise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.object_filter import (
    ObjectFilter,
    filter_cells,
    filter_summary,
    new_bank,
    prototype_entropy,
    spherical_means,
)

GRIDS: list[tuple[int, ...]] = [(6,), (4, 3), (2, 3, 3)]
grids = pytest.mark.parametrize("grid", GRIDS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def windows(grid: tuple[int, ...]) -> tuple[int, ...]:
    return (3,) * len(grid)


@grids
def test_equals_the_loops(grid: tuple[int, ...]) -> None:
    queries = random(2, 2, 3, *grid)
    keys, values = random(4, 2, 3, *windows(grid), seed=1), random(4, 2, 3, *windows(grid), seed=2)
    found, attention = filter_cells(queries, keys, values)
    for n, h in itertools.product(range(2), range(2)):
        for cell in itertools.product(*map(range, grid)):
            scores = []
            for m in range(4):
                score = torch.zeros((), dtype=torch.float64)
                for offset in itertools.product((-1, 0, 1), repeat=len(grid)):
                    place = tuple(c + o for c, o in zip(cell, offset, strict=True))
                    if all(0 <= p < g for p, g in zip(place, grid, strict=True)):
                        key = keys[(m, h, slice(None), *(o + 1 for o in offset))]
                        score = score + queries[(n, h, slice(None), *place)] @ key
                scores.append(score / math.sqrt(4))
            share = torch.stack(scores).softmax(0)
            torch.testing.assert_close(attention[(n, h, slice(None), *cell)], share)
            wanted = torch.stack([share[m] * values[m, h].flatten(1).mean(1) for m in range(4)]).sum(0)
            torch.testing.assert_close(found[(n, h, slice(None), *cell)], wanted)


@grids
def test_the_order_of_prototypes_does_not_matter(grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, bank = ObjectFilter(8, heads=2).double(), new_bank(5, 8, windows(grid)).double()
    maps = random(3, 8, *grid)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(maps, bank[order]), layer(maps, bank))
    torch.testing.assert_close(layer.summary(maps.flatten(2).mean(-1), bank[order]), layer.summary(
        maps.flatten(2).mean(-1), bank
    ))  # fmt: skip
    assert layer(maps, bank).shape == (3, 16, *grid)


def test_a_single_prototype_says_the_same_to_every_query() -> None:
    keys, values = random(1, 2, 3, 3, seed=1), random(1, 2, 3, 3, seed=2)
    found, attention = filter_cells(random(2, 2, 3, 7), keys, values)
    assert (attention == 1).all()
    torch.testing.assert_close(found, values.mean(-1).view(1, 2, 3, 1).expand_as(found))
    torch.testing.assert_close(filter_summary(random(2, 2, 3), keys, values), found[..., 0])


def test_prototypes_get_no_gradient_from_the_filter() -> None:
    layer, bank = ObjectFilter(8), new_bank(5, 8, (3, 3))
    maps = torch.randn(2, 8, 4, 4, requires_grad=True)
    layer(maps, bank).square().sum().backward()
    assert bank.grad is None and maps.grad is not None
    assert all(p.grad is not None for p in layer.parameters())


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads"):
        ObjectFilter(10, heads=4)


def test_entropy_of_prototypes_between_its_limits() -> None:
    samples = torch.eye(6, dtype=torch.float64)
    undecided = torch.ones(2, 6, dtype=torch.float64)
    assert prototype_entropy(undecided, samples).item() == pytest.approx(math.log(6))
    assert prototype_entropy(samples[:2], samples, temperature=0.01).item() == pytest.approx(0, abs=1e-12)
    assert prototype_entropy(undecided, samples[:1]).item() == pytest.approx(0), "one sample alone"


def test_a_step_down_the_gradient_makes_prototypes_choose() -> None:
    bank, samples = random(3, 4).requires_grad_(), random(10, 4, seed=1)
    before = prototype_entropy(bank, samples)
    before.backward()
    assert bank.grad is not None
    after = prototype_entropy(bank.detach() - 0.1 * bank.grad, samples)
    assert after.item() < before.item()


def test_spherical_means_find_separate_groups() -> None:
    centres = torch.eye(4, dtype=torch.float64)[:3]
    rows = torch.nn.functional.normalize(centres.repeat_interleave(20, 0) + 0.05 * random(60, 4), dim=1)
    means = spherical_means(rows, 3)
    torch.testing.assert_close(means.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert sorted((means @ centres.T).argmax(1).tolist()) == [0, 1, 2]
    assert (means @ centres.T).amax(1).min() > 0.99


def test_a_mean_without_samples_stays_where_it_was() -> None:
    rows = torch.nn.functional.normalize(torch.ones(5, 3, dtype=torch.float64), dim=1)
    assert torch.isfinite(spherical_means(rows, 3)).all()
