"""How fast and how small are the methods for volumes? Their losses beside loops, and whole steps of every config.

Run ``python benchmarks/volumes.py`` (about ten minutes on a CPU) or with ``--quick`` (two or three). Nothing is
asserted.

* Losses: each beside a transcription of the published code, which loops over volumes, crops, regions or pairs, on one
  thread and on a GPU where there is one. Both run in turns, forward and backward; the ratio is the median of the paired
  ratios, in brackets its 10th and 90th percentile. Parity is the largest difference of value and gradients in float64.
* Steps: every shipped configuration whose method reads volumes, on synthetic bodies: milliseconds of reading a
  recording (one process), of one training step with its optimiser, and the MiB that its tensors take at most beyond
  weights. Those for a GPU run where there is one, in the precision they name.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

__all__ = ["main"]

MIB = 2**20
SHAPES = {"laptop": (48, 64, 64), "gpu": (96, 192, 192)}
PATIENTS = 8


def losses_table(device: torch.device, only: Sequence[str] | None, plan: Any) -> list[dict[str, Any]]:
    """Measure and print every loss on a device."""
    tools, made = import_module("objectives"), []
    columns = ("loss", "size", "parity", "ms", "loops: ms", "times faster", "MiB, loops")
    header(f"Losses, {where(device)}, float32, forward and backward", columns)
    for case in import_module("_volume_cases").CASES:
        if only and case.name not in only:
            continue
        exact = case.make(device, torch.float64)
        parity = tools.apart(*(tools.step(f, exact.leaves) for f in (exact.ours, exact.loops)), {})
        subject = case.make(device, torch.float32)
        row = {"name": case.name, "device": device.type, "shape": case.shape, "parity": parity}
        row |= tools.beside(subject, subject.loops, plan)
        cells = [case.name, case.shape, f"{parity:.0e}", tools.around(row["ours_ms"]), tools.around(row["ms"])]
        cells += [tools.around(row["times_faster"]), f"{tools.number(row['ours_mib'])}, {tools.number(row['mib'])}"]
        line(cells)
        made.append(row)
    return made


def steps_table(device: torch.device, only: Sequence[str] | None, plan: Any, size: str) -> list[dict[str, Any]]:
    """Measure and print a step of every configuration of one size."""
    tools, made = import_module("objectives"), []
    columns = ("config", "method", "recordings a step", "reading one: ms", "step: ms", "MiB")
    header(f"Steps, {where(device)}, volumes of {' × '.join(map(str, SHAPES[size]))}", columns)
    with tempfile.TemporaryDirectory() as folder:
        cohort = synthetic(Path(folder), SHAPES[size])
        for name, config in configurations(size):
            if only and name not in only:
                continue
            try:
                row = measured(config, cohort, device, plan)
            except Exception as error:  # one that cannot run here must not hide the others
                line([name, config["method"]["class_path"], "", "", f"not measured: {error}".splitlines()[0][:120], ""])
                continue
            made.append({"name": name, "device": device.type, **row})
            cells = [name, row["method"], str(row["batch"]), tools.around(row["read_ms"]), tools.around(row["step_ms"])]
            line([*cells, tools.number(row["mib"])])
    return made


def configurations(size: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of a size whose method reads volumes."""
    import yaml

    from medssl import resources

    for name in resources.names("configs"):
        config = yaml.safe_load(resources.find("configs", name).read_text(encoding="utf-8"))
        others = any(views in str(config) for views in ("SignalViews", "ClipViews"))
        others = others or any(f"_{kind}_" in name for kind in ("ecg", "eeg"))
        if name.endswith(f"_{size}") and "method" in config and not others:
            yield name, config


