"""Dynamic connectivity and its graphs the way published code has it: run by run, window by window. For benchmarks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["graphs_by_loop"]


def graphs_by_loop(x: Tensor, window: int, stride: int, density: float) -> tuple[Tensor, Tensor]:
    """Correlations (B, K, N, N) and adjacency of runs (B, N, T); the percentile of each window in double precision."""
    correlations, edges = [], []
    for run in x:
        r = [torch.corrcoef(run[:, s : s + window]) for s in range(0, run.shape[-1] - window + 1, stride)]
        thresholds = [np.percentile(m.double().numpy(), 100 * (1 - density)) for m in r]
        correlations.append(torch.stack(r))
        edges.append(torch.stack([m > t for m, t in zip(r, thresholds, strict=True)]))
    return torch.stack(correlations), torch.stack(edges)
