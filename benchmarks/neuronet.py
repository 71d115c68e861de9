"""How fast are NeuroNet's tokens and Mamba's scan, beside loops over frames and steps? Prints two Markdown tables.

Run ``python benchmarks/neuronet.py`` (two or three minutes on a CPU) or with ``--quick``. Nothing is asserted.

* Tokens: the convolutional network on all frames of a batch at once, beside one call a frame (``_neuronet_loops.py``),
  forward and backward in training. 30-s windows at 100 Hz, 73 frames. Error: largest difference of the tokens in
  evaluation mode, float64 (in training batch norms see other batches).
* Scan: Mamba's recursion at its published width (512 × 16 states) in chunks, beside the loop over steps, forward and
  backward. Error: largest difference of the result relative to its largest entry, float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

__all__ = ["main"]

LENGTHS = (20, 200, 2000)
INNER, STATE = 512, 16


def stepping(forward: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward, until the device has done its work."""

    def work() -> None:
        loss = forward().sum()
        loss.backward()
        if loss.is_cuda:
            torch.cuda.synchronize()

    return work


def row(
    cells: list[str], ours: Callable[[], None], theirs: Callable[[], None], plan: Any, device: torch.device
) -> None:
    """Measure both and print the line."""
    tools, around = import_module("volumes"), import_module("objectives").around
    ours(), theirs()  # the first call chooses kernels
    fast, slow = (tools.timed(work, plan, device) for work in (ours, theirs))
    tools.line([*cells, around(fast), around(slow), f"{slow[0] / fast[0]:.3g}"])


def tokens_table(device: torch.device, plan: Any) -> None:
    """Measure and print tokens of one and of several windows."""
    from medssl.encoders.neuronet import NeuroNet

    tools, loops = import_module("volumes"), import_module("_neuronet_loops")
    columns = ("windows", "error (float64)", "ms", "frame by frame: ms", "times faster")
    tools.header(f"Tokens of 73 frames, forward and backward, {tools.where(device)}", columns)
    encoder = NeuroNet(width=8, depth=1).to(device)
    few = torch.randn(2, 1, 3000, dtype=torch.float64, device=device)
    with torch.no_grad():
        exact = encoder.double().eval()
        error = float((exact.tokens(few) - loops.token_loops(exact, few)).abs().max())
    encoder.float().train()
    for windows in (1, 8, 64) if device.type == "cuda" else (1, 8):
        x = torch.randn(windows, 1, 3000, device=device)
        both = (stepping(lambda: encoder.tokens(x)), stepping(lambda: loops.token_loops(encoder, x)))  # noqa: B023
        row([str(windows), f"{error:.0e}"], *both, plan, device)


def scan_table(device: torch.device, plan: Any) -> None:
    """Measure and print the scan at every length."""
    from medssl.encoders.mamba import selective_scan

    tools, loops = import_module("volumes"), import_module("_neuronet_loops")
    columns = ("sequences", "steps", "error (float32)", "ms", "step by step: ms", "times faster")
    tools.header(f"Selective scan, {INNER} × {STATE} states, forward and backward, {tools.where(device)}", columns)
    for sequences in (1, 4):
        for length in LENGTHS:
            given = arguments(sequences, length, device)
            with torch.no_grad():
                ours, theirs = selective_scan(*given, scan="chunks")[0], loops.scan_loops(*given)
            error = float((ours - theirs).abs().max() / theirs.abs().max())
            both = (
                stepping(lambda: selective_scan(*given, scan="chunks")[0]),  # noqa: B023
                stepping(lambda: loops.scan_loops(*given)),  # noqa: B023
            )
            row([str(sequences), str(length), f"{error:.0e}"], *both, plan, device)


def arguments(sequences: int, length: int, device: torch.device) -> list[Tensor]:
    """x, Δ, A, B and C as a fresh block has them."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((sequences, length, INNER), (sequences, length, STATE))
    x, b, c = (torch.randn(*s, generator=draw) for s in (shapes[0], shapes[1], shapes[1]))
    delta = 10 ** (-3 + 2 * torch.rand(*shapes[0], generator=draw))
    a = -torch.arange(1.0, STATE + 1).repeat(INNER, 1)
    return [t.to(device).requires_grad_() for t in (x, delta, a, b, c)]


def main() -> None:
    """Measure, and print the tables row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    tools = import_module("objectives")
    plan = tools.QUICK if parser.parse_args().quick else tools.FULL
    torch.set_num_threads(1)
    for name in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        tokens_table(torch.device(name), plan)
        scan_table(torch.device(name), plan)


if __name__ == "__main__":
    main()
