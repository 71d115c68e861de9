"""One of two processes that share a batch; run by ``test_gather.py`` as ``gather_worker.py RANK FOLDER``."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from medssl.objectives.contrastive import info_nce

WORLD, N = 2, 3
GROUP = torch.tensor([0, 0, 1, 2, 3, 3])
LABELS = torch.tensor([0, 1, 2, 0, 4, 5])
ONE_OTHER = torch.tensor([0, 0, 0, 0, 0, 1])
LONELY = torch.tensor([0, 0, 0, 0, 0, 0])


def weight() -> Tensor:
    start = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
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
    w = weight()
    loss = losses(w, samples)[index]
    loss.backward()
    assert w.grad is not None
    return torch.cat([loss.detach().view(1), w.grad.flatten()])


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    found = []
    for index in range(5):
        both = loss_and_gradient(index, slice(rank * N, (rank + 1) * N))
        dist.all_reduce(both)  # what the data-parallel wrapper does to gradients, up to the division
        found.append(both / WORLD)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
