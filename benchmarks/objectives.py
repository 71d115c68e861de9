"""How exact, how fast and how small are the objectives, beside loops and beside lightly? Prints a Markdown table.

Run ``python benchmarks/objectives.py`` (ten to fifteen minutes) or with ``--quick`` (about a minute). Every objective
that the package has is run forward and backward with its default settings, on one thread and on a GPU where there is
one, and compared with a transcription of its equations that goes anchor by anchor or pair of views by pair of views;
and with the loss of the package ``lightly``, where that is installed (``pip install lightly``) and has one. Nothing is
asserted.

* parity: largest difference from the loops in float64 at N=12, D=16 and three views: of the value, relative to it where
  it is above 1; of the gradients by views and by trained weights, and of what is remembered, relative to the largest
  entry.
* times: processor time on the CPU, which is the elapsed time where nothing else runs; elapsed time on a GPU. Medians,
  in brackets the 10th and 90th percentile. Ours and theirs run in turns; a ratio is the median of the paired ratios.
  Loops run at a smaller N, and so does ours beside them.
* MiB: most that the tensors of one step, forward and backward, take at once beyond inputs and weights, as the allocator
  counts them.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # the profiler, which counts memory, talks much

import torch
from torch import Tensor

__all__ = ["main"]

Loss = Callable[[], Any]
MIB = 2**20


def losses_of_lightly() -> ModuleType | None:
    """None where the package is not installed."""
    try:
        return import_module("lightly.loss")
    except ImportError:
        return None


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        part: of the N of the table.
        repeats: of a timing, at least and at most.
        seconds: after which a timing is not repeated, once there are enough; after five times as many in any case.
    """

    part: int
    repeats: tuple[int, int]
    seconds: float

    def samples(self, count: int) -> int:
        """Of so many, those that are measured: no fewer than 8."""
        return min(count, max(8, count // self.part))


FULL, QUICK = Plan(1, (3, 15), 2.0), Plan(8, (2, 5), 0.1)


class Outcome(NamedTuple):
    """Of one step, forward and backward.

    Attributes:
        value: the loss.
        gradients: by every leaf; 0 where the loss does not depend on it.
        memory: buffers as they should be afterwards, where loops say so.
    """

    value: Tensor
    gradients: list[Tensor]
    memory: dict[str, Tensor]


def step(loss: Loss, leaves: Sequence[Tensor]) -> Outcome:
    """Forward and backward."""
    found = loss()
    value, memory = found if isinstance(found, tuple) else (found, {})
    by_leaf = torch.autograd.grad(value, leaves, allow_unused=True)
    if leaves[0].is_cuda:
        torch.cuda.synchronize()
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, by_leaf, strict=True)]
    return Outcome(value.detach(), gradients, memory)


def weighed(loss: Loss, leaves: Sequence[Tensor]) -> tuple[Outcome, float]:
    """A step, and the MiB that it takes at most."""
    if leaves[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        outcome = step(loss, leaves)
        return outcome, (torch.cuda.max_memory_allocated() - before) / MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        outcome = step(loss, leaves)
    recorded = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in recorded if event.name() == "[memory]")
    return outcome, max(accumulate((size for _, size in changes), initial=0)) / MIB


def largest(x: Tensor) -> float:
    """Largest finite entry, without sign."""
    return float(x.abs().nan_to_num(0, 0, 0).max())


def apart(found: Outcome, wanted: Outcome, memory: Mapping[str, Tensor]) -> float:
    """Largest difference, see above; ``memory`` is what the objective holds after the step."""
    differences = [float((found.value - wanted.value).abs() / wanted.value.abs().clamp_min(1))]
    # weights without influence (a bias before a normalisation) have gradients of rounding alone
    least = 1e-3 * max(map(largest, wanted.gradients))
    pairs = [(g, w, least) for g, w in zip(found.gradients, wanted.gradients, strict=True)]
    pairs += [(memory[name], w, 0.0) for name, w in wanted.memory.items()]
    for g, w, scale in pairs:
        difference = float(torch.where(g == w, 0.0, g - w).abs().max())  # equal infinities: never seen
        differences.append(difference / max(largest(w), scale, torch.finfo(w.dtype).tiny))
    return max(differences)


