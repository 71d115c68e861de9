"""Dropout that can be replayed: torch's dropout layers only know the global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block with torch's global generators of the CPU and of ``device`` seeded, and restore them afterwards.

    Inside a training step this ties the dropout of an encoder or head to the batch's own seed, so a resumed run
    equals an uninterrupted one.

    >>> with seeded(7, torch.device("cpu")):
    ...     a = torch.rand(2)
    >>> with seeded(7, torch.device("cpu")):
    ...     b = torch.rand(2)
    >>> bool((a == b).all())
    True
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
