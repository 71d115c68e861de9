"""Objectives of all views at once against loops, their invariances, and what they keep in memory."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.contrastive import info_nce
from medssl.objectives.multi_view import MVDHEL, MVInfoNCE, PolyView, Variant, mv_dhel, mv_info_nce, poly_view


def random_views(k: int, n: int, d: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(k, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Loops:
    """The definitions, with dictionaries of exponentials."""

    def __init__(self, views: Tensor, temperature: float, group: list[int] | None) -> None:
        self.k, self.n, _ = views.shape
        group = group or list(range(self.n))
        z = views / views.norm(dim=-1, keepdim=True)
        places = [(i, v) for i in range(self.n) for v in range(self.k)]
        self.e = {(p, q): (z[p[1], p[0]] @ z[q[1], q[0]] / temperature).exp() for p in places for q in places}
        self.foes = {i: [j for j in range(self.n) if group[j] != group[i]] for i in range(self.n)}

    def positives(self, i: int, view: int) -> list[Tensor]:
        return [self.e[(i, view), (i, m)] for m in range(self.k) if m != view]

    def against(self, i: int, view: int, views: list[int]) -> list[Tensor]:
        return [self.e[(i, view), (j, m)] for m in views for j in self.foes[i]]

    def mv_info_nce(self, i: int, variant: Variant) -> Tensor:
        all_views, losses = list(range(self.k)), []
        above, below = [], []
        for view in all_views:
            met = all_views if variant == "code" else [m for m in all_views if m != view]
            above.append(sum(self.positives(i, view)))
            below.append(sum(self.positives(i, view) + self.against(i, view, met)))
            losses.append(-(above[-1] / below[-1]).log())
        return sum(losses) / self.k if variant == "per_view" else -(sum(above) / sum(below)).log()  # type: ignore[return-value]

    def mv_dhel(self, i: int, variant: Variant) -> Tensor:
        all_views = list(range(self.k))
        energies = sum(sum(self.against(i, view, [view])).log() for view in all_views)  # type: ignore[union-attr]
        sums = [sum(self.positives(i, view)) for view in all_views]
        if variant == "per_view":
            return energies - sum(s.log() for s in sums) / self.k  # type: ignore[union-attr, return-value]
        return energies - (sum(sums) / (2 if variant == "code" else 1)).log()  # type: ignore[union-attr, return-value]

    def poly_view(self, i: int) -> Tensor:
        losses = []
        for view in range(self.k):
            foes = sum(self.against(i, view, list(range(self.k))))
            losses += [-(p / (p + foes)).log() for p in self.positives(i, view)]
        return sum(losses) / len(losses)  # type: ignore[return-value]


def same_as_loops(fast: Tensor, slow: Tensor, value: Tensor, wanted: list[Tensor]) -> None:
    value.backward()
    mean = torch.stack(wanted).mean()
    mean.backward()
    assert value.item() == pytest.approx(mean.item(), abs=1e-11)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-11, rtol=0)


SHAPES = pytest.mark.parametrize(("k", "n"), [(2, 2), (2, 5), (4, 5)])
GROUPS = pytest.mark.parametrize("grouped", [False, True])


@SHAPES
@GROUPS
@pytest.mark.parametrize("variant", get_args(Variant))
def test_equals_the_loops(k: int, n: int, grouped: bool, variant: Variant) -> None:
    group = [0, 0, 1, 2, 1][:n] if grouped and n > 2 else None
    given = None if group is None else torch.tensor(group)
    for function, name in ((mv_info_nce, "mv_info_nce"), (mv_dhel, "mv_dhel")):
        fast, slow = random_views(k, n).requires_grad_(), random_views(k, n).requires_grad_()
        loops = Loops(slow, 0.4, group)
        value = function(fast, temperature=0.4, variant=variant, group=given)
        same_as_loops(fast, slow, value, [getattr(loops, name)(i, variant) for i in range(n)])


@SHAPES
@GROUPS
def test_poly_view_equals_the_loops(k: int, n: int, grouped: bool) -> None:
    group = [0, 0, 1, 2, 1][:n] if grouped and n > 2 else None
    fast, slow = random_views(k, n).requires_grad_(), random_views(k, n).requires_grad_()
    loops = Loops(slow, 0.4, group)
    value = poly_view(fast, temperature=0.4, group=None if group is None else torch.tensor(group))
    same_as_loops(fast, slow, value, [loops.poly_view(i) for i in range(n)])


def test_poly_view_of_two_views_is_info_nce() -> None:
    views = random_views(2, 6)
    assert poly_view(views, temperature=0.3).item() == pytest.approx(info_nce(views, temperature=0.3).item(), abs=1e-12)


def test_published_form_of_mv_dhel_is_log_two_above_the_printed_one() -> None:
    views = random_views(4, 6)
    code, paper = (mv_dhel(views, temperature=0.3, variant=v).item() for v in ("code", "paper"))
    assert code - paper == pytest.approx(math.log(2), abs=1e-12)


def test_mv_info_nce_differs_from_nt_xent_but_vanishes_with_it() -> None:
    views = random_views(2, 6)
    assert abs(mv_info_nce(views, temperature=0.3) - info_nce(views, temperature=0.3)) > 1e-3
    apart = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
    for loss in (mv_info_nce, info_nce):
        assert loss(apart, temperature=0.02).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("objective", [MVInfoNCE(), MVDHEL(), PolyView()], ids=lambda o: type(o).__name__)
def test_order_of_the_views_does_not_matter(objective: MVDHEL) -> None:
    views = random_views(4, 5)
    turned = objective(views[[2, 0, 3, 1]]).loss.item()
    assert turned == pytest.approx(objective(views).loss.item(), abs=1e-12)


@pytest.mark.parametrize("common", [0.0, 5.0])
def test_many_views_stay_finite_in_float32(common: float) -> None:
    """The product of K sums of exponentials overflows here."""
    views = (torch.randn(16, 256, 32, generator=torch.Generator().manual_seed(0)) + common).requires_grad_()
    loss = mv_dhel(views, temperature=0.1)
    loss.backward()
    assert torch.isfinite(loss) and views.grad is not None and views.grad.isfinite().all()
    doubled = torch.cat([views, views[:1]])
    assert torch.isfinite(mv_dhel(doubled, temperature=0.1)), "a view may stand twice"


def test_mv_dhel_keeps_similarities_inside_views_only() -> None:
    k, n, d = 6, 40, 4
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        mv_dhel(random_views(k, n, d).requires_grad_(), temperature=0.2)
    assert max(sizes) == k * n * n


@pytest.mark.parametrize("name", ["MVInfoNCE", "MVDHEL", "PolyView"])
def test_keys_of_a_queue_are_further_negatives(name: str) -> None:
    """The queue's keys weigh as those of one more view would."""
    objective = {"MVInfoNCE": MVInfoNCE, "MVDHEL": MVDHEL, "PolyView": PolyView}[name](temperature=0.5, queue=4)
    objective.fit_width(7)
    views, earlier = random_views(3, 5).float(), random_views(2, 4, seed=2).float()
    plain = objective.eval()(views).loss.item()
    objective.train()(earlier)
    assert objective.queue is not None and int(objective.queue.filled) == 4
    found = objective.eval()(views).loss.item()
    z, keys = (torch.nn.functional.normalize(x, dim=-1) for x in (views, earlier[0]))
    k, n = 3, 5
    more = (torch.einsum("lid,qd->liq", z, keys) / 0.5).exp().sum(-1)
    e = (torch.einsum("lid,mjd->limj", z, z) / 0.5).exp()
    own = torch.stack([torch.stack([e[a, i, :, i] for i in range(n)]) for a in range(k)])  # (k, n, k)
    own = own * ~torch.eye(k, dtype=torch.bool).unsqueeze(1)
    foes = e.masked_fill(torch.eye(n, dtype=torch.bool).view(1, n, 1, n), 0)
    if name == "MVDHEL":
        inside = torch.stack([foes[a, :, a].sum(-1) for a in range(k)]) + more
        wanted = (inside.log().sum(0) - (own.sum((0, 2)) / 2).log()).mean()
    elif name == "MVInfoNCE":
        wanted = -(own.sum((0, 2)) / (own.sum((0, 2)) + foes.sum((0, 2, 3)) + more.sum(0))).log().mean()
    else:
        rest = (foes.sum((2, 3)) + more).unsqueeze(-1)
        terms = (own + rest).log() - own.log()
        wanted = terms[~torch.eye(k, dtype=torch.bool).unsqueeze(1).expand(k, n, k)].mean()
    assert found == pytest.approx(wanted.item(), rel=1e-5) and found > plain


def test_labels_take_samples_from_the_negatives() -> None:
    views, same = random_views(3, 5), torch.tensor([0, 0, 1, 2, 1])
    for function in (mv_info_nce, mv_dhel, poly_view):
        grouped, labelled = (function(views, temperature=0.3, **{k: same}).item() for k in ("group", "labels"))
        assert labelled == grouped


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="variants code, paper, per_view"):
        MVDHEL(variant="published")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="MVInfoNCE needs a temperature"):
        MVInfoNCE(temperature=0)
    with pytest.raises(ConfigError, match="PolyView needs a temperature"):
        PolyView(temperature=0)
