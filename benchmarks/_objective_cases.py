"""What ``objectives.py`` measures: every objective and some of their parts, with inputs, loops and other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from types import ModuleType
from typing import Any, NamedTuple

import _contrastive_loops as contrastive
import _objective_loops as others
import torch
from _contrastive_loops import Result, mean, unit
from torch import Tensor

from medssl.configurable import discover
from medssl.objectives.assignment import centred, cosine_scores, updated_centre
from medssl.objectives.base import Given, Mixture, Objective
from medssl.objectives.dino import koleo
from medssl.objectives.masked_momentum import patch_distillation
from medssl.objectives.queue import KeyQueue
from medssl.objectives.ranking import ap_loss
from medssl.objectives.voco import overlap_labels, position_similarity, prediction_v1, regularisation

__all__ = ["Entry", "Size", "Subject", "entries"]

Lightly = Callable[[ModuleType, Any, Tensor, Given], Tensor]
"""From ``lightly.loss``, the objective, views, and what else is given, to that package's loss of the same."""


@dataclass(frozen=True)
class Size:
    """Of inputs.

    Attributes:
        views: K.
        samples: N.
        device, dtype: of the embeddings.
        width: D.
    """

    views: int
    samples: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    width: int = 128


class Subject(NamedTuple):
    """Inputs, and what is computed from them; None where there is nothing to compare with.

    Attributes:
        leaves: what gradients are taken for: the views, then trained weights.
        ours: the loss by this package.
        loops: the loss, and the memory after the step.
        lightly: the loss by that package, from its module of losses.
        memory: buffers as they are now.
    """

    leaves: list[Tensor]
    ours: Callable[[], Tensor]
    loops: Callable[[], Result] | None = None
    lightly: Callable[[ModuleType], Tensor] | None = None
    memory: Callable[[], Mapping[str, Tensor]] = dict


@dataclass(frozen=True)
class Entry:
    """A row or two of the table.

    Attributes:
        name: of the objective or part.
        subject: makes inputs of a size.
        samples: N that is timed.
        beside_loops: N that is timed beside the loops, for each number of views.
        views: numbers of views.
        shape: the size in words, of N.
    """

    name: str
    subject: Callable[[Size], Subject]
    samples: int
    beside_loops: tuple[int, ...]
    views: tuple[int, ...] = (2, 8)
    shape: str = "N={}, D=128"


@dataclass(frozen=True)
class Case:
    """How an objective is measured; see ``Entry`` and ``Subject``.

    Attributes:
        grid: of the maps it takes.
    """

    loops: Callable[[Any, Tensor, Given], Result] | None = None
    lightly: Lightly | None = None
    samples: int = 1024
    beside_loops: tuple[int, ...] = (256, 32)
    grid: tuple[int, ...] = ()

    def entry(self, name: str, kind: type[Objective]) -> Entry:
        """Its row."""
        shape = f"N={{}}, D=128{', maps of ' + '×'.join(map(str, self.grid)) if self.grid else ''}"
        return Entry(name, lambda size: self._subject(kind, size), self.samples, self.beside_loops, shape=shape)

    def _subject(self, kind: type[Objective], size: Size) -> Subject:
        objective = _ready(kind, size)
        views, earlier = (_views(size, self.grid, seed) for seed in (0, 1))
        given = _given(objective, views)
        _call(objective, earlier, given)  # so that what is remembered is not empty
        loops, lightly = self.loops, self.lightly
        return Subject(
            [views.requires_grad_(), *(p for p in objective.parameters() if p.requires_grad)],
            lambda: _call(objective, views, given),
            None if loops is None else lambda: loops(objective, views, _drawn_anew(given)),
            None if lightly is None else lambda module: lightly(module, objective, views, given),
            lambda: dict(objective.named_buffers()),
        )


