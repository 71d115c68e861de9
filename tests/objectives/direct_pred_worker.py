"""One of two processes that share batches; run by ``test_direct_pred.py`` as ``direct_pred_worker.py RANK FOLDER``."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from torch import distributed as dist

from medssl.objectives.direct_pred import DirectPred


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    objective = DirectPred()
    objective.fit_width(4)
    objective.double()
    for step in torch.randn(3, 2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
        mine = step[:, 3 * rank : 3 * rank + 3]
        objective(mine, targets=mine)
    torch.save(objective.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
