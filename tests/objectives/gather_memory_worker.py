"""One of two processes that share batches; run by ``test_gather_memory.py`` as ``gather_memory_worker.py RANK FOLDER``.

Two steps of each objective with memory or heads of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from medssl.objectives.adaptive_heads import AMCL
from medssl.objectives.base import Objective
from medssl.objectives.hard_mixing import MoCHi
from medssl.objectives.individual_temperature import ISogCLR

WORLD, N, SAMPLES = 2, 3, 9
INDEX = torch.tensor([[4, 0, 7, 1, 8, 2], [0, 3, 4, 4, 5, 0]])  # two recordings come twice in the second batch
GROUP = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 5, 0, 0, 6, 0]])

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "AMCL": lambda: AMCL(heads=2, hidden=4, out=3, temperature_hidden=4),
    "ISogCLR": ISogCLR,
    # a draw belongs to a place in the batch of a process, so that mixing cannot be the same in one process and two
    "MoCHi": lambda: MoCHi(queue=8, mixed=0, mixed_with_query=0),
}


def made(name: str) -> Objective:
    torch.manual_seed(0)
    objective = OBJECTIVES[name]()
    objective.fit_width(4)
    objective.remember(SAMPLES)
    for module in objective.modules():  # batch normalisation sees one process' rows; it is not what is tested
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    return objective.double()


def two_steps(name: str, samples: slice, shared: Callable[[Tensor], Tensor]) -> Tensor:
    """Losses, gradients and everything that is remembered, of both steps; ``shared`` joins those of all processes."""
    objective = made(name)
    w = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    parts = []
    for step in range(2):
        random = torch.Generator().manual_seed(10 + step)
        x, keys = (torch.randn(2, WORLD * N, 5, dtype=torch.float64, generator=random)[:, samples] for _ in range(2))
        targets = (keys @ w).detach() if "targets" in objective.needs else None
        for parameter in (w, *objective.parameters()):
            parameter.grad = None
        loss = objective(x @ w, targets=targets, index=INDEX[step, samples], group=GROUP[step, samples]).loss
        loss.backward()
        gradients = [p.grad for p in (w, *objective.parameters()) if p.grad is not None]
        parts += [shared(part) for part in (loss.detach(), *gradients)]
        parts += [buffer.double() for key, buffer in objective.named_buffers() if "running" not in key]
    return torch.cat([part.flatten() for part in parts])


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )

    def averaged(part: Tensor) -> Tensor:  # what the data-parallel wrapper does to gradients
        total = part.clone()
        dist.all_reduce(total)
        return total / WORLD

    own = slice(rank * N, (rank + 1) * N)
    torch.save({name: two_steps(name, own, averaged) for name in OBJECTIVES}, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
