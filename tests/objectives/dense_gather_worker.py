"""One of two processes that share a batch of maps; run by ``test_dense_gather.py`` as ``… RANK FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from medssl.objectives.base import Objective
from medssl.objectives.cotap import CoTAP
from medssl.objectives.masked_momentum import MaskedMomentum

WORLD, N, GRID = 2, 3, (4, 3)
GROUP = torch.tensor([0, 0, 1, 2, 3, 3])
MAKERS: list[Callable[[], Objective]] = [
    lambda: CoTAP(cells=(2, 4), top=3),
    lambda: CoTAP(cells=(2,), neighbour="batch", clusters=5),
    lambda: CoTAP(cells=(4,), prototypes=4, heads=2, window=(3, 3), memory=24, clusters=5),
    lambda: MaskedMomentum(prototypes=6, predictor=8),
]
STEPS = 3  # the second and third see the memory, centre and prototypes that the first left


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss_and_gradients(make: Callable[[], Objective], samples: slice, *, parallel: bool) -> Tensor:
    """Losses, gradients and memory of some steps of gradient descent, averaged as data-parallel training does."""
    torch.manual_seed(0)
    objective = make()
    objective.fit_width(4)
    objective.double()
    weight = random(5, 4, seed=1).requires_grad_()
    found = []
    for step in range(STEPS):
        x = random(2, WORLD * N, 5, *GRID, seed=10 + step)[:, samples]
        maps = torch.einsum("knc...,cd->knd...", x, weight)
        hidden = (random(2, WORLD * N, *GRID, seed=20 + step) > 0)[:, samples]
        hidden[:, :, 0, 0] = True
        generator = torch.Generator().manual_seed(step if samples.start == 0 else 99)
        noise = random(2, WORLD * N, 4, *GRID, seed=30 + step)[:, samples]
        output = objective(
            maps, targets=maps.detach() + 0.3 * noise, mask=hidden, group=GROUP[samples], generator=generator,
            progress=0.5,
        )  # fmt: skip
        trained = [weight, *(p for p in objective.parameters() if p.requires_grad)]
        gradients = torch.autograd.grad(output.loss, trained)
        both = torch.cat([output.loss.detach().view(1), *(g.flatten() for g in gradients)])
        if parallel:
            dist.all_reduce(both)
            both /= WORLD
        found.append(both)
        start = 1
        with torch.no_grad():
            for parameter in trained:
                parameter -= 0.1 * both[start : start + parameter.numel()].view_as(parameter)
                start += parameter.numel()
        objective.follow(0.5)
    state = [v.double().flatten() for v in objective.state_dict().values()]
    return torch.cat([*found, *state])


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    mine = slice(rank * N, (rank + 1) * N)
    found = [loss_and_gradients(make, mine, parallel=True) for make in MAKERS]
    torch.save(found, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
