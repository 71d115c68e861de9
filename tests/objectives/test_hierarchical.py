"""Contrast of steps, samples, trials and patients: values known by hand, symmetries, and how little memory it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medssl.objectives import hierarchical
from medssl.objectives.hierarchical import (
    id_loss,
    mean_over_scales,
    observation_losses,
    pyramid,
    same,
    sample_losses,
    ts2vec_losses,
)

Losses = Callable[[Tensor, Tensor], Tensor]
IDS = torch.tensor([0, 0, 1, 1, 1, 2])


def views(n: int = 6, steps: int = 9, width: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(n, steps, width, dtype=torch.float64, generator=generator) for _ in "ab")
    return one.requires_grad_(), other.requires_grad_()


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves)


def over_all_scales(losses: Losses) -> Losses:
    return lambda one, other: mean_over_scales(pyramid(one, other), losses)


PER_SAMPLE = pytest.mark.parametrize(
    "losses",
    [sample_losses, observation_losses, over_all_scales(sample_losses), over_all_scales(observation_losses),
     ts2vec_losses],
    ids=["samples", "observations", "samples_of_scales", "observations_of_scales", "ts2vec"],
)  # fmt: skip


def by_hand(anchors: Tensor, positives: Tensor) -> Tensor:
    """Mean loss of every pair of one group (N, D), anchor by anchor."""
    n, both = len(anchors), torch.cat([anchors, positives])
    losses = []
    for i in range(n):
        pair = []
        for anchor, partner in ((i, n + i), (n + i, i)):
            others = [j for j in range(2 * n) if j != anchor]
            pair.append(torch.logsumexp(both[others] @ both[anchor], 0) - both[partner] @ both[anchor])
        losses.append(torch.stack(pair).mean())
    return torch.stack(losses)


def test_equals_loops_over_anchors() -> None:
    one, other = views(4, 5)
    of_samples = torch.stack([by_hand(one[:, t], other[:, t]) for t in range(5)]).mean(0)
    of_steps = torch.stack([by_hand(a, b).mean() for a, b in zip(one, other, strict=True)])
    torch.testing.assert_close(sample_losses(one, other), of_samples)
    torch.testing.assert_close(observation_losses(one, other), of_steps)


def test_gradients_are_those_of_the_losses() -> None:
    assert torch.autograd.gradcheck(hierarchical._contrast, views(3, 4, 2))


@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_equal_views_of_zeros_are_told_apart_by_chance(steps: int) -> None:
    zeros = torch.zeros(5, steps, 3)
    for one, other in pyramid(zeros, zeros):
        torch.testing.assert_close(sample_losses(one, other), torch.full((5,), math.log(9)))
        chance = torch.full((5,), math.log(2 * one.shape[1] - 1))
        torch.testing.assert_close(observation_losses(one, other), chance)
    lengths = [len(one[0]) for one, _ in pyramid(zeros, zeros)]
    assert lengths == [steps // 2**k for k in range(len(lengths))] and lengths[-1] == 1
    wanted = 0.5 * math.log(9) + 0.5 * sum(math.log(2 * n - 1) for n in lengths) / len(lengths)
    torch.testing.assert_close(ts2vec_losses(zeros, zeros), torch.full((5,), wanted))


@PER_SAMPLE
def test_order_of_the_batch_does_not_matter(losses: Losses) -> None:
    one, other = views()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    plain, turned = losses(one, other), losses(one[order], other[order])
    torch.testing.assert_close(turned, plain[order])
    weights = torch.arange(6.0).double()
    for straight, permuted in zip(
        gradients(weights @ plain, one, other), gradients(weights[order] @ turned, one, other), strict=True
    ):
        torch.testing.assert_close(permuted, straight)


@PER_SAMPLE
def test_a_sample_of_one_step_alone_has_nothing_to_be_told_from(losses: Losses) -> None:
    one, other = views(1, 1)
    loss = losses(one, other)
    assert loss.tolist() == [0] and all(not g.any() for g in gradients(loss.sum(), one, other))


def test_a_later_temporal_unit_leaves_fine_scales_to_samples() -> None:
    one, other = views(3, 8)
    scales = pyramid(one, other)
    steps = [observation_losses(*scale) for scale in scales[:-1]]
    for unit in range(3):
        apart = ts2vec_losses(one, other) - ts2vec_losses(one, other, temporal_unit=unit)
        left_out = 0.5 * torch.stack(steps[:unit]).sum(0) / 4 if unit else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(apart, left_out)
    torch.testing.assert_close(ts2vec_losses(one, other, temporal_unit=9), ts2vec_losses(one, other, alpha=1) / 2)


class Largest(TorchDispatchMode):
    """Largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and x._base is None:
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("losses", [sample_losses, observation_losses])
def test_nothing_larger_than_the_views_is_made_or_kept(losses: Losses, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = views(32, 32, 2)
    whole = losses(one, other)
    wanted = gradients(whole.sum(), one, other)
    monkeypatch.setattr(hierarchical, "CHUNK", 2048)  # two groups of 32 at a time, where there are 32
    with Largest() as seen:
        chunked = losses(one, other)
        found = gradients(chunked.sum(), one, other)
    assert seen.numel == 2048 == one.numel()
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(found, wanted)


def test_computed_in_float32_under_autocast() -> None:
    one, other = (z.detach().float() for z in views())
    with torch.autocast("cpu", torch.bfloat16):
        inside = ts2vec_losses(one, other), id_loss(one, other, same(IDS))
    outside = ts2vec_losses(one, other), id_loss(one, other, same(IDS))
    torch.testing.assert_close(inside, outside)
    assert ts2vec_losses(one.bfloat16(), other.bfloat16()).dtype == torch.float32
    huge = 1e3 * one  # dot products of millions
    assert torch.isfinite(sample_losses(huge, huge)).all() and torch.isfinite(observation_losses(huge, huge)).all()


def test_views_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="two views"):
        pyramid(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))


OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"symmetric": True}, {"per_anchor": True}, {"symmetric": True, "per_anchor": True}], ids=str
)


@OPTIONS
def test_without_a_pair_there_is_neither_loss_nor_gradient(options: dict[str, bool]) -> None:
    for n in (1, 6):
        one, other = views(n)
        loss = id_loss(one, other, same(torch.arange(n)), **options)
        assert loss.item() == 0 and all(not g.any() for g in gradients(loss, one, other))


@OPTIONS
def test_names_and_scales_do_not_matter(options: dict[str, bool]) -> None:
    one, other = views()
    plain = id_loss(one, other, same(IDS), **options)
    renamed = torch.tensor([7, 3, -1])[IDS]
    torch.testing.assert_close(id_loss(one, other, same(renamed), **options), plain)
    louder = one * torch.tensor([1.0, 5.0, 0.1, 1.0])
    torch.testing.assert_close(id_loss(louder, other, same(IDS), **options), plain)


@OPTIONS
def test_order_matters_to_the_published_loss_alone(options: dict[str, bool]) -> None:
    one, other = views()
    order = torch.tensor([1, 0, 4, 2, 3, 5])
    apart = id_loss(one[order], other[order], same(IDS[order]), **options) - id_loss(one, other, same(IDS), **options)
    assert (apart.abs() < 1e-12) == options.get("symmetric", False)


def test_two_windows_of_one_patient_with_the_same_features() -> None:
    window = views(1)[0].expand(2, -1, -1)
    together = same(torch.zeros(2))
    assert id_loss(window, window, together).item() == pytest.approx(math.log(2))
    assert id_loss(window, window, together, symmetric=True).item() == pytest.approx(0, abs=1e-9)
    three = torch.cat([window, -window[:1]])  # the third is no positive: e^-20 of the others
    wanted = math.log(2 + math.exp(-20))
    assert id_loss(three, three, same(torch.tensor([0, 0, 1]))).item() == pytest.approx(wanted)


def losses_of_pairs(one: Tensor, other: Tensor, *, own: bool, ignored: set[tuple[int, int]]) -> dict[str, Tensor]:
    """Loss of every ordered pair in both directions, by loops."""
    unit = [torch.nn.functional.normalize(z, dim=1).flatten(1) for z in (one, other)]
    a, b = (torch.nn.functional.normalize(z, dim=1) for z in unit)
    n, found = len(a), {}
    for r in range(n):
        for c in range(n):
            if r == c or IDS[r] != IDS[c] or (r, c) in ignored:
                continue
            keys = [k for k in range(n) if (own or k != r) and (r, k) not in ignored]
            for name, anchor, others in (("rows", a[r], b), ("columns", b[r], a)):
                found[f"{name} {r} {c}"] = (others[keys] @ anchor / 0.1).logsumexp(0) - others[c] @ anchor / 0.1
    return found


def test_averages_and_pairs_left_out() -> None:
    one, other = views()
    ignored = {(2, 3), (3, 2)}
    left_out = torch.zeros(6, 6, dtype=torch.bool)
    left_out[[2, 3], [3, 2]] = True

    every = losses_of_pairs(one, other, own=False, ignored=ignored)
    options: dict[str, Any] = {"symmetric": True, "left_out": left_out}
    wanted = torch.stack(list(every.values())).mean()
    torch.testing.assert_close(id_loss(one, other, same(IDS), **options), wanted)

    anchors: dict[str, list[Tensor]] = {}
    for name, loss in every.items():
        anchors.setdefault(name.rpartition(" ")[0], []).append(loss)
    wanted = torch.stack([torch.stack(each).mean() for each in anchors.values()]).mean()
    torch.testing.assert_close(id_loss(one, other, same(IDS), per_anchor=True, **options), wanted)

    published = losses_of_pairs(one, other, own=True, ignored=set())
    upper = [loss for name, loss in published.items() if int(name.split()[1]) < int(name.split()[2])]
    torch.testing.assert_close(id_loss(one, other, same(IDS)), torch.stack(upper).mean())
