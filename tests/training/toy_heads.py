"""A small encoder, a batch that a head learns from, and what changed in a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medssl.encoders.resnet1d import ResNet1d


def encoder() -> ResNet1d:
    torch.manual_seed(0)
    return ResNet1d(1, (4, 8), kernel=3, blocks=1)


def batch(size: int = 4, seed: int = 5) -> dict[str, Any]:
    """What the collate function makes of ``size`` one-channel windows of 32 samples in two classes."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(size) % 2
    x = torch.randint(-100, 100, (size, 1, 1, 32), generator=rng) + 400 * y.view(-1, 1, 1, 1)
    return {
        "x": x.to(torch.int16),
        "y": y,
        "input_scale": torch.full((size, 1), 0.01),
        "input_offset": torch.zeros(size, 1),
        "input_range": torch.tensor([[-10.0, 10.0]]).repeat(size, 1),
        "row": torch.arange(size),
        "seed": seed,
    }


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
