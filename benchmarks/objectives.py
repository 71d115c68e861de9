"""How fast are the objectives beside loops as published code writes them? Prints a Markdown table; asserts nothing.

Run ``python benchmarks/objectives.py`` (about half a minute) or with ``--quick`` (a few seconds). Each pair is timed
forward and backward in turns, so that a busy machine slows both alike; the ratio is the median of the paired ratios,
with the 10th and 90th percentile. Values and gradients of each pair are compared before timing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.contrastive import info_nce
from medssl.objectives.voco import overlap_labels, position_similarity, prediction_v1, regularisation

__all__ = ["main"]

Loss = Callable[[Tensor], Tensor]


def regularisation_by_loops(q: Tensor) -> Tensor:
    """Volume after volume, pair after pair."""
    losses = []
    for volume in q:
        total, n = torch.zeros((), device=q.device), len(volume)
        for i in range(n - 1):
            for j in range(i + 1, n):
                cosine = functional.cosine_similarity(volume[i], volume[j].detach(), dim=0)
                total = total + functional.relu(cosine) ** 2
        losses.append(2 / (n * (n - 1)) * total)
    return torch.stack(losses).mean()


def prediction_by_loops(x: Tensor, q: Tensor, labels: Tensor) -> Tensor:
    """Volume after volume, crop after crop."""
    losses = []
    for crops, bases, overlaps in zip(x, q, labels, strict=True):
        similarity = torch.stack([functional.relu(functional.cosine_similarity(c[None], bases)) for c in crops])
        cost = -torch.log(1 - (overlaps - similarity).abs() + 1e-6)
        negative = overlaps == 0
        losses.append(
            (overlaps * cost).sum() / (overlaps.sum() + 1e-6)
            + (negative * similarity**2).sum() / (negative.sum() + 1e-6)
        )
    return torch.stack(losses).mean()


def info_nce_by_loops(views: Tensor, temperature: float) -> Tensor:
    """Anchor after anchor, pair of views after pair of views."""
    z = functional.normalize(views, dim=-1)
    k, n, _ = z.shape
    losses = []
    for a in range(k):
        for b in range(a + 1, k):
            both = torch.cat([z[a], z[b]])
            for i in range(2 * n):
                logits = both @ both[i] / temperature
                others = torch.cat([logits[:i], logits[i + 1 :]])
                losses.append(others.logsumexp(0) - logits[(i + n) % (2 * n)])
    return torch.stack(losses).mean()


def pairs(device: torch.device, quick: bool) -> list[tuple[str, Loss, Loss, Tensor]]:
    """Name, ours, loops, input."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(device)

    starts = torch.randint(0, 3 * 96, (2, 2, 3), generator=torch.Generator().manual_seed(1))
    labels = overlap_labels(starts * torch.tensor([0, 1, 1]), (96, 96, 96), (1, 4, 4)).to(device)

    def ours(rows: Tensor) -> Tensor:
        pos, neg = prediction_v1(position_similarity(rows[:, :2], rows[:, 2:]), labels)
        return (pos + neg).mean()

    listed: list[tuple[str, Loss, Loss, Tensor]] = [
        (
            "VoCo regularisation, B=2, n=16, D=2048",
            lambda q: regularisation(q).mean(),
            regularisation_by_loops,
            random(2, 16, 2048),
        ),
        (
            "VoCo prediction, B=2, sw=2, n=16, D=2048",
            ours,
            lambda r: prediction_by_loops(r[:, :2], r[:, 2:], labels),
            random(2, 18, 2048),
        ),
    ]
    for k, n in [(2, 64), (4, 32)] if quick else [(2, 64), (2, 256), (4, 64)]:
        listed.append(
            (
                f"InfoNCE, V={k}, N={n}, D=128",
                lambda v: info_nce(v, temperature=0.2),
                lambda v: info_nce_by_loops(v, 0.2),
                random(k, n, 128),
            )
        )
    return listed


def step(loss: Loss, x: Tensor) -> tuple[float, Tensor, Tensor]:
    """Seconds of one forward and backward pass, the value and the gradient."""
    x = x.detach().requires_grad_()
    start = time.perf_counter()
    value = loss(x)
    value.backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    spent = time.perf_counter() - start
    assert x.grad is not None
    return spent, value.detach(), x.grad


def main() -> None:
    """Time all pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    quick = parser.parse_args().quick
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads, float32, forward and backward\n")
    print("| objective | device | ours, ms | loops, ms | times faster (10–90 %) | largest difference |")
    print("|---|---|---|---|---|---|")
    for device in map(torch.device, devices):
        for name, ours, loops, x in pairs(device, quick):
            (_, value, gradient), (_, wanted, wanted_gradient) = step(ours, x), step(loops, x)
            apart = max((value - wanted).abs().item(), (gradient - wanted_gradient).abs().max().item())
            times = [(step(ours, x)[0], step(loops, x)[0]) for _ in range(5 if quick else 15)]
            ratios = sorted(slow / fast for fast, slow in times)
            tenth = len(ratios) // 10
            fast, slow = (statistics.median(t) * 1e3 for t in zip(*times, strict=True))
            spread = f"{statistics.median(ratios):.0f} ({ratios[tenth]:.0f}–{ratios[-1 - tenth]:.0f})"
            print(f"| {name} | {device} | {fast:.2f} | {slow:.1f} | {spread} | {apart:.0e} |", flush=True)


if __name__ == "__main__":
    main()
