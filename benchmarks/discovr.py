"""How fast and how small is a step of DISCOVR beside the published one? Prints a Markdown table.

Run ``python benchmarks/discovr.py`` (a few minutes) or with ``--quick`` (seconds). Losses and gradients of a step
without its optimiser, on one thread and on a GPU where there is one, of a small network or of the paper's. Nothing is
asserted.

* as published: a transcription of the released step; it asks the image teacher twice and goes from view to view.
* reference: ours with ``reference: true``, the same numbers. *parity*: largest difference of value and gradients from
  the transcription, in float64 on a small network.
* default: what is trained without further settings; soft targets, tokens place by place.
* tubelets: ``every_frame: false``, one frame of each tubelet in the image branch.

ms: medians of steps in turns; MiB: most that the tensors of one step take beyond weights and clips.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medssl.encoders.video_vit import VideoViT
from medssl.methods.discovr import DISCOVR
from medssl.views.clip import ClipViews

__all__ = ["main"]


class Scale(NamedTuple):
    """What is measured.

    Attributes:
        clips: of a step.
        size: frames, height and width.
        width: of the encoder; it has as many heads as the width has 64s.
        depth: its blocks.
        head: layers of the heads.
        head_prototypes: of each.
        prototypes: of the clusters.
    """

    clips: int
    size: tuple[int, int, int]
    width: int
    depth: int
    head: tuple[int, int]
    head_prototypes: int
    prototypes: int


TINY = Scale(2, (8, 32, 32), 64, 1, (32, 16), 48, 24)
QUICK = (Scale(1, (8, 112, 112), 64, 2, (128, 64), 256, 256), Scale(2, (8, 112, 112), 64, 2, (128, 64), 256, 256))
CPU = tuple(Scale(n, (16, 112, 112), 192, 4, (512, 256), 1024, 512) for n in (1, 2, 4))
GPU = tuple(Scale(n, (64, 112, 112), 768, 12, (2048, 256), 16384, 3000) for n in (1, 2, 4, 8))


def method(scale: Scale, device: torch.device, dtype: torch.dtype = torch.float32, **options: Any) -> DISCOVR:
    """One to measure; the same weights for all options."""
    torch.manual_seed(0)
    heads = max(1, scale.width // 64)
    patch = 16 if scale.size[1] >= 112 else 8
    encoder = VideoViT(
        3, scale.size, patch=(2, patch, patch), width=scale.width, depth=scale.depth, heads=heads, positions="sincos1d"
    )
    made = DISCOVR(
        encoder, ClipViews(scale.size, count=1), head=scale.head, head_prototypes=scale.head_prototypes,
        prototypes=scale.prototypes, decoder_width=scale.width // 2, decoder_heads=max(1, heads // 2),
        mask_ratio=0.9 if patch == 16 else 0.75, **options,
    )  # fmt: skip
    return made.to(device, dtype)


def clips_of(scale: Scale, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise."""
    drawn = torch.randn(scale.clips, 3, *scale.size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return drawn.to(device)


def ours(of: DISCOVR, clips: Tensor) -> Tensor:
    """Loss of a step."""
    of.generator.manual_seed(2)
    with half(clips):
        return of.compare(clips).total


def loops(of: DISCOVR, clips: Tensor) -> Tensor:
    """The same as published."""
    of.generator.manual_seed(2)
    with half(clips):
        loss: Tensor = import_module("_discovr_loops").published_step(of, clips)
    return loss


def half(clips: Tensor) -> torch.autocast:
    """Mixed precision on a GPU."""
    mixed = clips.is_cuda and clips.dtype == torch.float32
    return torch.autocast(clips.device.type, torch.bfloat16, enabled=mixed)


def trained(of: DISCOVR) -> list[Tensor]:
    """What gets gradients."""
    return [p for p in of.parameters() if p.requires_grad]


def parity(device: torch.device) -> str:
    """Largest difference from the transcription in float64, relative to the largest entry of each gradient."""
    tools, clips = import_module("objectives"), clips_of(TINY, device, torch.float64)
    of = method(TINY, device, torch.float64, reference=True).eval()  # centres stay where they are
    found, wanted = (tools.step(functools.partial(f, of, clips), trained(of)) for f in (ours, loops))
    return f"{tools.apart(found, wanted, {}):.0e}"


def measured(scale: Scale, device: torch.device, plan: Any) -> dict[str, Any]:
    """One row; the steps run in turns."""
    tools, clips = import_module("objectives"), clips_of(scale, device)
    released = method(scale, device, reference=True)
    subjects = {
        "published": (loops, released), "reference": (ours, released), "default": (ours, method(scale, device)),
        "tubelets": (ours, method(scale, device, every_frame=False)),
    }  # fmt: skip
    runs = {
        name: functools.partial(tools.step, functools.partial(f, m, clips), trained(m))
        for name, (f, m) in subjects.items()
    }
    row: dict[str, Any] = {"clips": scale.clips}
    for name, (f, m) in subjects.items():
        row[f"{name}_mib"] = tools.weighed(functools.partial(f, m, clips), trained(m))[1]
    times: dict[str, list[float]] = {name: [] for name in runs}
    clock = time.perf_counter if clips.is_cuda else time.process_time
    for _ in range(plan.repeats[0] if scale.clips > 2 else 2 * plan.repeats[0]):
        for name, run in runs.items():
            start = clock()
            run()
            times[name].append(1e3 * (clock() - start))
    return row | {f"{name}_ms": statistics.median(found) for name, found in times.items()}


def line(row: dict[str, Any]) -> str:
    """Of the table."""
    slow, large = row["published_ms"], row["published_mib"]
    cells = [str(row["clips"]), f"{slow:.4g}", f"{large:.4g}"]
    for name in ("reference", "default", "tubelets"):
        ms, mib = row[f"{name}_ms"], row[f"{name}_mib"]
        cells += [f"{ms:.4g} (÷ {slow / ms:.2f})", f"{mib:.4g} (÷ {large / mib:.2f})"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small sizes, few repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    chosen = parser.parse_args()
    tools = import_module("objectives")
    plan = tools.QUICK if chosen.quick else tools.FULL
    torch.set_num_threads(1)
    made: list[dict[str, Any]] = []
    for device in map(torch.device, ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]):
        scales = QUICK if chosen.quick else GPU if device.type == "cuda" else CPU
        size, width, depth = scales[0].size, scales[0].width, scales[0].depth
        what = f"clips of {' × '.join(map(str, size))}, {depth} blocks of {width}"
        print(f"\n{device.type}, {what}; parity {parity(device)}")
        steps = ("as published", "reference", "default", "tubelets")
        names = [f"{name}: {unit}" for name in steps for unit in ("ms", "MiB")]
        print(f"\n| clips | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}")
        for scale in scales:
            made.append({"device": device.type, **measured(scale, device, plan)})
            print(line(made[-1]), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(made, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
