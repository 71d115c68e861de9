"""How exact, how fast and how small are the objectives, beside loops and beside lightly? Prints a Markdown table.

Run ``python benchmarks/objectives.py`` (about ten minutes) or with ``--quick`` (under a minute). Every objective that
the package has is run forward and backward with its default settings, on one thread and on a GPU where there is one,
and compared with a transcription of its equations that goes anchor by anchor or pair of views by pair of views; and
with the loss of the package ``lightly``, where that is installed (``pip install lightly``) and has one. Nothing is
asserted.

* parity: largest difference from the loops in float64 at N=12, D=16 and three views: of the value, relative to it where
  it is above 1; of the gradients by views and by trained weights, and of what is remembered, relative to the largest
  entry.
* times: medians, in brackets the 10th and 90th percentile. Ours and theirs run in turns, so that a busy machine slows
  both alike; a ratio is the median of the paired ratios. Loops run at a smaller N, and so does ours beside them.
* MiB: most that the tensors of one step, forward and backward, take at once beyond inputs and weights, as the allocator
  counts them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler, which counts memory, talks much

import torch
from torch import Tensor

__all__ = ["main"]

Loss = Callable[[], Any]
MIB = 2**20


def sibling(name: str) -> ModuleType:
    """A module beside this one, whose folder is on the path of scripts but not of ``medssl bench``."""
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def losses_of_lightly() -> ModuleType | None:
    """None where the package is not installed."""
    try:
        return importlib.import_module("lightly.loss")
    except ImportError:
        return None


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        part: of the N of the table.
        repeats: of a timing, at least and at most.
        seconds: after which a timing is not repeated, once there are enough.
    """

    part: int
    repeats: tuple[int, int]
    seconds: float

    def samples(self, count: int) -> int:
        """Of so many, those that are measured."""
        return max(2, count // self.part)


FULL, QUICK = Plan(1, (3, 15), 3.0), Plan(8, (2, 5), 0.1)


def gradients(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """By every leaf; 0 where the loss does not depend on it."""
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def parity(subject: Any, other: Loss) -> float:
    """Largest difference of ours from another loss, see above."""
    found = other()  # first: ours changes what is remembered
    wanted, memory = found if isinstance(found, tuple) else (found, {})
    pairs = [(gradients(wanted, subject.leaves), gradients(value := subject.ours(), subject.leaves))]
    pairs += [([expected], [subject.memory()[name]]) for name, expected in memory.items()]
    apart = [float((value - wanted).detach().abs() / wanted.detach().abs().clamp_min(1))]
    for expected, got in pairs:
        # weights without influence (a bias before a normalisation) have gradients of rounding alone
        least = 1e-3 * max(e.abs().nan_to_num(0, 0, 0).max() for e in expected)
        for e, g in zip(expected, got, strict=True):
            difference = torch.where(e == g, 0.0, e - g).abs().max()  # equal infinities: never seen
            apart.append(float(difference / e.abs().nan_to_num(0, 0, 0).max().clamp_min(least).clamp_min(1e-30)))
    return max(apart)


def step(loss: Loss, leaves: Sequence[Tensor]) -> None:
    """Forward and backward."""
    found = loss()
    gradients(found[0] if isinstance(found, tuple) else found, leaves)
    if leaves[0].is_cuda:
        torch.cuda.synchronize()


def peak(loss: Loss, leaves: Sequence[Tensor]) -> float:
    """MiB that one step takes at most."""
    if leaves[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, leaves)
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(loss, leaves)
    recorded = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in recorded if event.name() == "[memory]")
    return max(accumulate((size for _, size in changes), initial=0)) / MIB


def turns(losses: Sequence[Loss], leaves: Sequence[Tensor], plan: Plan) -> list[list[float]]:
    """Milliseconds of the steps of each loss, run in turns."""
    fewest, most = plan.repeats
    times: list[list[float]] = [[] for _ in losses]
    start = time.perf_counter()
    while len(times[0]) < fewest or (len(times[0]) < most and time.perf_counter() - start < plan.seconds):
        for loss, kept in zip(losses, times, strict=True):
            before = time.perf_counter()
            step(loss, leaves)
            kept.append(1e3 * (time.perf_counter() - before))
    return times


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    ranked, last = sorted(values), len(values) - 1
    return statistics.median(ranked), ranked[round(0.1 * last)], ranked[round(0.9 * last)]


def beside(subject: Any, other: Loss, plan: Plan) -> dict[str, Any]:
    """Ours and another loss on the same inputs."""
    row = {"difference": parity(subject, other), "ours_mib": peak(subject.ours, subject.leaves)}
    row["mib"] = peak(other, subject.leaves)
    ours, theirs = turns([subject.ours, other], subject.leaves, plan)
    faster = spread([slow / fast for fast, slow in zip(ours, theirs, strict=True)])
    return {**row, "ours_ms": spread(ours), "ms": spread(theirs), "times_faster": faster}


def rows(entry: Any, device: torch.device, lightly: ModuleType | None, plan: Plan) -> list[dict[str, Any]]:
    """One for each number of views."""
    size = sibling("_objective_cases").Size
    small = entry.subject(size(3, 12 if entry.samples > 2 else 2, device, torch.float64, 16))
    exact = None if small.loops is None else parity(small, small.loops)
    n, made = plan.samples(entry.samples), []
    for views, beside_loops in zip(entry.views, map(plan.samples, entry.beside_loops), strict=True):
        row = {"name": entry.name, "shape": entry.shape.format(n), "views": views, "device": device.type}
        row |= {"parity": exact, "samples": n, "loops_samples": beside_loops, "loops": None, "lightly": None}
        subject = entry.subject(size(views, n, device))
        row["mib"] = peak(subject.ours, subject.leaves)
        if subject.lightly is not None and lightly is not None:
            row["lightly"] = beside(subject, lambda s=subject: s.lightly(lightly), plan)
        row["ms"] = (
            row["lightly"]["ours_ms"] if row["lightly"] else spread(turns([subject.ours], subject.leaves, plan)[0])
        )
        if subject.loops is not None:
            subject = entry.subject(size(views, beside_loops, device))
            row["loops"] = beside(subject, subject.loops, plan)
        made.append(row)
    return made


def number(x: float) -> str:
    """Three digits."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def around(values: tuple[float, float, float]) -> str:
    """Median (10th–90th percentile)."""
    return "{} ({}–{})".format(*map(number, values))


COLUMNS = (
    "objective", "V", "parity", "ms", "MiB", "loops at N: ms", "times faster", "MiB, ours", "float32 difference",
    "lightly: ms", "times faster", "MiB", "float32 difference",
)  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """Of the table."""
    cells = [f"{row['name']}, {row['shape']}", str(row["views"])]
    cells += ["" if row["parity"] is None else f"{row['parity']:.0e}", around(row["ms"]), number(row["mib"])]
    loops, lightly = row["loops"], row["lightly"]
    cells += [""] * 4 if loops is None else [
        f"{row['loops_samples']}: {number(loops['ms'][0])}", around(loops["times_faster"]),
        f"{number(loops['mib'])}, {number(loops['ours_mib'])}", f"{loops['difference']:.0e}",
    ]  # fmt: skip
    cells += [""] * 4 if lightly is None else [
        number(lightly["ms"][0]), around(lightly["times_faster"]), number(lightly["mib"]),
        f"{lightly['difference']:.0e}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the samples, few repetitions")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="objectives to measure; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table row by row."""
    chosen = arguments()
    plan = QUICK if chosen.quick else FULL
    torch.set_num_threads(1)
    lightly = losses_of_lightly()
    measured = [e for e in sibling("_objective_cases").entries() if chosen.only is None or e.name in chosen.only]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    made: list[dict[str, Any]] = []
    for device in map(torch.device, devices):
        where = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
        other = "without lightly" if lightly is None else f"lightly {importlib.import_module('lightly').__version__}"
        print(f"\n{where}, torch {torch.__version__}, {other}; float32, forward and backward\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        for entry in measured:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other packages
                found = rows(entry, device, lightly, plan)
            print("\n".join(map(line, found)), flush=True)
            made += found
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(made, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
