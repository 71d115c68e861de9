"""Teachers: copies of a network that follow it slowly."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["distance", "ema_update", "frozen", "momentum_at"]


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, momentum: float, *, buffers: Literal["keep", "copy"] = "keep"
) -> None:
    """``θ_t ← momentum · θ_t + (1 - momentum) · θ_s`` over all parameters.

    Args:
        teacher: changed in place; same architecture as ``student``.
        student: read only.
        momentum: in [0, 1].
        buffers: running statistics and the like are left alone, or copied. Left alone they drift with the teacher's
            own forward passes.
    """
    targets: list[Tensor] = list(teacher.parameters())
    if targets:
        torch._foreach_lerp_(targets, list(student.parameters()), 1 - momentum)
    if buffers == "copy":
        for mine, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)


@torch.no_grad()
def distance(teacher: nn.Module, student: nn.Module) -> Tensor:
    """``‖θ_s - θ_t‖ / ‖θ_s‖`` over all parameters, a scalar; 0 for modules without any."""
    ours: list[Tensor] = list(student.parameters())
    theirs: list[Tensor] = list(teacher.parameters())
    if not ours:
        return torch.zeros(())
    apart = torch.stack(torch._foreach_norm(torch._foreach_sub(ours, theirs))).norm()
    size = torch.stack(torch._foreach_norm(ours)).norm()
    share: Tensor = apart / size.clamp_min(1e-12)
    return share


def momentum_at(progress: float, start: float) -> float:
    """Momentum that rises from ``start`` to 1 along a cosine: ``1 - (1 - m₀)(cos(πk/K) + 1)/2`` (BYOL, 2020).

    >>> [round(momentum_at(p, 0.9), 3) for p in (0, 0.5, 1)]
    [0.9, 0.95, 1.0]
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def frozen(module: nn.Module) -> nn.Module:
    """The module without gradients; it still moves with ``ema_update`` and is checkpointed."""
    return module.requires_grad_(False)
