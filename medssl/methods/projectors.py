"""Projection heads: what stands between an encoder and an objective, and is thrown away afterwards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["MLPHead", "ProjectionHead", "Projector", "dropout"]


def _batch_norm(width: int) -> nn.Module:
    """Centres over the rows of the batch, in training and evaluation alike; no weights, no running statistics."""
    return nn.BatchNorm1d(width, affine=False, track_running_stats=False)


class ProjectionHead(nn.Module):
    """VoCo's head: Linear → BN → ReLU → Linear → BN → ReLU → Linear, (N, in) → (N, out).

    The normalisation runs over all rows of a batch and has neither weights nor running statistics, so that an
    embedding depends on its batch, in evaluation too. This batch centring is what makes the method learn without a
    teacher; a per-row normalisation does not.

    Args:
        width: features in.
        hidden: features of both hidden layers.
        out: features out.
    """

    def __init__(self, width: int, *, hidden: int, out: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(width, hidden), _batch_norm(hidden), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Linear(hidden, hidden), _batch_norm(hidden), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Linear(hidden, out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out), N ≥ 2."""
        out: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return out


class Projector(nn.Sequential):
    """SimCLR's head: Linear → BN → ReLU → Linear, (N, in) → (N, out).

    Args:
        width: features in.
        hidden: features of the hidden layer.
        out: features out.
    """

    def __init__(self, width: int, *, hidden: int, out: int) -> None:
        layers: list[Any] = [
            nn.Linear(width, hidden, bias=False),  # the normalisation takes any bias away
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out),
        ]
        super().__init__(*layers)


class MLPHead(nn.Sequential):
    """Layers of Linear → BN → activation and a last Linear, (N, in) → (N, out): heads of most published methods.

    A linear layer before a normalisation has no bias, which the normalisation would take away.

    Args:
        width: features in.
        hidden: features of the layers between.
        out: features out.
        layers: linear layers, the last included; 1 is a linear map.
        norm: BN after every layer but the last.
        last_norm: BN without weights after the last layer (SimSiam's projector).
        activation: after every layer but the last.
        last_bias: of the last layer, where no BN follows it.

    >>> [type(m).__name__ for m in MLPHead(8, 16, 4, layers=2)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int,
        *,
        layers: int = 3,
        norm: bool = True,
        last_norm: bool = False,
        activation: Literal["relu", "gelu"] = "relu",
        last_bias: bool = True,
    ) -> None:
        if layers < 1:
            raise ValueError(f"a head has at least 1 layer, not {layers}")
        widths = [width] + [hidden] * (layers - 1)
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            modules.append(nn.Linear(before, after, bias=not norm))
            if norm:
                modules.append(nn.BatchNorm1d(after))
            modules.append(nn.ReLU() if activation == "relu" else nn.GELU())
        modules.append(nn.Linear(widths[-1], out, bias=last_bias and not last_norm))
        if last_norm:
            modules.append(nn.BatchNorm1d(out, affine=False))
        super().__init__(*modules)


def dropout(x: Tensor, p: float, generator: torch.Generator, *, rows: bool = False) -> Tensor:
    """Dropout with an explicit generator; of whole rows if asked.

    Args:
        x: (N, D).
        p: share dropped, below 1; what stays is scaled by 1 / (1 - p).
        generator: on the device of ``x``.
        rows: drop whole rows.
    """
    if p == 0:
        return x
    shape = (len(x), 1) if rows else x.shape
    kept = torch.rand(shape, generator=generator, device=x.device) >= p
    return x * kept / (1 - p)