def turns(losses: Sequence[Loss], leaves: Sequence[Tensor], plan: Plan) -> list[list[float]]:
    """Milliseconds of the steps of each loss, run in turns."""
    clock = time.perf_counter if leaves[0].is_cuda else time.process_time
    fewest, most = plan.repeats
    times: list[list[float]] = [[] for _ in losses]
    start = clock()
    for done in range(most):
        if done and clock() - start > plan.seconds * (1 if done >= fewest else 5):
            break
        for loss, kept in zip(losses, times, strict=True):
            before = clock()
            step(loss, leaves)
            kept.append(1e3 * (clock() - before))
    return times


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    ranked, last = sorted(values), len(values) - 1
    return statistics.median(ranked), ranked[round(0.1 * last)], ranked[round(0.9 * last)]


def alone(subject: Any, plan: Plan) -> dict[str, Any]:
    """Ours by itself."""
    _, mib = weighed(subject.ours, subject.leaves)
    return {"ours_mib": mib, "ours_ms": spread(turns([subject.ours], subject.leaves, plan)[0])}


def beside(subject: Any, other: Loss, plan: Plan) -> dict[str, Any]:
    """Ours and another loss on the same inputs."""
    wanted, mib = weighed(other, subject.leaves)  # first: ours changes what is remembered
    found, ours_mib = weighed(subject.ours, subject.leaves)
    row = {"difference": apart(found, wanted, subject.memory()), "ours_mib": ours_mib, "mib": mib}
    del wanted, found
    ours, theirs = turns([subject.ours, other], subject.leaves, plan)
    faster = spread([slow / fast for fast, slow in zip(ours, theirs, strict=True)])
    return {**row, "ours_ms": spread(ours), "ms": spread(theirs), "times_faster": faster}


def exactness(entry: Any, device: torch.device) -> float | None:
    """Parity of a small case in float64; None without loops."""
    size = import_module("_objective_cases").Size(3, min(entry.samples, 12), device, torch.float64, 16)
    subject = entry.subject(size)
    if subject.loops is None:
        return None
    wanted = step(subject.loops, subject.leaves)
    return apart(step(subject.ours, subject.leaves), wanted, subject.memory())


def rows(entry: Any, device: torch.device, lightly: ModuleType | None, plan: Plan) -> list[dict[str, Any]]:
    """One for each number of views."""
    size, parity, made = import_module("_objective_cases").Size, exactness(entry, device), []
    samples = plan.samples(entry.samples)
    for views, fewer in zip(entry.views, map(plan.samples, entry.beside_loops), strict=True):
        row = {"name": entry.name, "shape": entry.shape.format(samples), "views": views, "device": device.type}
        row |= {"parity": parity, "samples": samples, "loops_samples": fewer, "loops": None, "lightly": None}
        subject = entry.subject(size(views, samples, device))
        if subject.lightly is None or lightly is None:
            ours = alone(subject, plan)
        else:
            ours = row["lightly"] = beside(subject, functools.partial(subject.lightly, lightly), plan)
        row |= {"ms": ours["ours_ms"], "mib": ours["ours_mib"]}
        if subject.loops is not None:
            subject = entry.subject(size(views, fewer, device))
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
    parser.add_argument("--only", nargs="+", metavar="NAME", help="objectives and parts to measure; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def chosen_of(entries: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
    """Those of the names given; all without.

    Raises:
        SystemExit: a name that none has.
    """
    known = {entry.name.split(" (")[0]: entry for entry in entries}
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise SystemExit(f"no objective or part is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [entry for name, entry in known.items() if names is None or name in names]


def main() -> None:
    """Measure, and print the table row by row."""
    chosen = arguments()
    plan = QUICK if chosen.quick else FULL
    torch.set_num_threads(1)
    lightly = losses_of_lightly()
    measured = chosen_of(list(import_module("_objective_cases").entries()), chosen.only)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    made: list[dict[str, Any]] = []
    for device in map(torch.device, devices):
        where = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
        other = "without lightly" if lightly is None else f"lightly {import_module('lightly').__version__}"
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
