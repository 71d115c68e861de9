"""One of two processes that share a batch; run by ``test_gather.py`` as ``gather_worker.py RANK FOLDER``."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "contracts"))  # where pytest finds it too

from toys import ObjectiveCase, every_case

from medssl.objectives.base import Mixture
from medssl.objectives.behaviour import HardInfoNCE
from medssl.objectives.cacr import CACR
from medssl.objectives.class_pairs import SimLAP
from medssl.objectives.contrastive import InfoNCE, info_nce
from medssl.objectives.decoupled import DCL, DCLW
from medssl.objectives.dino import DINO
from medssl.objectives.multi_view import MVDHEL
from medssl.objectives.sim_dino import SimDINO
from medssl.objectives.supervised import SupCon
from medssl.objectives.swav import SwAV

WORLD, N = 2, 3
GROUP = torch.tensor([0, 0, 1, 2, 3, 3])
LABELS = torch.tensor([0, 1, 2, 0, 4, 5])
ONE_OTHER = torch.tensor([0, 0, 0, 0, 0, 1])
LONELY = torch.tensor([0, 0, 0, 0, 0, 0])

FAMILIES = ("clustering", "contrastive", "redundancy")  # whose objectives are all tried
OTHERS: tuple[str, ...] = ()  # objectives of other families


@dataclass(frozen=True)
class Trial:
    """An objective, and what it is given beyond what it needs."""

    case: ObjectiveCase
    more: tuple[str, ...] = ()


def trials() -> dict[str, Trial]:
    """Every objective of the families as it is, and settings that take another path between the processes."""
    known = {n: Trial(c) for n, c in every_case()[1].items() if n in OTHERS or type(c.make()).family in FAMILIES}
    return known | {
        "InfoNCE, queue": Trial(ObjectiveCase(functools.partial(InfoNCE, queue=8))),
        "InfoNCE, teacher and labels": Trial(ObjectiveCase(InfoNCE), ("targets", "labels")),
        "InfoNCE, means": Trial(ObjectiveCase(functools.partial(InfoNCE, positives="mean"), views=3)),
        "InfoNCE, chunks": Trial(ObjectiveCase(functools.partial(InfoNCE, chunk=2))),
        "SupCon, in": Trial(ObjectiveCase(functools.partial(SupCon, form="in"))),
        "HardInfoNCE, queue": Trial(ObjectiveCase(functools.partial(HardInfoNCE, queue=8, same_view=True))),
        "DCL, labels and queue": Trial(ObjectiveCase(functools.partial(DCL, queue=8)), ("labels",)),
        "DCLW, attached": Trial(ObjectiveCase(functools.partial(DCLW, detach_weights=False))),
        "MVDHEL, queue": Trial(ObjectiveCase(functools.partial(MVDHEL, queue=8), views=3)),
        "CACR, Gaussian and queue": Trial(
            ObjectiveCase(functools.partial(CACR, cost="rbf", debias=0.1, queue=8), views=3)
        ),
        "CACR, teacher": Trial(ObjectiveCase(CACR, views=3), ("targets",)),
        "DINO, Sinkhorn": Trial(ObjectiveCase(functools.partial(DINO, prototypes=5, assignment="sinkhorn"), views=3)),
        "SwAV, full queue": Trial(ObjectiveCase(functools.partial(SwAV, prototypes=5, queue=6, queue_start=0.0))),
        "SimDINO, of the student": Trial(ObjectiveCase(functools.partial(SimDINO, expansion="student"))),
        "SimLAP, same class": Trial(ObjectiveCase(functools.partial(SimLAP, classes=8, partners="same"))),
    }


def weight(width: int) -> Tensor:
    start = torch.randn(5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return start.requires_grad_()


def losses(w: Tensor, samples: slice) -> list[Tensor]:
    x = torch.randn(2, WORLD * N, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    views = x[:, samples] @ w
    weights = torch.linspace(0, 1, WORLD * N, dtype=torch.float64)[samples]
    return [
        info_nce(views, temperature=0.3),
        info_nce(views, temperature=0.3, group=GROUP[samples]),
        info_nce(views, temperature=0.3, labels=LABELS[samples]),
        info_nce(views, temperature=0.3, group=ONE_OTHER[samples], weights=weights),
        info_nce(views, temperature=0.3, group=LONELY[samples]),
    ]


def loss_and_gradient(index: int, samples: slice) -> Tensor:
    w = weight(4)
    loss = losses(w, samples)[index]
    loss.backward()
    assert w.grad is not None
    return torch.cat([loss.detach().view(1), w.grad.flatten()])


def given(trial: Trial, needs: frozenset[str], views: Tensor, samples: slice, seed: int) -> dict[str, Any]:
    """What a process gives of a batch; mixtures mix samples of one process."""
    case, count = trial.case, views.shape[1]
    random = torch.Generator().manual_seed(7)
    labels = torch.tensor([case.labels[i % len(case.labels)] for i in range(count)])
    order = torch.cat([first + torch.randperm(N, generator=random) for first in range(0, count, N)])
    share = torch.linspace(0.1, 0.9, count, dtype=views.dtype)
    mixed = share.unsqueeze(1) * views[0] + (1 - share).unsqueeze(1) * views[1][order] if views.ndim == 3 else views[0]
    known: dict[str, Any] = {
        "targets": (views + 0.1 * torch.randn(views.shape, dtype=views.dtype, generator=random)).detach()[:, samples],
        "labels": (labels if labels.is_floating_point() else labels.long())[samples],
        "mixture": Mixture(mixed[samples], order[samples] - (samples.start or 0), share[samples]),
        "mask": (torch.rand(views.shape[:2] + views.shape[3:], generator=random) < 0.5)[:, samples],
    }
    wanted = {k: v for k, v in known.items() if k in needs or k in trial.more}
    return {"index": torch.arange(count)[samples], "generator": torch.Generator().manual_seed(seed), **wanted}


def two_steps(trial: Trial, samples: slice, seed: int = 5) -> dict[str, Tensor]:
    """Loss, gradients and memory after two steps in training, the second with groups."""
    torch.manual_seed(0)
    objective = trial.case.ready(samples=WORLD * N).double()
    if objective.takes == "features":  # its heads normalise over their own process, like every encoder
        for module in objective.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
    w = weight(8)
    total = torch.zeros((), dtype=torch.float64)
    for step, group in enumerate((None, GROUP)):
        shape = (trial.case.views, WORLD * N, 5, *trial.case.grid)
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        views = torch.einsum("kni...,id->knd...", x, w)
        more = given(trial, objective.needs, views, samples, seed)
        total = total + objective(views[:, samples], group=None if group is None else group[samples], **more).loss
    total.backward()
    trained = {"embeddings": w, **dict(objective.named_parameters())}
    gradients = {f"gradient of {k}": torch.zeros_like(p) if p.grad is None else p.grad for k, p in trained.items()}
    memory = {f"memory {k}": b.to(torch.float64) for k, b in objective.named_buffers()}
    return {"loss": total.detach(), **gradients, **memory}


def averaged(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the data-parallel wrapper makes of losses and gradients; memory must be equal in both processes."""
    together = {}
    for name, value in found.items():
        mean = value.clone()
        dist.all_reduce(mean)
        together[name] = mean / WORLD
        if name.startswith("memory"):
            apart = (value - mean / WORLD).abs().nan_to_num().max() if value.numel() else torch.zeros(())
            dist.all_reduce(apart, op=dist.ReduceOp.MAX)
            together[f"{name}, difference of the processes"] = apart
    return together


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    mine = slice(rank * N, (rank + 1) * N)
    found = []
    for index in range(5):
        both = loss_and_gradient(index, mine)
        dist.all_reduce(both)  # what the data-parallel wrapper does to gradients, up to the division
        found.append(both / WORLD)
    objectives = {name: averaged(two_steps(trial, mine)) for name, trial in trials().items()}
    if rank == 0:
        torch.save({"info_nce": found, "objectives": objectives}, f"{folder}/found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