def _ready(kind: type[Objective], size: Size) -> Objective:
    """With its default settings, in training; queues are full."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objective = kind()
        objective.fit_width(size.width)
        objective.remember(4 * size.samples)
        objective.to(device=size.device, dtype=size.dtype)
        for queue in objective.modules():
            if isinstance(queue, KeyQueue):
                queue.push(unit(torch.randn(queue.keys.shape).to(queue.keys)))
    return objective


def _normal(size: Size, *shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(size.device, size.dtype)


def _views(size: Size, grid: tuple[int, ...] = (), seed: int = 0) -> Tensor:
    """Views of one sample resemble each other: their cosine is about 0.8."""
    shape = (size.samples, size.width, *grid)
    return _normal(size, *shape, seed=2 * seed) + 0.5 * _normal(size, size.views, *shape, seed=2 * seed + 1)


def _given(objective: Objective, views: Tensor) -> Given:
    """What the objective needs, of these views."""
    n, random = views.shape[1], torch.Generator().manual_seed(11)
    ages, classes = 50 + 10 * torch.randn(n, generator=random), torch.randint(32, (n,), generator=random)
    order, share = torch.randperm(n, generator=random).to(views.device), torch.full((n,), 0.3).to(views)
    noise = torch.randn(views.shape, generator=random).to(views)
    mixed = 0.3 * views[0] + 0.7 * views[1][order] + 0.5 * noise[0]
    known: dict[str, Any] = {
        "targets": views.detach() + 0.3 * noise,
        "labels": ages.to(views) if objective.continuous else classes.to(views.device),
        "index": torch.arange(n, device=views.device),
        "mixture": Mixture(mixed, order, share),
        "mask": (torch.rand(views.shape[:2] + views.shape[3:], generator=random) < 0.5).to(views.device),
    }
    needed = {name: value for name, value in known.items() if name in objective.needs | {"index"}}
    return Given(**needed, generator=torch.Generator(views.device))


def _drawn_anew(given: Given) -> Given:
    assert given.generator is not None
    given.generator.manual_seed(5)
    return given


def _call(objective: Objective, views: Tensor, given: Given) -> Tensor:
    return objective(views, **vars(_drawn_anew(given))).loss  # type: ignore[no-any-return]


# --- lightly's losses; those of two views are averaged over pairs of views


def _over_pairs(loss: Callable[[Tensor, Tensor], Tensor], views: Tensor) -> Tensor:
    return mean(loss(one, other) for one, other in combinations(views, 2))


def _negative_cosine(losses: ModuleType, views: Tensor, given: Given) -> Tensor:
    assert given.targets is not None
    loss = losses.NegativeCosineSimilarity()
    return mean(loss(views[a], given.targets[b]) for a, b in permutations(range(len(views)), 2))


def _swav(losses: ModuleType, objective: Any, views: Tensor, given: Given) -> Tensor:
    scores = list(cosine_scores(views, objective.prototypes))
    loss = losses.SwaVLoss(objective.temperature, objective.iterations, objective.epsilon)
    return loss(scores[:2], scores[2:]).squeeze()  # type: ignore[no-any-return]


def _dino(losses: ModuleType, objective: Any, views: Tensor, given: Given) -> Tensor:
    assert given.targets is not None
    scores = cosine_scores(views, objective.prototypes)
    known = cosine_scores(given.targets[: objective.globals], objective.teacher_prototypes)
    temperature = objective.teacher_temperature[1]
    loss = losses.DINOLoss(scores.shape[-1], student_temp=objective.temperature).to(views)
    loss.center.copy_(objective.centre)
    return loss(list(known), list(scores), temperature)  # type: ignore[no-any-return]


WHOLE = (1024, 1024)  # loops over pairs of views are fast enough

CASES: dict[str, Case] = {
    "AMCL": Case(contrastive.amcl, beside_loops=(64, 16)),
    "BYOL": Case(
        others.byol, lambda losses, _, views, given: 4 + 4 * _negative_cosine(losses, views, given), beside_loops=WHOLE
    ),
    "BarlowTwins": Case(
        others.barlow_twins,
        lambda losses, o, views, _: _over_pairs(losses.BarlowTwinsLoss(o.off_diagonal), views),
        beside_loops=WHOLE,
    ),
    "CACR": Case(contrastive.cacr),
    "CWCL": Case(contrastive.cwcl),
    "CoTAP": Case(others.cotap, samples=32, beside_loops=(32, 16), grid=(8, 8)),
    "DCL": Case(contrastive.dcl, lambda losses, o, views, _: _over_pairs(losses.DCLLoss(o.temperature), views)),
    "DCLW": Case(
        contrastive.dclw, lambda losses, o, views, _: _over_pairs(losses.DCLWLoss(o.temperature, o.sigma), views)
    ),
    "DINO": Case(others.dino, _dino, beside_loops=WHOLE),
    "DirectCopy": Case(others.direct_copy, beside_loops=WHOLE),
    "DirectPred": Case(others.direct_pred, beside_loops=WHOLE),
    "HardInfoNCE": Case(contrastive.hard_info_nce),
    "ISogCLR": Case(contrastive.isogclr),
    "InfoNCE": Case(
        contrastive.info_nce, lambda losses, o, views, _: _over_pairs(losses.NTXentLoss(o.temperature), views)
    ),
    "LabelCWCL": Case(contrastive.label_cwcl),
    "MVDHEL": Case(contrastive.mv_dhel),
    "MVInfoNCE": Case(contrastive.mv_info_nce),
    "MaskedMomentum": Case(others.masked_momentum, samples=32, beside_loops=(32, 32), grid=(8, 8)),
    "Matryoshka": Case(others.matryoshka, beside_loops=WHOLE),
    "MixedBarlowTwins": Case(others.mixed_barlow_twins, beside_loops=WHOLE),
    "MoCHi": Case(contrastive.mochi, beside_loops=(64, 16)),
    "PolyView": Case(contrastive.poly_view),
    "SimDINO": Case(others.sim_dino, beside_loops=WHOLE),
    "SimLAP": Case(contrastive.simlap),
    "SimSiam": Case(
        others.simsiam, lambda losses, _, views, given: _negative_cosine(losses, views, given), beside_loops=WHOLE
    ),
    "SupCon": Case(contrastive.sup_con),
    "SwAV": Case(others.swav, _swav, beside_loops=WHOLE),
    "VICReg": Case(
        others.vicreg, lambda losses, _, views, __: _over_pairs(losses.VICRegLoss(), views), beside_loops=WHOLE
    ),
}
"""By the name of the objective; one that has no entry is measured without loops."""


# --- parts


def _koleo(size: Size) -> Subject:
    x = _views(size).requires_grad_()
    return Subject(
        [x],
        lambda: koleo(x).mean(),
        lambda: mean(others.koleo(view) for view in x),
        lambda losses: mean(losses.KoLeoLoss()(view) for view in x),
    )


def _patches(size: Size) -> Subject:
    """iBOT's patch term with the teacher's centre, as losses of patches have it: 64 cells, 1024 prototypes."""
    scores, known = (_normal(size, size.views * size.samples, 64, 1024, seed=s) / 10 for s in (0, 1))
    hidden = (_normal(size, *scores.shape[:2], seed=2) > 0).contiguous()
    centre = _normal(size, 1024, seed=3) / 100
    scores.requires_grad_()

    def ours() -> Tensor:
        updated_centre(centre, known, momentum=0.9)
        return patch_distillation(scores, centred(known, centre, temperature=0.04), hidden, temperature=0.1)

    def loops() -> Tensor:
        assigned = [((x - centre) / 0.04).softmax(-1) for x in known]
        return others.patch_distillation(scores, assigned, hidden, 0.1)

    def lightly(losses: ModuleType) -> Tensor:
        loss = losses.IBOTPatchLoss(output_dim=1024).to(scores)
        loss.center.center.copy_(centre)
        return loss(known[hidden], scores[hidden], hidden.unflatten(1, (8, 8)))  # type: ignore[no-any-return]

    return Subject([scores], ours, loops, lightly)


def _ranking(size: Size) -> Subject:
    """CoTAP's ranking of N recordings: 25 cosines with the neighbour and with each of 5 random recordings."""
    n = 150 * size.samples
    targets = _normal(size, n, seed=0).tanh()
    scores = (0.5 * targets + 0.3 * _normal(size, n, seed=1)).clamp(-1, 1).requires_grad_()
    matched = torch.arange(n, device=size.device) < n // 6
    settings = {"margin": 0.5, "floor": -0.2, "unmatched": 0.1}
    return Subject(
        [scores],
        lambda: ap_loss(targets, scores, matched, **settings),  # type: ignore[arg-type]
        lambda: others.ranking(targets, scores, matched, **settings),
    )


