"""One of two processes that share a batch of volumes; run by ``test_global_local_gather.py`` as ``… RANK FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from medssl.objectives.global_local import gather_volumes, global_domain, global_negatives, global_random

WORLD, VOLUMES = 2, 2
LOSSES: list[Callable[..., Tensor]] = [global_random, global_negatives, global_domain]


def loss_and_gradient(loss: Callable[..., Tensor], volumes: slice, *, parallel: bool) -> Tensor:
    """Of a linear encoder's weights, averaged as data-parallel training does."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(WORLD * VOLUMES, 2, 4, 6, dtype=torch.float64, generator=generator)[volumes]
    weight = torch.randn(6, 5, dtype=torch.float64, generator=generator).requires_grad_()
    total = loss(gather_volumes(x @ weight), temperature=0.2)
    (gradient,) = torch.autograd.grad(total, weight)
    both = torch.cat([total.detach().view(1), gradient.flatten()])
    if parallel:
        dist.all_reduce(both)
        both /= WORLD
    return both


def main(rank: int, folder: str) -> None:
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60))
    own = slice(rank * VOLUMES, (rank + 1) * VOLUMES)
    torch.save([loss_and_gradient(loss, own, parallel=True) for loss in LOSSES], f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
