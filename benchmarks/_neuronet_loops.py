"""NeuroNet's tokens and Mamba's recursion as they are published or read: frame by frame, step by step.

See ``_contrastive_loops.py``. Plain functions, for ``medssl/encoders/neuronet.py`` and ``medssl/encoders/mamba.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["scan_loops", "token_loops"]


def token_loops(encoder: Any, x: Tensor) -> Tensor:
    """Tokens (B, F, V) of windows (B, C, T): the convolutional network is called once a frame."""
    tokens = []
    start = 0
    while start + encoder.frame <= x.shape[2]:
        tokens.append(encoder.tokenizer(encoder.backbone(x[..., start : start + encoder.frame])))
        start += encoder.step
    return torch.stack(tokens, 1)


def scan_loops(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """y (B, L, E): one update of the states (B, E, N) a step, all of them kept for the backward pass."""
    state = x.new_zeros(len(x), *a.shape)
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * a)
        state = decay * state + delta[:, t, :, None] * b[:, t, None, :] * x[:, t, :, None]
        outputs.append((state * c[:, t, None, :]).sum(-1))
    return torch.stack(outputs, 1)
