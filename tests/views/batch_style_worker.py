"""One of two processes that train together; run by ``test_batch_style.py`` as ``batch_style_worker.py RANK FOLDER``."""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
from torch import distributed as dist

from medssl.views.batch_style import VolumeStyle
from medssl.views.volume import VolumeViews


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    generator = torch.Generator().manual_seed(rank)  # every process has its own
    gain = torch.tensor([[1.0, 1.3], [2.0, 3.0]])[rank].view(-1, 1, 1, 1, 1, 1)
    x = gain * (1 + torch.rand(2, 2, 1, 6, 6, 6, generator=generator))  # two recordings, two views
    style = VolumeStyle(probability=1.0, mode="swap", share=(1.0, 1.0))
    found = {"before": x.mean((2, 3, 4, 5)), "after": style(x, {}, generator).mean((2, 3, 4, 5))}
    views = VolumeViews((6, 6, 6), batch_style=style)
    found["jitter"] = views.draw_parameters((4, 1, 6, 6, 6), generator)["gamma"]
    if rank == 0:
        with torch.no_grad():  # as in a look at the encoder
            found["alone"] = style(x, {}, generator)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
