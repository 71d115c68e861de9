"""One of two processes that share a batch of windows; run by ``test_comet.py`` as ``… RANK FOLDER``."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "contracts"), str(TESTS / "training")]

from cases_comet import small  # noqa: E402
from toys import collate, signal  # noqa: E402

from medssl.methods.comet import COMET  # noqa: E402

WORLD, RECORDINGS = 2, 3


def loss_and_gradient(rows: slice) -> Tensor:
    """Of the encoder's weights, for some recordings; two of them are of one patient."""
    torch.manual_seed(0)
    method = COMET(small(), window=16, trial_s=1.0, windows=2, mask="none", per_anchor=True).eval()
    readers = [signal(i) for i in range(WORLD * RECORDINGS)]
    readers[4].patient = readers[0].patient
    samples = [method.draw(r, np.random.default_rng(i)) for i, r in enumerate(readers)]
    batch = collate(samples[rows], seed=1)
    total = method.loss(batch).total
    gradients = torch.autograd.grad(total, list(method.encoder.parameters()))
    return torch.cat([total.detach().view(1), *(g.flatten() for g in gradients)])


def main(rank: int, folder: str) -> None:
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=timedelta(seconds=200))
    found = loss_and_gradient(slice(rank * RECORDINGS, (rank + 1) * RECORDINGS))
    dist.all_reduce(found)  # as data-parallel training averages
    torch.save(found / WORLD, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()
    if rank == 0:
        torch.save(loss_and_gradient(slice(None)), f"{folder}/whole.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
