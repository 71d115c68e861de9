"""One of two processes that share a batch of graphs; run by ``test_batch_norm_processes.py`` as ``… RANK FOLDER``."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from medssl.encoders.graph_layers import graph_layer

WORLD, GRAPHS, NODES, WIDTH = 2, 5, 6, 4
SHARES = (slice(0, 2), slice(2, 5))  # of unequal size
STEPS = 3
ABSENT = ("all", "half", "one")
"""Valid nodes: nearly all; none in the first process' graphs; a single one in all, which normalises nothing."""


def batch(absent: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features far from 0, adjacency and valid nodes of all graphs."""
    random = torch.Generator().manual_seed(step)
    h = 50 + torch.randn(GRAPHS, NODES, WIDTH, dtype=torch.float64, generator=random)
    valid = torch.rand(GRAPHS, NODES, generator=random) < 0.8
    if absent == "half":
        valid[SHARES[0]] = False
    if absent == "one":
        valid = torch.zeros_like(valid)
        valid[3, 2] = True
    edges = torch.rand(GRAPHS, NODES, NODES, generator=random) < 0.5
    return h, (edges & valid.unsqueeze(1) & valid.unsqueeze(2)) | torch.eye(NODES, dtype=torch.bool), valid


def steps(absent: str, graphs: slice, *, parallel: bool) -> dict[str, Tensor]:
    """Outputs and gradients of these graphs; gradients of weights summed over processes, and statistics, of all."""
    torch.manual_seed(0)
    layer = graph_layer("gin", WIDTH, 3).double()
    found = {}
    for step in range(STEPS):
        h, adjacency, valid = (t[graphs] for t in batch(absent, step))
        h = h.clone().requires_grad_()
        out = layer(h, adjacency, valid)
        weights = torch.randn(GRAPHS, NODES, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        (out * weights[graphs]).square().sum().backward()
        found |= {f"out {step}": out.detach(), f"gradient {step}": h.grad}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        if parallel:
            dist.all_reduce(parameter.grad)
        found[f"gradient of {name}"] = parameter.grad
    found |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with torch.no_grad():  # of unequal shapes, and in one process only: this must not wait for the other
        if graphs.start == 0:
            layer(*batch("all", 7))
    return found


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    found = {absent: steps(absent, SHARES[rank], parallel=True) for absent in ABSENT}
    torch.save(found, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