def _voco_bases(size: Size) -> Subject:
    bases = _normal(size, size.samples, 16, 2048, seed=0).requires_grad_()
    return Subject([bases], lambda: regularisation(bases).mean(), lambda: others.voco_regularisation(bases))


def _voco_positions(size: Size) -> Subject:
    rows = _normal(size, size.samples, 18, 2048, seed=0).requires_grad_()
    starts = torch.randint(0, 3 * 96, (size.samples, 2, 3), generator=torch.Generator().manual_seed(1))
    labels = overlap_labels((starts * torch.tensor([0, 1, 1])).to(size.dtype), (96, 96, 96), (1, 4, 4)).to(rows)

    def ours() -> Tensor:
        pos, neg = prediction_v1(position_similarity(rows[:, :2], rows[:, 2:]), labels)
        return (pos + neg).mean()

    return Subject([rows], ours, lambda: others.voco_prediction(rows[:, :2], rows[:, 2:], labels))


PARTS = [
    Entry("KoLeo (part of DINO, Matryoshka)", _koleo, 1024, (256, 32)),
    Entry("iBOT patch term (part of MaskedMomentum)", _patches, 32, (32, 32), shape="N={}, 64 cells, K=1024"),
    Entry("ranking (part of CoTAP)", _ranking, 32, (32,), (1,), "n=150·{}"),
    Entry("VoCo regularisation", _voco_bases, 2, (2,), (1,), "B={}, n=16, D=2048"),
    Entry("VoCo prediction", _voco_positions, 2, (2,), (1,), "B={}, sw=2, n=16, D=2048"),
]


def entries() -> Iterator[Entry]:
    """All objectives of the package, by discovery, and some parts."""
    for name, kind in sorted(discover("medssl.objectives", Objective).items()):  # type: ignore[type-abstract]
        yield CASES.get(name, Case()).entry(name, kind)
    yield from PARTS
