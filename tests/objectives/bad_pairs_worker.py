"""One of two processes that share the pairs; run by ``test_bad_pairs.py`` as ``bad_pairs_worker.py RANK FOLDER``."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "contracts"))  # where pytest finds it too

from bad_pairs_toys import feed, miner, table


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    one = miner(keep_history=True)
    weights = feed(one, table(), rank=rank, world=2)
    torch.save({**one.state_dict(), "weights": weights}, f"{folder}/found{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
