"""How fast and how small is COMET's loss as windows get longer and batches larger? Prints Markdown tables.

Run ``python benchmarks/comet.py`` (a few minutes) or with ``--quick`` (seconds). The four levels, forward and backward,
on one thread and on a GPU where there is one, beside a transcription of the published losses, which keep whole
similarity matrices; both run in turns. Nothing is asserted.

* parity: largest difference from the transcription in float64, of the value and of the gradients.
* ms: medians; MiB: most that the tensors of one step take beyond the views. Behind each the ratio to the row above,
  where one size doubles: 2 is linear.
* masks: hiding of segments, all rows at once and row by row.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.objectives.hierarchical import (
    id_loss,
    mean_over_scales,
    observation_losses,
    pyramid,
    same,
    sample_losses,
)
from medssl.objectives.step_masks import step_mask

__all__ = ["main"]

FEATURES = 64
STEPS, WINDOWS = (64, 128, 256, 512), (16, 32, 64, 128)
FIXED = 32, 128  # windows while steps double, and steps while windows do


def views(windows: int, steps: int, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Two views (B, T, D), in units that make similarities of about 1."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(windows, steps, FEATURES, generator=generator, dtype=dtype) for _ in "ab"]
    return [(z / FEATURES**0.5).to(device).requires_grad_() for z in drawn]


def ours(one: Tensor, other: Tensor) -> Tensor:
    """The four levels; trials of four windows, patients of two trials."""
    number = torch.arange(len(one), device=one.device)
    scales = pyramid(one, other)
    ids = id_loss(one, other, same(number // 8)) + id_loss(one, other, same(number // 4))
    steps = mean_over_scales(scales, sample_losses).mean() + mean_over_scales(scales, observation_losses).mean()
    return ids + 0.25 * steps


def loops(one: Tensor, other: Tensor) -> Tensor:
    """The same as published."""
    patients, trials = ([str(i // n) for i in range(len(one))] for n in (8, 4))
    loss: Tensor = import_module("_comet_loops").four_levels(one, other, patients, trials)
    return loss


def measured(windows: int, steps: int, device: torch.device, plan: Any) -> dict[str, float]:
    """One row."""
    tools = import_module("objectives")
    leaves = views(windows, steps, device)
    mine, theirs = (lambda: ours(*leaves)), (lambda: loops(*leaves))
    row = {"windows": windows, "steps": steps}
    row["mib"], row["loops_mib"] = tools.weighed(mine, leaves)[1], tools.weighed(theirs, leaves)[1]
    row["ms"], row["loops_ms"] = (statistics.median(t) for t in tools.turns([mine, theirs], leaves, plan))
    return row


def line(row: dict[str, float], above: dict[str, float] | None) -> str:
    """Of a table."""
    cells = [f"{row['windows']:.0f}", f"{row['steps']:.0f}"]
    for name in ("ms", "mib", "loops_ms", "loops_mib"):
        cells.append(f"{row[name]:.3g}" + ("" if above is None else f" (× {row[name] / above[name]:.2f})"))
    cells.append(f"{row['loops_ms'] / row['ms']:.1f}, {row['loops_mib'] / row['mib']:.1f}")
    return f"| {' | '.join(cells)} |"


def parity(device: torch.device) -> str:
    """Largest differences in float64."""
    leaves = views(12, 21, device, torch.float64)
    found, wanted = ours(*leaves), loops(*leaves)
    pairs = zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True)
    return f"value {abs(found - wanted).item():.0e}, gradients {max(float((a - b).abs().max()) for a, b in pairs):.0e}"


def masks(repeats: int) -> str:
    """Milliseconds of hiding segments in 256 windows of 256 steps."""
    random, generator, times = np.random.default_rng(0), torch.Generator(), []
    slow = import_module("_comet_loops").hidden_segments
    for hide in (lambda: step_mask("continuous", 256, 256, generator), lambda: slow(256, 256, random)):
        taken = []
        for _ in range(repeats):
            start = time.process_time()
            hide()
            taken.append(1e3 * (time.process_time() - start))
        times.append(statistics.median(taken))
    return f"all rows at once {times[0]:.2g} ms, row by row {times[1]:.2g} ms"


def main() -> None:
    """Measure, and print row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three small sizes, few repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    tools = import_module("objectives")
    plan, sizes = (tools.QUICK, 3) if chosen.quick else (tools.FULL, 4)
    torch.set_num_threads(1)
    made: list[dict[str, float]] = []
    for device in map(torch.device, ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]):
        print(f"\n{device.type}, D = {FEATURES}; parity: {parity(device)}")
        doubling = ([(FIXED[0], steps) for steps in STEPS[:sizes]], [(n, FIXED[1]) for n in WINDOWS[:sizes]])
        for table in doubling:
            print("\n| windows | steps | ms | MiB | as published: ms | MiB | times faster, smaller |\n|" + "---|" * 7)
            rows: list[dict[str, float]] = []
            for windows, steps in table:
                rows.append(measured(windows, steps, device, plan))
                print(line(rows[-1], rows[-2] if len(rows) > 1 else None), flush=True)
            made += rows
    print(f"\nmasks of 256 windows of 256 steps: {masks(3 if chosen.quick else 20)}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(made, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
