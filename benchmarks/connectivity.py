"""How fast and how small are dynamic connectivity and its graphs beside a loop? Prints a Markdown table.

Run ``python benchmarks/connectivity.py`` or with ``--quick``. Runs of 200 regions and 300 or 600 volumes, windows
of 50 volumes, a density of 30 %; float32, one thread, on the CPU and on a GPU where there is one. Nothing is asserted.

* batched: ``dynamic_correlation`` and ``top_edges``, all runs and windows at once.
* loop: a correlation and a percentile a window (``_connectivity_loops.py``), on the CPU.
* ratio: of pairs of calls in turns, median (10 to 90 %). MiB: most that the tensors of one call take beyond the runs,
  and beside it what the result itself takes. *edges that differ*: share of entries, where rounding decides.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.views.connectivity import dynamic_correlation, valid_regions
from medssl.views.connectivity_edges import top_edges

__all__ = ["main"]

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler, which counts memory, talks much

REGIONS, WINDOW, DENSITY = 200, 50, 0.3
SIZES = ((1, 300, 10), (1, 300, 3), (4, 300, 3), (16, 300, 10), (2, 600, 3))  # runs, volumes and stride
QUICK = ((1, 300, 25), (2, 300, 25))


def runs_of(count: int, volumes: int, device: torch.device) -> Tensor:
    """Smooth series that share something."""
    x = torch.randn(count, REGIONS, volumes, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool1d(x, 5, stride=1, padding=2)
    return (smooth + smooth.mean(1, keepdim=True) * REGIONS**0.5 / 2).to(device)


def graphs(x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Ours."""
    r = dynamic_correlation(x, WINDOW, stride)
    return r, top_edges(r, DENSITY, valid_regions(x).unsqueeze(1))


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds: of the process on a CPU, of the clock on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (clock() - start)


def weighed(run: Callable[[], Any], device: torch.device) -> float:
    """MiB that a call takes at most."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    recorded = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in recorded if event.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in changes), initial=0)) / 2**20


def measured(count: int, volumes: int, stride: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """One row."""
    x = runs_of(count, volumes, device)
    ours = functools.partial(graphs, x, stride)
    loop = functools.partial(import_module("_connectivity_loops").graphs_by_loop, x.cpu(), WINDOW, stride, DENSITY)
    (r, edges), (wanted, wanted_edges) = ours(), loop()
    result = sum(t.numel() * t.element_size() for t in (r, edges)) / 2**20
    pairs = [(timed(ours, device), timed(loop, torch.device("cpu"))) for _ in range(repeats)]
    return {
        "device": device.type, "runs": count, "volumes": volumes, "stride": stride, "windows": r.shape[1],
        "largest_difference": float((r.cpu() - wanted).abs().max()),
        "edges_that_differ": float((edges.cpu() != wanted_edges).float().mean()),
        "batched_ms": [a for a, _ in pairs], "loop_ms": [b for _, b in pairs], "mib": weighed(ours, device),
        "result_mib": result,
    }  # fmt: skip


def spread(values: list[float]) -> str:
    """Median (10 to 90 %)."""
    low, high = np.percentile(values, [10, 90])
    return f"{statistics.median(values):.3g} ({low:.3g}–{high:.3g})"


def line(row: dict[str, Any]) -> str:
    """Of the table."""
    ratio = [b / a for a, b in zip(row["batched_ms"], row["loop_ms"], strict=True)]
    cells = [row["device"], f"{row['runs']} × {row['windows']}", spread(row["batched_ms"]), spread(row["loop_ms"])]
    cells += [spread(ratio), f"{row['mib']:.3g}", f"{row['result_mib']:.3g}"]
    cells += [f"{row[name]:.0e}" for name in ("largest_difference", "edges_that_differ")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small sizes, few repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    names = "device | runs × windows | batched, ms | loop, ms | times faster | MiB | result, MiB"
    print(f"\n| {names} | largest difference | edges that differ |\n|{'---|' * 9}")
    made: list[dict[str, Any]] = []
    for device in map(torch.device, ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]):
        for size in QUICK if chosen.quick else SIZES:
            made.append(measured(*size, device, 3 if chosen.quick else 9))
            print(line(made[-1]), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(made, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
