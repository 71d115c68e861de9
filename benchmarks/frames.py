"""How fast are the frames of a window, and what do the mappings save? Prints two Markdown tables.

Run ``python benchmarks/frames.py`` (one or two minutes on a CPU) or with ``--quick``. Nothing is asserted.

* Transforms: Fourier and wavelet frame of a batch, beside loops over windows, channels and scales with the direct
  convolution of PyWavelets (``_frame_loops.py``; NumPy on the CPU in either table). Milliseconds a window of one
  channel, 48 scales. Error: largest difference of the magnitudes in float64, and in float32.
* Encoders: milliseconds a window of what frame projections export, forward, with mappings (no transform at all), with
  the time encoder alone, and with the encoders of all three frames.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

import numpy as np
import torch

__all__ = ["main"]

LENGTHS = (200, 480, 1000, 2500)
ROWS = 64  # windows at once
BESIDE = 2  # windows of the loops


def transforms_table(device: torch.device, plan: Any) -> None:
    """Measure and print both frames at every length."""
    from medssl.views.frames import fourier_frame, geometric_scales, wavelet_frame

    tools, loops, around = import_module("volumes"), import_module("_frame_loops"), import_module("objectives").around
    columns = ("frame", "samples", "error (float64, float32)", "ms", "loops: ms", "times faster")
    tools.header(f"Transforms of a window of one channel, {tools.where(device)}", columns)
    scales = geometric_scales()
    frames = {
        "Fourier": (lambda x: fourier_frame(x).magnitude, lambda x: loops.fourier(x)[0]),
        "wavelet": (lambda x: wavelet_frame(x, scales), lambda x: loops.wavelet(x, scales)),
    }
    for name, (ours, theirs) in frames.items():
        for length in LENGTHS:
            x = torch.randn(ROWS, 1, length, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            wanted = theirs(x[:BESIDE].numpy())
            single, few = x.float().to(device), x[:BESIDE].numpy()
            errors = [np.abs(ours(y[:BESIDE]).cpu().numpy() - wanted).max() for y in (x.to(device), single)]
            fast = [t / ROWS for t in tools.timed(lambda: finished(ours(single)), plan, device)]  # noqa: B023
            slow = [t / BESIDE for t in tools.timed(lambda: theirs(few), plan, torch.device("cpu"))]  # noqa: B023
            cells = [name, str(length), f"{errors[0]:.0e}, {errors[1]:.0e}", around(tuple(fast)), around(tuple(slow))]
            tools.line([*cells, f"{slow[0] / fast[0]:.3g}"])


def encoders_table(device: torch.device, plan: Any) -> None:
    """Measure and print what is exported."""
    from medssl.encoders.frame_projected import FrameProjected
    from medssl.encoders.frame_resnet import FrameResNet

    tools, around = import_module("volumes"), import_module("objectives").around
    columns = ("inference", "weights", "features", "ms a window of 4 × 1000")
    tools.header(f"Exported encoders, forward, {tools.where(device)}", columns)
    for inference in ("time_only", "mapped", "all_encoders"):
        encoder = FrameProjected(FrameResNet(4), inference=inference, length=1000).to(device).eval()  # type: ignore[arg-type]
        x = torch.randn(ROWS, 4, 1000, device=device)
        with torch.inference_mode():
            times = tools.timed(lambda: finished(encoder(x).pooled), plan, device)  # noqa: B023
        weights = sum(p.numel() for p in encoder.parameters())
        tools.line([inference, str(weights), str(encoder.out_dim), around(tuple(t / ROWS for t in times))])


def finished(x: torch.Tensor) -> torch.Tensor:
    """What is there once the device has done its work."""
    if x.is_cuda:
        torch.cuda.synchronize()
    return x


def main() -> None:
    """Measure, and print the tables row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    tools = import_module("objectives")
    plan = tools.QUICK if parser.parse_args().quick else tools.FULL
    torch.set_num_threads(1)
    for name in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        transforms_table(torch.device(name), plan)
        encoders_table(torch.device(name), plan)


if __name__ == "__main__":
    main()