def synthetic(folder: Path, shape: tuple[int, int, int]) -> Any:
    """A prepared cohort of bodies with masks."""
    from medssl.cohort import Cohort
    from medssl.cohort.writer import prepare
    from medssl.synth.volumes import write_volumes

    source = write_volumes(folder / "raw", patients=PATIENTS, seed=1, shape=shape)
    with quiet():
        prepare("msd", source, folder / "cohort", options={"modality": "ct"}, keep_ids=True, workers=0)
    return Cohort(folder / "cohort")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed inside."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def measured(config: Mapping[str, Any], cohort: Any, device: torch.device, plan: Any) -> dict[str, Any]:
    """Reading and steps of one configuration."""
    from medssl.configurable import Configurable, build, discover
    from medssl.methods.base import Method
    from medssl.training.data import Draws, MethodSource, collate, move

    for package in ("encoders", "views", "objectives", "methods"):
        discover(f"medssl.{package}", Configurable)
    torch.manual_seed(0)
    method: Any = build(config["method"], Method)  # type: ignore[type-abstract]
    method.check(cohort.info)
    batch = int(config["trainer"]["batch_size"])
    source = MethodSource(method, [cohort], [range(len(cohort))])  # type: ignore[list-item]
    with quiet():
        method.prepare(source, batch=batch)
    source.refresh(method)
    draws = Draws(source, seed=0)
    reading = timed(lambda: draws[0], plan, torch.device("cpu"))
    drawn = collate(draws.__getitems__(range(batch)))
    if not isinstance(drawn, dict):
        raise RuntimeError(drawn.message)
    work = training(method.to(device), move(drawn, device), device, config["trainer"].get("precision", "32-true"))
    work()  # the first step makes the optimiser's state and chooses kernels
    mib = peak(work, device)
    return {
        "method": type(method).__name__, "batch": batch, "read_ms": reading, "mib": mib,
        "step_ms": timed(work, plan, device),
    }  # fmt: skip


def training(method: Any, batch: dict[str, Any], device: torch.device, precision: str) -> Callable[[], None]:
    """One step of the optimiser."""
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    half = precision == "bf16-mixed" and device.type == "cuda"

    def step() -> None:
        method.generator.manual_seed(batch["seed"])
        if hasattr(method, "follow"):  # teachers that move before each step
            method.follow()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            total = method.loss(batch).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def timed(work: Callable[[], Any], plan: Any, device: torch.device) -> tuple[float, float, float]:
    """Milliseconds: median, 10th and 90th percentile; processor time on the CPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    fewest, most = plan.repeats
    times: list[float] = []
    start = clock()
    while len(times) < most and (len(times) < fewest or clock() - start < plan.seconds):
        before = clock()
        work()
        times.append(1e3 * (clock() - before))
    found: tuple[float, float, float] = import_module("objectives").spread(times)
    return found


def peak(work: Callable[[], Any], device: torch.device) -> float:
    """MiB that tensors take at most during the work, beyond what is there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    recorded = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in recorded if event.name() == "[memory]")
    return max(accumulate((size for _, size in changes), initial=0)) / MIB


def where(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"


def header(title: str, columns: Sequence[str]) -> None:
    """Of a table."""
    print(f"\n{title}, torch {torch.__version__}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def line(cells: Sequence[str]) -> None:
    """Of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="losses and configurations to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def refuse_unknown(only: Sequence[str] | None) -> None:
    """Names that no loss and no configuration has.

    Raises:
        SystemExit: there are some.
    """
    known = [c.name for c in import_module("_volume_cases").CASES] + [n for s in SHAPES for n, _ in configurations(s)]
    unknown = sorted(set(only or ()) - set(known))
    if unknown:
        raise SystemExit(f"no loss or configuration is called {', '.join(unknown)}; there are {', '.join(known)}")


def main() -> None:
    """Measure, and print the tables row by row."""
    chosen = arguments()
    refuse_unknown(chosen.only)
    tools = import_module("objectives")
    plan = tools.QUICK if chosen.quick else tools.FULL
    torch.set_num_threads(1)
    made: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages
        for name in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            device = torch.device(name)
            made += losses_table(device, chosen.only, plan)
            for size in SHAPES if name == "cuda" else ["laptop"]:
                made += steps_table(device, chosen.only, plan, size)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(made, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
