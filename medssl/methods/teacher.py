"""Teachers: copies of a network that follow it slowly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ema_update", "frozen"]


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``θ_t ← momentum · θ_t + (1 - momentum) · θ_s`` over all parameters; buffers are left alone.

    Args:
        teacher: changed in place; same architecture as ``student``.
        student: read only.
        momentum: in [0, 1].
    """
    targets: list[Tensor] = list(teacher.parameters())
    torch._foreach_lerp_(targets, list(student.parameters()), 1 - momentum)


def frozen(module: nn.Module) -> nn.Module:
    """The module without gradients; it still moves with ``ema_update`` and is checkpointed."""
    return module.requires_grad_(False)
