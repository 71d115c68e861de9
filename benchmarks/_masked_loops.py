"""Masked reconstruction as its equations read: recording by recording, patch by patch, value by value.

See ``_contrastive_loops.py``. Plain functions of tensors, for ``medssl/objectives/masked_reconstruction.py``.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

__all__ = ["error_loops", "mask_loops", "patchify_loops", "target_loops"]


def patchify_loops(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Rows of patches (B, L, V) of inputs (B, C, *size), the channel fastest."""
    grid = [size // p for size, p in zip(x.shape[2:], patch, strict=True)]
    rows = []
    for recording in x:
        tokens = []
        for cell in product(*map(range, grid)):
            values = []
            for place in product(*map(range, patch)):
                where = tuple(c * p + i for c, p, i in zip(cell, patch, place, strict=True))
                values += [channel[where] for channel in recording]
            tokens.append(torch.stack(values))
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


def target_loops(tokens: Tensor, min_token_std: float = 0.02) -> Tensor:
    """Every patch (B, L, V) standardised by itself, with the unbiased variance (mae_st)."""
    targets = torch.empty_like(tokens)
    for b, row in enumerate(tokens):
        for i, values in enumerate(row):
            mean = values.sum() / len(values)
            variance = (values - mean).square().sum() / (len(values) - 1)
            targets[b, i] = (values - mean) / max(math.sqrt(float(variance) + 1e-6), min_token_std)
    return targets


def error_loops(prediction: Tensor, target: Tensor, hidden: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over hidden patches of the mean squared error in each; weights (B, L)."""
    total, share = prediction.new_zeros(()), 0.0
    for b, row in enumerate(hidden.tolist()):
        for i, is_hidden in enumerate(row):
            weight = 1.0 if weights is None else float(weights[b, i])
            if is_hidden and weight > 0:
                total = total + weight * (prediction[b, i] - target[b, i]).square().mean()
                share += weight
    return total / share if share else total


def mask_loops(noise: Tensor, ratio: float) -> Tensor:
    """Per recording the ⌊L (1 - ratio)⌋ cells with the least noise (B, L) stay visible."""
    hidden = torch.ones_like(noise, dtype=torch.bool)
    for b, row in enumerate(noise.tolist()):
        for cell in sorted(range(len(row)), key=row.__getitem__)[: int(len(row) * (1 - ratio))]:
            hidden[b, cell] = False
    return hidden
