"""Optimiser settings and learning-rate schedules, as pure functions of the step.

Stands below both ``methods`` and ``heads`` (which configure their optimisers with it) and above nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["Optim", "configure", "lr_factor"]


@dataclass(frozen=True)
class Optim:
    """How weights are updated.

    Attributes:
        lr: peak learning rate.
        weight_decay: AdamW's decoupled decay, or what SGD adds to the gradient; not applied to biases, norms and other
            1-D weights.
        betas: AdamW's moment decays.
        schedule: shape of the learning rate after warm-up.
        warmup: optimiser steps of linear warm-up from 0; a value below 1 is a fraction of all steps.
        algorithm: ``sgd`` has Nesterov momentum; nnU-Net: lr 0.01, weight_decay 3e-5, momentum 0.99, schedule poly,
            warmup 0.
        momentum: of SGD.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    warmup: float = 0.05
    algorithm: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.99


def lr_factor(step: int, *, total: int, warmup: float, schedule: str = "cosine") -> float:
    """Learning rate at ``step`` as a share of its peak.

    Linear ``s/W`` while ``s < W``; then ``½(1 + cos(π (s-W)/(T-W)))`` (cosine), ``(1 - (s-W)/(T-W))^0.9`` (poly) or 1.

    >>> [round(lr_factor(s, total=10, warmup=2), 2) for s in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    warm = warmup * total if warmup < 1 else warmup
    if step < warm:
        return step / warm
    progress = min(1.0, (step - warm) / max(1.0, total - warm))
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "poly":
        return float((1.0 - progress) ** 0.9)
    return 1.0


def configure(
    groups: Iterable[tuple[Sequence[tuple[str, torch.nn.Parameter]], float]],
    optim: Optim,
    total: int,
    *,
    steady: Sequence[tuple[str, torch.nn.Parameter]] = (),
    factor: Callable[[int], float] | None = None,
) -> dict[str, Any]:
    """What ``LightningModule.configure_optimizers`` returns: AdamW or SGD, and a per-step schedule.

    Args:
        groups: pairs of (named parameters, learning-rate multiplier).
        optim: the settings.
        total: optimiser steps of the whole training.
        steady: named parameters whose learning rate is the peak at every step.
        factor: learning rate at a step as a share of its peak; None follows the settings' schedule.
    """
    import torch

    def scheduled(step: int) -> float:
        if factor is not None:
            return factor(step)
        return lr_factor(step, total=total, warmup=optim.warmup, schedule=optim.schedule)

    def constant(step: int) -> float:
        return 1.0

    param_groups: list[dict[str, Any]] = []
    factors: list[Callable[[int], float]] = []
    chosen = [(named, scale, scheduled) for named, scale in groups] + [(steady, 1.0, constant)]
    for named, scale, law in chosen:
        for decay in (True, False):
            params = [p for _, p in named if p.requires_grad and (p.ndim > 1) == decay]
            if params:
                wd = optim.weight_decay if decay else 0.0
                param_groups.append({"params": params, "lr": optim.lr * scale, "weight_decay": wd})
                factors.append(law)
    optimizer: torch.optim.Optimizer
    if optim.algorithm == "sgd":
        optimizer = torch.optim.SGD(param_groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.momentum > 0)
    else:
        optimizer = torch.optim.AdamW(param_groups, lr=optim.lr, betas=optim.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
